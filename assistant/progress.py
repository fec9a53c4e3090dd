"""One progress line for long commands, on stderr: what is done, how far, and how long it still takes."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self


@dataclass(frozen=True, kw_only=True)
class Progress:
    """How far a stage is. `share` is in [0, 1]; `eta_s` is seconds for this stage, None when it cannot be told.

    `step` counts training steps done; None in the other stages.
    """

    stage: str
    share: float
    detail: str = ""
    eta_s: float | None = None
    step: int | None = None


def counts_into(path: Path) -> Callable[[int, int], None]:
    """Return what a subprocess tells how much is done of how much: it stands in `path`, for `counted` to read."""

    def tell(done: int, total: int) -> None:
        path.write_text(json.dumps({"done": done, "total": total}), encoding="utf-8")

    return tell


def counted(path: Path, stage: str, things: str) -> Progress | None:
    """Return what `counts_into` left in `path`, as the progress of a stage; None before it did."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        detail = f"{data['done']}/{data['total']} {things}"
        return Progress(stage=stage, share=data["done"] / max(1, data["total"]), detail=detail)
    except (OSError, ValueError, KeyError):
        return None


class NightBar:
    """Shows Progress as a bar on a terminal, and as one line a stage elsewhere."""

    def __init__(self) -> None:
        self._bar: Any = None
        self._task: Any = None
        self._stage = ""
        self._started = time.monotonic()

    def __enter__(self) -> Self:
        if sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, TextColumn, TimeElapsedColumn
            from rich.progress import Progress as RichProgress

            self._bar = RichProgress(
                TextColumn("{task.description}"),
                BarColumn(),
                TextColumn("{task.percentage:3.0f} %"),
                TimeElapsedColumn(),
                TextColumn("{task.fields[detail]}"),
                console=Console(stderr=True),
            )
            self._bar.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._bar is not None:
            self._bar.stop()

    def show(self, progress: Progress) -> None:
        """Show a progress; the callback that long work is given."""
        left = "" if progress.eta_s is None else f"about {max(1, round(progress.eta_s / 60))} min left"
        detail = ", ".join(part for part in (progress.detail, left) if part)
        if self._bar is None:
            if progress.stage != self._stage:
                seconds = time.monotonic() - self._started
                print(f"[{seconds:6.0f} s] {progress.stage} {detail}".rstrip(), file=sys.stderr, flush=True)
                self._stage = progress.stage
            return
        if progress.stage != self._stage:
            if self._task is not None:
                self._bar.update(self._task, completed=100, detail="")
            self._task = self._bar.add_task(progress.stage, total=100, detail="")
            self._stage = progress.stage
        self._bar.update(self._task, completed=100 * progress.share, detail=detail)


class DocumentBar(NightBar):
    """Shows how far the reading and the encoding of documents are, with the time that is left at the pace so far."""

    def __init__(self) -> None:
        super().__init__()
        self._stage_started = time.monotonic()
        self._last_stage = ""

    def read(self, done: int, total: int, name: str) -> None:
        """Show that `done` of `total` files were read."""
        self._count("Reading", done, total, name)

    def encoded(self, done: int, total: int) -> None:
        """Show that `done` of `total` passages were encoded."""
        self._count("Encoding", done, total, f"{done:,} of {total:,} passages")

    def answered(self, done: int, total: int, stage: str) -> None:
        """Show that `done` of `total` questions were answered."""
        self._count(stage, done, total, f"{done:,} of {total:,} questions")

    def _count(self, stage: str, done: int, total: int, detail: str) -> None:
        if stage != self._last_stage:
            self._last_stage, self._stage_started = stage, time.monotonic()
        eta = (time.monotonic() - self._stage_started) / done * (total - done) if done else None
        self.show(Progress(stage=stage, share=done / max(total, 1), detail=detail, eta_s=eta))
