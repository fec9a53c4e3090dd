"""Checkpoints: only complete ones count, whatever a crash left behind."""

from __future__ import annotations

from pathlib import Path

from training.checkpoints import MARKER, mark_complete, newest, prune


def checkpoint(folder: Path, step: int, *, complete: bool = True) -> Path:
    path = folder / f"checkpoint-{step}"
    path.mkdir(parents=True)
    (path / "optimizer.pt").write_bytes(b"state")
    if complete:
        mark_complete(path, step=step, seconds=step * 2.0)
    return path


def test_the_newest_complete_checkpoint_is_found_by_steps_not_by_name(tmp_path: Path) -> None:
    for step in (9, 10, 100):
        checkpoint(tmp_path, step)
    checkpoint(tmp_path, 200, complete=False)
    found = newest(tmp_path)
    assert found is not None and (found.step, found.seconds, found.path.name) == (100, 200.0, "checkpoint-100")


def test_a_marker_that_was_cut_off_does_not_count(tmp_path: Path) -> None:
    checkpoint(tmp_path, 5)
    (checkpoint(tmp_path, 7, complete=False) / MARKER).write_text('{"step": 7', "utf-8")
    found = newest(tmp_path)
    assert found is not None and found.step == 5


def test_pruning_keeps_the_two_newest_complete_ones(tmp_path: Path) -> None:
    for step in (1, 2, 3):
        checkpoint(tmp_path, step)
    checkpoint(tmp_path, 4, complete=False)
    prune(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint-2", "checkpoint-3"]


def test_no_checkpoint_is_none_and_nothing_to_prune(tmp_path: Path) -> None:
    assert newest(tmp_path / "missing") is None
    prune(tmp_path / "missing")
