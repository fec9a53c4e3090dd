"""What a night's subprocesses need from it: to be started, watched, told of in the ledger, and ended with it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Literal

from assistant.night_rows import PROGRESS
from assistant.progress import Progress, counted
from feedback.errors import RunError
from training.runs import RunLedger

HANG_SECONDS = 900.0
"""A subprocess that reports nothing for so long is taken for hung, and killed."""
BEAT_SECONDS = 3.0
"""Between two signs of life: each is a transaction that reaches the disk."""
GRACE_SECONDS = 60.0
"""How long a subprocess that is asked to end may take to write its checkpoint."""

Show = Callable[[Progress], None]
Read = Callable[[Path], Progress | None]
"""Reads from a run folder how far a stage is."""


class NightEnded(Exception):
    """The night ends here with this outcome."""

    def __init__(
        self, outcome: Literal["succeeded", "failed", "cancelled"], verdict: Literal["HOLD"] | None, reason: str
    ) -> None:
        super().__init__(reason)
        self.outcome: Literal["succeeded", "failed", "cancelled"] = outcome
        self.verdict: Literal["HOLD"] | None = verdict


class Stages:
    """The subprocesses of one run, one after the other."""

    def __init__(self, ledger: RunLedger, run_id: str, show: Show) -> None:
        self._ledger, self._run_id, self._show = ledger, run_id, show
        self._folder = ledger.folder(run_id)
        self._step, self._beaten = 0, 0.0  # training steps done; when the last sign of life was given

    def run(self, module: str, log: str, read: Read, *, stage: str) -> None:
        """Run a subprocess to its end, heartbeats given. Raises NightEnded when cancelled, RunError when it fails or hangs."""
        self._show(Progress(stage=stage, share=0.0))
        path = self._folder / log
        with path.open("ab") as file:
            process = subprocess.Popen(
                [sys.executable, "-m", module, str(self._folder), str(os.getpid())],
                stdout=file,
                stderr=file,
                stdin=subprocess.DEVNULL,
            )
        moved, last = time.monotonic(), ""
        try:
            while process.poll() is None:
                time.sleep(0.5)
                found = read(self._folder)
                if found is not None and repr(found) != last:
                    moved, last = time.monotonic(), repr(found)
                    self._show(found)
                self._beat(found)
                if self._ledger.cancel_requested(self._run_id):
                    raise NightEnded("cancelled", None, f"Cancelled while {stage.lower()}; what serves is unchanged.")
                if time.monotonic() - moved > HANG_SECONDS:
                    raise RunError(f"{stage} reported nothing for {HANG_SECONDS / 60:.0f} minutes and was stopped: see {path}.")
        finally:
            _end(process)
        self._beaten = 0.0  # the last step of a stage is told however soon it comes
        self._beat(read(self._folder))
        if process.returncode != 0:
            raise RunError(f"{stage} failed: {_last_line(path) or f'exit code {process.returncode}'} (see {path}).")

    def _beat(self, found: Progress | None) -> None:
        """Give a sign of life with the training step, unless one was given a moment ago."""
        if found is not None and found.step is not None:
            self._step = found.step
        if time.monotonic() - self._beaten >= BEAT_SECONDS:
            self._ledger.beat(self._run_id, self._step)
            self._beaten = time.monotonic()


def training_progress(folder: Path) -> Progress | None:
    """Return how far the training is, by the last line of its progress; None before the first."""
    line = _last_line(folder / "progress.jsonl")
    try:
        data = json.loads(line)
        share = data["step"] / max(1, data["steps"])
        detail = f"step {data['step']}/{data['steps']}, loss {data['loss']:.3f}, {data['tokens_s']:.0f} tokens/s"
        return Progress(stage="Training", share=share, detail=detail, eta_s=data.get("eta_s"), step=int(data["step"]))
    except (ValueError, KeyError, TypeError):
        return None


def rows_progress(folder: Path) -> Progress | None:
    """Return how many questions have been laid out."""
    return counted(folder / PROGRESS, "Preparing", "questions")


def examination_progress(folder: Path) -> Progress | None:
    """Return how many answers have been given."""
    return counted(folder / "examination.progress", "Examining", "answers")


def _end(process: subprocess.Popen[bytes]) -> None:
    """End a subprocess that still runs: ask first, so that it can write a checkpoint."""
    if process.poll() is not None:
        return
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(GRACE_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _last_line(path: Path) -> str:
    """Return the last complete line of a file; "" when there is none."""
    try:
        with path.open("rb") as file:
            file.seek(0, os.SEEK_END)
            file.seek(max(0, file.tell() - 4096))
            lines = [line for line in file.read().decode("utf-8", "replace").splitlines() if line.strip()]
    except OSError:
        return ""
    return lines[-1] if lines else ""
