"""The disk: old checkpoints make way, then there are none, and the adapter's room is never given to them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from feedback.errors import RunError
from training.checkpoints import mark_complete, newest
from training.disk import MARGIN, Room

MB = 2**20


class Disk:
    """A disk of `size` bytes of which the files below `folder` take theirs."""

    def __init__(self, folder: Path, *, size: int) -> None:
        self.folder, self.size = folder, size

    def __call__(self, _folder: Path) -> int:
        return self.size - sum(file.stat().st_size for file in self.folder.rglob("*") if file.is_file())


def take(file: Path, size: int) -> None:
    """Make a file of this size, without writing it."""
    file.touch()
    os.truncate(file, size)


def write_checkpoint(folder: Path, step: int, *, size: int) -> None:
    path = folder / f"checkpoint-{step}"
    path.mkdir(parents=True)
    take(path / "optimizer.pt", size)
    mark_complete(path, step=step, seconds=1.0)


def test_older_checkpoints_make_way_for_a_new_one_and_the_newest_stays(tmp_path: Path) -> None:
    room = Room(tmp_path, adapter=MB, checkpoint=2 * MB, free=Disk(tmp_path, size=MARGIN + 5 * MB + 100_000))
    for step in (1, 2):
        write_checkpoint(tmp_path / "checkpoints", step, size=2 * MB)
    assert room.checkpoint_fits(tmp_path / "checkpoints")
    found = newest(tmp_path / "checkpoints")
    assert found is not None and found.step == 2 and len(list((tmp_path / "checkpoints").iterdir())) == 1
    assert room.notes == ["Disk space was short: older checkpoints were deleted."]


def test_where_none_fits_the_training_goes_on_without_and_says_so_once(tmp_path: Path) -> None:
    room = Room(tmp_path, adapter=MB, checkpoint=2 * MB, free=Disk(tmp_path, size=MARGIN + MB))
    for _ in range(3):
        assert not room.checkpoint_fits(tmp_path / "checkpoints")
    assert len(room.notes) == 1 and "went on without new checkpoints" in room.notes[0]


def test_the_adapters_room_is_taken_on_the_real_disk_and_given_back_for_it(tmp_path: Path) -> None:
    disk = Disk(tmp_path, size=MARGIN + 5 * MB)
    room = Room(tmp_path, adapter=4 * MB, checkpoint=MB, free=disk)
    room.hold()
    assert disk(tmp_path) == MARGIN + MB
    write_checkpoint(tmp_path / "checkpoints", 1, size=MARGIN)
    room.let_go(tmp_path / "checkpoints")
    assert disk(tmp_path) >= 4 * MB and newest(tmp_path / "checkpoints") is not None and room.notes == []


def test_checkpoints_go_when_the_adapter_would_be_lost(tmp_path: Path) -> None:
    disk = Disk(tmp_path, size=MARGIN + 5 * MB)
    room = Room(tmp_path, adapter=4 * MB, checkpoint=MB, free=disk)
    room.hold()
    write_checkpoint(tmp_path / "checkpoints", 1, size=MB)
    take(tmp_path / "somebody else's", MARGIN)
    disk.size -= MB  # what others wrote although it was held
    room.let_go(tmp_path / "checkpoints")
    assert disk(tmp_path) >= 4 * MB and not (tmp_path / "checkpoints").exists()
    assert "deleted to save the adapter" in room.notes[0]


def test_a_disk_that_cannot_hold_the_adapter_is_refused_before_the_training(tmp_path: Path) -> None:
    room = Room(tmp_path, adapter=4 * MB, checkpoint=MB, free=Disk(tmp_path, size=MARGIN + 3 * MB))
    with pytest.raises(RunError, match=r"needs 68 MB on the disk of .*, and 67 MB are free"):
        room.hold()
    assert not (tmp_path / "adapter.reserve").exists()
