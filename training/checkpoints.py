"""Checkpoints that a crash cannot spoil: complete ones carry a marker that was written after everything else was on disk.

The trainer library writes a checkpoint in place and never flushes it, and resumes from the highest number unchecked.
Here a folder counts only with its COMPLETE file, which is written last and holds the seconds trained so far.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

from training.durable import sync

MARKER = "COMPLETE"
KEPT = 2
"""How many complete checkpoints stay: the newest, and one in case the disk loses it."""


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A complete checkpoint: its folder, the steps it holds, the seconds they took, and how many steps were expected in all."""

    path: Path
    step: int
    seconds: float
    expected: int | None = None


def mark_complete(folder: Path, *, step: int, seconds: float, expected: int | None = None) -> None:
    """Flush every file of `folder`, then write its marker and flush that."""
    for file in folder.rglob("*"):
        sync(file)
    sync(folder)
    partial = folder / f"{MARKER}.partial"
    partial.write_text(json.dumps({"step": step, "seconds": seconds, "expected": expected}), "utf-8")
    sync(partial)
    partial.replace(folder / MARKER)
    sync(folder)
    sync(folder.parent)


def newest(folder: Path) -> Checkpoint | None:
    """Return the complete checkpoint with the most steps, or None; unreadable markers count as missing."""
    found = [checkpoint for path in folder.glob("checkpoint-*") if (checkpoint := _read(path)) is not None]
    return max(found, key=lambda checkpoint: checkpoint.step, default=None)


def prune(folder: Path, *, keep: int = KEPT) -> None:
    """Delete incomplete checkpoints, and complete ones but the newest few."""
    paths = list(folder.glob("checkpoint-*"))
    complete = {path: checkpoint for path in paths if (checkpoint := _read(path)) is not None}
    kept = sorted(complete, key=lambda path: -complete[path].step)[:keep]
    for path in paths:
        if path not in kept:
            (path / MARKER).unlink(missing_ok=True)  # first, so that a kill during the deletion leaves no half that counts
            shutil.rmtree(path)


def _read(path: Path) -> Checkpoint | None:
    try:
        content = json.loads((path / MARKER).read_text("utf-8"))
        return Checkpoint(
            path=path, step=int(content["step"]), seconds=float(content["seconds"]), expected=content.get("expected")
        )
    except (OSError, ValueError, KeyError, TypeError):
        return None
