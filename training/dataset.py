"""The snapshot that a night trains on: immutable JSONL with a content hash, and a data card.

    dataset/examples.jsonl   one row a line: {"id", "prompt": [messages], "completion": [message], "source", "turn_id", "weight"}
    dataset/pairs.jsonl      where there are any: {"id", "prompt": [messages], "chosen": [message], "rejected": [message]}
    dataset/thumbs.jsonl     where there are any: {"id", "prompt": [messages], "completion": [message], "label": true or false}
    dataset/card.json        where the rows come from, what was left out and why, and the hashes of the files

The card is written last: a folder without one holds no snapshot. People appear in it only as hashes of their ids.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypedDict

from feedback.errors import RunError
from training.curation import Example, Refusal
from training.durable import sync
from training.preference_rows import Pair, Thumb

ROWS_FILE = "examples.jsonl"
PAIRS_FILE = "pairs.jsonl"
THUMBS_FILE = "thumbs.jsonl"
CARD_FILE = "card.json"
LEAST_OF_SHARE = 0.5
"""What of its share a source keeps when there are more rated examples than the time budget allows: every night includes it."""


class Row(TypedDict):
    """One line of a snapshot, in the shape that TRL takes: prompt and completion in the OpenAI shape."""

    id: str
    prompt: list[dict[str, str]]
    completion: list[dict[str, str]]
    source: str
    turn_id: str
    weight: float


class PairRow(TypedDict):
    """One preference pair, in the shape that TRL's DPOTrainer takes."""

    id: str
    prompt: list[dict[str, str]]
    chosen: list[dict[str, str]]
    rejected: list[dict[str, str]]


class ThumbRow(TypedDict):
    """One desirable or undesirable answer, in the shape that TRL's KTOTrainer takes."""

    id: str
    prompt: list[dict[str, str]]
    completion: list[dict[str, str]]
    label: bool


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """A dataset as it lies on disk. `sha256` is of the rows; `counts` are rows by source."""

    path: Path
    sha256: str
    rows: int
    counts: dict[str, int]
    pairs: int = 0
    thumbs: int = 0


def write_snapshot(
    examples: Sequence[Example],
    folder: Path,
    *,
    refusals: Sequence[Refusal] = (),
    max_rows: int | None = None,
    seed: int = 0,
    pairs: Sequence[Pair] = (),
    thumbs: Sequence[Thumb] = (),
    shares: Mapping[str, float] | None = None,
    notes: Mapping[str, Any] | None = None,
) -> Snapshot:
    """Write the examples, and pairs and thumbs where there are any, into `folder`, which must not hold a snapshot yet.

    More than `max_rows` are sampled without replacement by their weights (Efraimidis and Spirakis 2006), the same for the
    same seed; the order is kept. `shares` are those that were asked of the sources (see `mix`): the card says what
    came of them. `notes` go into the card as they are. Raises RunError when there is a snapshot already, when there is nothing
    to write, and when the disk refuses.
    """
    if not examples:
        raise RunError("There is no example to write: rate or correct answers first.")
    if (folder / CARD_FILE).exists():
        raise RunError(f"{folder} holds a snapshot already, and snapshots never change: write to another folder.")
    chosen = _sample(examples, max_rows=max_rows, seed=seed)
    content = _lines(_row(example) for example in chosen)
    more = {
        name: rows
        for name, rows in (
            (PAIRS_FILE, _lines(_pair_row(pair) for pair in pairs)),
            (THUMBS_FILE, _lines(_thumb_row(thumb) for thumb in thumbs)),
        )
        if rows
    }
    digest = hashlib.sha256(content).hexdigest()
    counts: dict[str, int] = dict(sorted(Counter(example.source for example in chosen).items()))
    card = {
        "sha256": digest,
        "rows": len(chosen),
        "sampled_from": len(examples),
        "seed": seed,
        "rows_by_source": counts,
        "shares": {
            "asked": dict(shares or {}),
            "got": {source: round(count / len(chosen), 4) for source, count in counts.items()},
        },
        "rows_by_user": dict(sorted(Counter(user_hash(each.user_id) for each in chosen if each.user_id).items())),
        "pairs": len(pairs),
        "thumbs": {"desirable": sum(thumb.label for thumb in thumbs), "undesirable": sum(not thumb.label for thumb in thumbs)},
        "sha256_of": {name: hashlib.sha256(rows).hexdigest() for name, rows in more.items()},
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
        for name, rows in {ROWS_FILE: content, **more}.items():
            _write(folder / name, rows)
        _write(folder / CARD_FILE, (json.dumps(card, ensure_ascii=False, indent=2) + "\n").encode())
        sync(folder)
    except OSError as error:
        raise RunError(
            f"The dataset cannot be written to {folder} ({error.strerror}): free space or check the rights."
        ) from error
    return Snapshot(path=folder, sha256=digest, rows=len(chosen), counts=counts, pairs=len(pairs), thumbs=len(thumbs))


def mix(
    examples: Sequence[Example],
    others: Mapping[str, Sequence[Example]],
    shares: Mapping[str, float],
    *,
    max_rows: int | None = None,
    seed: int = 0,
) -> list[Example]:
    """Return the rated examples with so many rows of each other source that it makes its share of them all.

    `shares` are in [0, 1) by source, below 1 together; a source without one gives nothing, and one that has too few rows gives
    what it has. Without rated examples the source with the largest share is taken whole, and sets the measure for the others.
    Past `max_rows` the others give way first, down to `LEAST_OF_SHARE` of their shares; then the rated ones are drawn by
    weight. The same for the same rows and seed; rated examples first, each source in its order. Raises RunError for shares
    that leave the ratings no part.
    """
    wanted = rows_wanted(len(examples), {source: len(rows) for source, rows in others.items()}, shares, max_rows=max_rows)
    taken = {source: _sample(others[source], max_rows=count, seed=seed) for source, count in wanted.items()}
    room = None if max_rows is None else max(0, max_rows - sum(map(len, taken.values())))
    kept = _sample(examples, max_rows=room, seed=seed)
    return [*kept, *(row for rows in taken.values() for row in rows)]


def rows_wanted(
    rated: int, available: Mapping[str, int], shares: Mapping[str, float], *, max_rows: int | None = None
) -> dict[str, int]:
    """Return how many rows `mix` takes of each other source, by the number of rated examples and of rows that there are.

    Raises RunError for shares that leave the ratings no part.
    """
    used = {source: shares[source] for source, count in available.items() if count and shares.get(source, 0) > 0}
    if sum(used.values()) >= 1 and rated:
        raise RunError(f"The shares of {', '.join(used)} are {sum(used.values()):.2f} together: leave the ratings a part of 1.")
    if not used:
        return {}
    if rated:
        rows = rated / (1 - sum(used.values()))
    else:
        largest = max(used, key=lambda source: used[source])
        used = {source: share / sum(used.values()) for source, share in used.items()}
        rows = available[largest] / used[largest]
    wanted = {source: min(round(share * rows), available[source]) for source, share in used.items()}
    if max_rows is None or rated + sum(wanted.values()) <= max_rows:
        return wanted
    scale = max(0, max_rows - rated) / sum(wanted.values())
    least = {source: min(wanted[source], round(LEAST_OF_SHARE * share * max_rows)) for source, share in used.items()}
    return {source: max(least[source], int(count * scale)) for source, count in wanted.items()}


def rows_within(minutes: float, earlier: Path) -> int | None:
    """Return how many rows a training of `minutes` goes through at the pace of an earlier one, by the files of its run folder.

    Where pairs or thumbs followed the examples in the earlier training, they get their part of the minutes. None where the
    pace is not known: then nothing is left out, and the trainer stops when its time is over.
    """
    try:
        result, recipe = (json.loads((earlier / name).read_text("utf-8")) for name in ("result.json", "config.json"))
        stages = result.get("stages", {})
        figures = stages["sft"] if stages else result
        # an earlier release did not count the rows; of a step they are those of all its batches
        rows = figures.get("trained_rows") or figures["steps"] * recipe["batch_size"] * recipe.get("accumulation", 1)
        share = 1 - recipe["preference_share"] if len(stages) > 1 else 1.0
        return max(1, int(share * minutes * 60 * rows * figures["tokens_s"] / figures["tokens"]))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, ZeroDivisionError):
        return None


def open_snapshot(folder: Path) -> Snapshot:
    """Open a snapshot and verify its hash. Raises RunError for a folder that holds none, or a changed one."""
    return _read(folder)[0]


def read_snapshot(folder: Path) -> list[Row]:
    """Return the rows of a snapshot, in their order, verified. Raises RunError as `open_snapshot` does."""
    rows: list[Row] = [json.loads(line) for line in _read(folder)[1].decode().split("\n") if line]
    return rows


def read_pairs(folder: Path) -> list[PairRow]:
    """Return the preference pairs of a snapshot, verified; none where it has none. Raises RunError as `open_snapshot` does."""
    rows: list[PairRow] = _read_more(folder, PAIRS_FILE)
    return rows


def read_thumbs(folder: Path) -> list[ThumbRow]:
    """Return the thumbs of a snapshot, verified; none where it has none. Raises RunError as `open_snapshot` does."""
    rows: list[ThumbRow] = _read_more(folder, THUMBS_FILE)
    return rows


def user_hash(user_id: str) -> str:
    """Return what stands for a person in a data card: the same for the same person, and no name."""
    return hashlib.sha256(f"nightschool user {user_id}".encode()).hexdigest()[:12]


def _read_more(folder: Path, name: str) -> list[Any]:
    try:
        digest = json.loads((folder / CARD_FILE).read_text(encoding="utf-8")).get("sha256_of", {}).get(name)
        content = b"" if digest is None else (folder / name).read_bytes()
    except FileNotFoundError as error:
        raise RunError(f"{folder} holds no whole snapshot ({Path(error.filename).name} is missing): curate again.") from error
    except (OSError, ValueError, AttributeError) as error:
        raise RunError(f"The data card of {folder} cannot be read ({error!r}): curate again.") from error
    if digest is not None and hashlib.sha256(content).hexdigest() != digest:
        raise RunError(f"{folder / name} is not what its data card describes: it was changed. Curate again.")
    return [json.loads(line) for line in content.decode().split("\n") if line]


def _read(folder: Path) -> tuple[Snapshot, bytes]:
    try:
        card = json.loads((folder / CARD_FILE).read_text(encoding="utf-8"))
        content = (folder / ROWS_FILE).read_bytes()
        snapshot = Snapshot(
            path=folder,
            sha256=card["sha256"],
            rows=card["rows"],
            counts=card["rows_by_source"],
            pairs=card.get("pairs", 0),  # none in a card of an earlier release
            thumbs=sum(card.get("thumbs", {}).values()),
        )
    except FileNotFoundError as error:
        raise RunError(f"{folder} holds no whole snapshot ({Path(error.filename).name} is missing): curate again.") from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RunError(f"The data card of {folder} cannot be read ({error!r}): curate again.") from error
    if hashlib.sha256(content).hexdigest() != snapshot.sha256:
        raise RunError(f"The rows of {folder} are not those that its data card describes: they were changed. Curate again.")
    return snapshot, content


def _lines(rows: Iterable[Row | PairRow | ThumbRow]) -> bytes:
    return "".join(json.dumps(row, ensure_ascii=False, sort_keys=True) + "\n" for row in rows).encode()


def _said(text: str) -> list[dict[str, str]]:
    return [{"role": "assistant", "content": text}]


def _pair_row(pair: Pair) -> PairRow:
    prompt = [message.as_dict() for message in pair.prompt]
    return PairRow(id=pair.id, prompt=prompt, chosen=_said(pair.chosen), rejected=_said(pair.rejected))


def _thumb_row(thumb: Thumb) -> ThumbRow:
    prompt = [message.as_dict() for message in thumb.prompt]
    return ThumbRow(id=thumb.id, prompt=prompt, completion=_said(thumb.completion), label=thumb.label)


def _row(example: Example) -> Row:
    return Row(
        id=example.id,
        prompt=[message.as_dict() for message in example.prompt],
        completion=_said(example.completion),
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
