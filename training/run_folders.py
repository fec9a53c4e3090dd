"""The folders of nights: one that was cut off is gone on with by the next night, and old ones are pruned.

A night is prepared when its rows, questions and settings lie in its folder; `night.json` is written last and says so. The
checkpoints and the adapter of a finished night are of no use (a published version is a copy), and most of a folder's size.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from feedback.errors import RunError
from training.checkpoints import newest
from training.durable import sync
from training.progress_lines import PREPARED, PROGRESS, RESULT
from training.run_ids import run_number
from training.runs import Run, RunLedger
from training.trainer import trainer_lock, write_flushed

RESUMABLE_HOURS = 12
"""A night that was cut off is gone on with for so long; a later one begins anew, with what was rated since."""
LET_GO_SECONDS = 15.0
"""How long the trainer of a night that died may take to notice: it looks every few seconds."""

_TAKEN = ("dataset", "config.json", "plan.json", "checkpoints", PROGRESS, "adapter", RESULT)
_HEAVY = ("checkpoints", "adapter")


def write_prepared(folder: Path, settings: Mapping[str, Any], *, note: str = "") -> None:
    """Say that a night is prepared, with what its rows and its training hang on; `note` goes into its report."""
    for file in folder.iterdir():
        sync(file)
    write_flushed(folder / PREPARED, json.dumps({"settings": settings, "note": note}))
    sync(folder)


def cut_off(ledger: RunLedger, run_id: str, settings: Mapping[str, Any], *, now: datetime | None = None) -> Run | None:
    """Return the night just before `run_id` that this one can go on with; None when there is none.

    It was abandoned within the last hours, prepared by the same settings, left a checkpoint or an adapter, and published none.
    """
    earlier = next((run for run in ledger.runs() if run.id != run_id and run.outcome != "missed"), None)
    if earlier is None or earlier.outcome != "abandoned" or earlier.candidate:
        return None
    if (now or datetime.now(UTC)) - datetime.fromisoformat(earlier.heartbeat_at) > timedelta(hours=RESUMABLE_HOURS):
        return None
    folder = ledger.folder(earlier.id)
    try:
        kept = json.loads((folder / PREPARED).read_text("utf-8"))["settings"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    has_more = (folder / "adapter").is_dir() or newest(folder / "checkpoints") is not None
    return earlier if has_more and kept == json.loads(json.dumps(settings)) else None


def take_over(earlier: Path, folder: Path, *, also: Sequence[str] = (), wait: float = LET_GO_SECONDS) -> bool:
    """Move what an abandoned night prepared and trained, and the files `also`, into the folder of the one that goes on with it.

    False, and nothing is moved, where its trainer does not end within `wait` seconds. `night.json` is left behind: a night
    that is killed while it moves is not gone on with.
    """
    until = time.monotonic() + wait
    while True:
        try:
            with trainer_lock(earlier):
                for name in (*_TAKEN, *also):
                    if (earlier / name).exists():
                        (earlier / name).replace(folder / name)
            return True
        except RunError:
            if time.monotonic() >= until:
                return False
            time.sleep(0.5)


def prune_runs(ledger: RunLedger, runs: Path, *, keep_days: int, now: datetime | None = None) -> None:
    """Delete the checkpoints of finished nights below `runs`, and folders older than `keep_days` (0: none) altogether.

    A night that can still be gone on with is left alone, and so is a folder that is no run's. What cannot be deleted stays.
    """
    moment = now or datetime.now(UTC)
    for folder in sorted(runs.glob("r*")):
        run = _finished(ledger, folder.name)
        if run is None:
            continue
        age = moment - datetime.fromisoformat(run.heartbeat_at)
        if keep_days and age > timedelta(days=keep_days):
            shutil.rmtree(folder, ignore_errors=True)
        elif run.outcome != "abandoned" or age > timedelta(hours=RESUMABLE_HOURS):
            for name in _HEAVY:
                shutil.rmtree(folder / name, ignore_errors=True)


def _finished(ledger: RunLedger, name: str) -> Run | None:
    """Return the run of a folder where it is over; None for a folder that is no run's."""
    if run_number(name) is None:
        return None
    try:
        run = ledger.run(name)
    except RunError:
        return None
    return run if run.outcome is not None else None
