"""The progress of a run, as its trainer wrote it: one record a step, and all of them as a table for a spreadsheet."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

Item = TypeVar("Item")

PROGRESS, RESULT, PREPARED = "progress.jsonl", "result.json", "night.json"
"""Files of a run folder: what a training tells while it goes on, how it ended, and what the night set out to do."""


@dataclass(frozen=True, kw_only=True)
class ProgressLine:
    """One step of a training. None: not told, by an older version or because it could not be read.

    `loss` and `eval_loss` (on held-out rows) are means; of examples, in nats a labelled token. `tokens` counts those trained
    on so far, `eta_s` is the time left. The machine's readings are explained in `training.monitor`; an energy is what was
    spent since the line before. `at` is the time in seconds since 1970.
    """

    step: int
    steps: int | None = None
    stage: str = "sft"
    loss: float
    eval_loss: float | None = None
    learning_rate: float | None = None
    grad_norm: float | None = None
    tokens: int | None = None
    tokens_s: float | None = None
    eta_s: float | None = None
    cpu_percent: float | None = None
    machine_percent: float | None = None
    rss_mb: float | None = None
    available_mb: float | None = None
    disk_free_mb: float | None = None
    gpu_percent: float | None = None
    gpu_mb: float | None = None
    gpu_watts: float | None = None
    cpu_watts: float | None = None
    cpu_energy_j: float | None = None
    gpu_energy_j: float | None = None
    at: float | None = None


_WHOLE = frozenset({"step", "steps", "tokens"})
_NUMBERS = tuple(field.name for field in fields(ProgressLine) if field.name != "stage")
HEADS = {"tokens_s": "tokens_per_s", "at": "at_utc"}
"""The columns of the CSV that are named otherwise than the fields."""


def read_progress(folder: Path) -> list[ProgressLine]:
    """Return the steps of the run in `folder`, in order; [] without any.

    A line that is not whole (yet), or not a step, is left out. Of several lines about one step the last one counts: after a
    crash a step may come again.
    """
    try:
        text = (folder / PROGRESS).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return []
    steps: dict[int, dict[str, Any]] = {}
    for line in text.splitlines():
        values = _values(line)
        if values is not None:
            steps[values["step"]] = values
    return [ProgressLine(**steps[step]) for step in sorted(steps)]


def read_notes(folder: Path) -> list[str]:
    """Return the sentences in which a night and its trainer say what they did otherwise than they were asked; [] without any."""
    notes = _said(folder / RESULT, "notes")
    return [note for note in (_said(folder / PREPARED, "note"), *(notes if isinstance(notes, list) else [])) if _is_said(note)]


def _said(file: Path, key: str) -> Any:
    """Return what a JSON file of a run folder has under a key; None where it cannot be read."""
    try:
        return json.loads(file.read_text("utf-8")).get(key)
    except (OSError, ValueError, AttributeError):
        return None


def _is_said(note: Any) -> bool:
    return isinstance(note, str) and bool(note)


def has_progress(folder: Path) -> bool:
    """Say whether a run wrote any progress, without reading it."""
    path = folder / PROGRESS
    return path.is_file() and path.stat().st_size > 0


def _values(line: str) -> dict[str, Any] | None:
    """Return what a line tells, as the fields of ProgressLine; None when it is not a whole step."""
    try:
        data = json.loads(line)
    except ValueError:
        return None
    if not isinstance(data, dict):
        return None
    values: dict[str, Any] = {name: data[name] for name in _NUMBERS if _is_number(data.get(name))}
    if "step" not in values or "loss" not in values:
        return None
    values.update({name: int(values[name]) for name in _WHOLE & set(values)})
    if isinstance(data.get("stage"), str):
        values["stage"] = data["stage"]
    return values


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def to_csv(lines: Iterable[ProgressLine]) -> str:
    """Return the steps as CSV: one header whose names end with their units, one row a step, an empty cell for None."""
    names = [field.name for field in fields(ProgressLine)]
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow([HEADS.get(name, name) for name in names])
    for line in lines:
        writer.writerow([_cell(name, getattr(line, name)) for name in names])
    return out.getvalue()


def _cell(name: str, value: Any) -> Any:
    if value is None:
        return ""
    if name == "at":
        return datetime.fromtimestamp(value, UTC).isoformat(timespec="milliseconds")
    # a spreadsheet takes a text that begins with one of these for a formula
    return f"'{value}" if isinstance(value, str) and value[:1] in "=+-@" else value


def thinned(items: Sequence[Item], *, most: int) -> list[Item]:
    """Return at most `most` + 1 of the items, evenly chosen, the last one always."""
    stride = max(1, -(-len(items) // most))
    chosen = list(items[::stride])
    return chosen if (len(items) - 1) % stride == 0 else [*chosen, items[-1]]
