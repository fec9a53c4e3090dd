"""The disk under a training: checkpoints are written while there is room, and the adapter's room is taken beforehand."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Callable
from pathlib import Path

from feedback.errors import RunError
from training.checkpoints import prune

MARGIN = 64 * 2**20
"""Bytes that stay free for what else the machine writes."""
CHECKPOINT_EXTRA, ADAPTER_EXTRA = 8 * 2**20, 2**18
"""Bytes beside the weights: the tokenizer's files and the trainer's state; an adapter's config and names."""
_RESERVE = "adapter.reserve"


def free_bytes(folder: Path) -> int:
    """Return the bytes that this process may still write where `folder` is."""
    return shutil.disk_usage(folder).free


class Room:
    """The free space of one run's disk. `adapter` and `checkpoint` are the bytes of what is saved at the end, and now and then.

    What it did about a full disk stands in `notes`, a sentence each.
    """

    def __init__(self, run: Path, *, adapter: int, checkpoint: int, free: Callable[[Path], int] = free_bytes) -> None:
        self.notes: list[str] = []
        self._run, self._adapter, self._checkpoint, self._free = run, adapter, checkpoint, free

    def hold(self) -> None:
        """Take the adapter's room now, so that nothing else can. Raises RunError when there is not so much."""
        file = self._run / _RESERVE
        file.unlink(missing_ok=True)
        if self._free(self._run) < self._adapter + MARGIN:
            self._refuse()
        try:
            with file.open("wb") as writer:
                os.posix_fallocate(writer.fileno(), 0, self._adapter)
        except OSError:
            file.unlink(missing_ok=True)
            self._refuse()

    def _refuse(self) -> None:
        raise RunError(
            f"The adapter needs {_mb(self._adapter + MARGIN)} MB on the disk of {self._run.parent}, and "
            f"{_mb(self._free(self._run))} MB are free: free some space."
        )

    def has(self, size: int) -> bool:
        """Say whether so many bytes can be written beside a checkpoint."""
        return self._free(self._run) >= size + self._checkpoint + MARGIN

    def checkpoint_fits(self, folder: Path) -> bool:
        """Say whether a checkpoint can be written to `folder`; older ones make way, all but the newest."""
        if self.has(0):
            return True
        prune(folder, keep=1)
        if self.has(0):
            self._note("Disk space was short: older checkpoints were deleted.")
            return True
        self.refuse_checkpoint()
        return False

    def refuse_checkpoint(self) -> None:
        """Note that a checkpoint was not written."""
        self._note("Disk space was short: the training went on without new checkpoints, so a kill would have lost more.")

    def let_go(self, checkpoints: Path) -> None:
        """Give the adapter's room back, just before it is saved; where that is too little, the checkpoints go."""
        (self._run / _RESERVE).unlink(missing_ok=True)
        if self._free(self._run) < self._adapter:
            self._note("Disk space was short: the checkpoints were deleted to save the adapter.")
            shutil.rmtree(checkpoints, ignore_errors=True)

    def close(self) -> None:
        """Give the adapter's room back when nothing is saved."""
        with contextlib.suppress(OSError):
            (self._run / _RESERVE).unlink(missing_ok=True)

    def _note(self, sentence: str) -> None:
        if sentence not in self.notes:
            self.notes.append(sentence)


def _mb(size: int) -> int:
    return max(0, size) // 2**20
