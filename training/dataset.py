"""The snapshot that a night trains on: immutable JSONL with a content hash, and a data card.

    dataset/examples.jsonl   one row a line: {"id", "prompt": [messages], "completion": [message], "source", "turn_id", "weight"}
    dataset/card.json        where the rows come from, what was left out and why, and the hash of examples.jsonl

The card is written last: a folder without one holds no snapshot. People appear in it only as hashes of their ids.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypedDict

from feedback.errors import RunError
from training.curation import Example, Refusal
from training.durable import sync

ROWS_FILE = "examples.jsonl"
CARD_FILE = "card.json"


class Row(TypedDict):
    """One line of a snapshot, in the shape that TRL takes: prompt and completion in the OpenAI shape."""

    id: str
    prompt: list[dict[str, str]]
    completion: list[dict[str, str]]
    source: str
    turn_id: str
    weight: float


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """A dataset as it lies on disk. `sha256` is of the rows; `counts` are rows by source."""

    path: Path
    sha256: str
    rows: int
    counts: dict[str, int]


def write_snapshot(
    examples: Sequence[Example],
    folder: Path,
    *,
    refusals: Sequence[Refusal] = (),
    max_rows: int | None = None,
    seed: int = 0,
    notes: Mapping[str, Any] | None = None,
) -> Snapshot:
    """Write the examples into `folder`, which must not hold a snapshot yet.

    More than `max_rows` are sampled without replacement by their weights (Efraimidis and Spirakis 2006), the same for the
    same seed; the order is kept. `notes` go into the card as they are. Raises RunError when there is a snapshot already,
    when there is nothing to write, and when the disk refuses.
    """
    if not examples:
        raise RunError("There is no example to write: rate or correct answers first.")
    if (folder / CARD_FILE).exists():
        raise RunError(f"{folder} holds a snapshot already, and snapshots never change: write to another folder.")
    chosen = _sample(examples, max_rows=max_rows, seed=seed)
    lines = [json.dumps(_row(example), ensure_ascii=False, sort_keys=True) + "\n" for example in chosen]
    content = "".join(lines).encode()
    digest = hashlib.sha256(content).hexdigest()
    counts: dict[str, int] = dict(sorted(Counter(example.source for example in chosen).items()))
    card = {
        "sha256": digest,
        "rows": len(chosen),
        "sampled_from": len(examples),
        "seed": seed,
        "rows_by_source": counts,
        "rows_by_user": dict(sorted(Counter(user_hash(example.user_id) for example in chosen).items())),
        "refused_by_reason": dict(Counter(refusal.reason for refusal in refusals).most_common()),
        "completion_characters": {
            "mean": round(sum(len(example.completion) for example in chosen) / len(chosen), 1),
            "longest": max(len(example.completion) for example in chosen),
        },
        "created_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "notes": dict(notes or {}),
    }
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _write(folder / ROWS_FILE, content)
        _write(folder / CARD_FILE, (json.dumps(card, ensure_ascii=False, indent=2) + "\n").encode())
        sync(folder)
    except OSError as error:
        raise RunError(
            f"The dataset cannot be written to {folder} ({error.strerror}): free space or check the rights."
        ) from error
    return Snapshot(path=folder, sha256=digest, rows=len(chosen), counts=counts)


def rows_within(minutes: float, earlier: Path) -> int | None:
    """Return how many rows a training of `minutes` goes through at the pace of an earlier one, by the files of its run folder.

    None where that is not known: then nothing is left out, and the trainer stops when its time is over.
    """
    try:
        figures = json.loads((earlier / "result.json").read_text("utf-8"))
        rows = figures["steps"] * json.loads((earlier / "config.json").read_text("utf-8"))["batch_size"]
        seconds = figures["tokens"] / figures["tokens_s"]
        return max(1, int(minutes * 60 * rows / seconds))
    except (OSError, ValueError, KeyError, TypeError, ZeroDivisionError):
        return None


def open_snapshot(folder: Path) -> Snapshot:
    """Open a snapshot and verify its hash. Raises RunError for a folder that holds none, or a changed one."""
    return _read(folder)[0]


def read_snapshot(folder: Path) -> list[Row]:
    """Return the rows of a snapshot, in their order, verified. Raises RunError as `open_snapshot` does."""
    rows: list[Row] = [json.loads(line) for line in _read(folder)[1].decode().split("\n") if line]
    return rows


def user_hash(user_id: str) -> str:
    """Return what stands for a person in a data card: the same for the same person, and no name."""
    return hashlib.sha256(f"nightschool user {user_id}".encode()).hexdigest()[:12]


def _read(folder: Path) -> tuple[Snapshot, bytes]:
    try:
        card = json.loads((folder / CARD_FILE).read_text(encoding="utf-8"))
        content = (folder / ROWS_FILE).read_bytes()
        snapshot = Snapshot(path=folder, sha256=card["sha256"], rows=card["rows"], counts=card["rows_by_source"])
    except FileNotFoundError as error:
        raise RunError(f"{folder} holds no whole snapshot ({Path(error.filename).name} is missing): curate again.") from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RunError(f"The data card of {folder} cannot be read ({error!r}): curate again.") from error
    if hashlib.sha256(content).hexdigest() != snapshot.sha256:
        raise RunError(f"The rows of {folder} are not those that its data card describes: they were changed. Curate again.")
    return snapshot, content


def _row(example: Example) -> Row:
    return Row(
        id=example.id,
        prompt=[message.as_dict() for message in example.prompt],
        completion=[{"role": "assistant", "content": example.completion}],
        source=example.source,
        turn_id=example.turn_id,
        weight=example.weight,
    )


def _sample(examples: Sequence[Example], *, max_rows: int | None, seed: int) -> list[Example]:
    if max_rows is None or len(examples) <= max_rows:
        return list(examples)
    draw = random.Random(seed)
    # each key is drawn in the order of the rows, so the sample depends on nothing but rows and seed
    keys = [draw.random() ** (1 / example.weight) for example in examples]
    chosen = sorted(range(len(examples)), key=lambda place: keys[place], reverse=True)[:max_rows]
    return [examples[place] for place in sorted(chosen)]


def _write(path: Path, content: bytes) -> None:
    """Write a file whole or not at all, on disk when this returns, and read-only."""
    partial = path.with_name(path.name + ".partial")
    with partial.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    partial.chmod(0o444)
    partial.replace(path)
