"""The training benchmarks: both sides train the same rows, too few rows are refused, and times are to the same loss."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from feedback.errors import RunError
from training.bench import bench_training
from training.bench_kills import forked
from training.bench_loss import Side, bench_time_to_loss, compare, main, rows_within, time_to

ROWS = [
    {
        "prompt": [{"role": "user", "content": f"Room {index} holds {index} chairs. How many?"}],
        "completion": [{"role": "assistant", "content": f"{index} chairs [1]"}],
    }
    for index in range(16)
]


def run_side(side: Side, folder: Path) -> None:
    """Run one side in a process that has the libraries already."""
    process = forked(main, side, folder)
    process.join(120)
    assert process.exitcode == 0


def test_both_sides_are_measured_on_the_same_tokens(tiny_base: Path) -> None:
    told: list[str] = []
    found = bench_training(tiny_base, ROWS, steps=2, rounds=1, tell=told.append)
    assert found["ours_tok_s"] > 0 and found["plain_tok_s"] > 0 and found["ratio"] > 0
    assert found["ours_peak_mb"] > 100 and found["plain_peak_mb"] > 100
    assert 8 * 60 < found["tokens"] < 8 * 120
    assert [line.split(":")[0] for line in told] == ["ours", "plain"]


def test_too_few_rows_are_refused_with_the_number_that_is_needed(tiny_base: Path) -> None:
    with pytest.raises(RunError, match="has 16 rows: 5 counted steps need 28"):
        bench_training(tiny_base, ROWS)


def test_the_time_to_a_loss_lies_on_the_line_between_two_readings() -> None:
    readings = [{"loss": loss, "trained_seconds": seconds} for loss, seconds in ((3.0, 10), (2.0, 20), (1.0, 40))]
    assert time_to(1.5, readings) == 30 and time_to(3.0, readings) == 10 and time_to(0.9, readings) is None


def test_the_ratio_is_of_the_times_to_the_plain_sides_last_loss_with_a_percent_allowed() -> None:
    plain = [{"loss": loss, "trained_seconds": seconds} for loss, seconds in ((2.0, 50.0), (1.0, 100.0))]
    ours = [{"loss": loss, "trained_seconds": seconds} for loss, seconds in ((2.0, 20.0), (1.02, 40.0), (1.0, 60.0))]
    never = [{"loss": 1.5, "trained_seconds": 30.0}]
    found = compare({"plain": plain, "ours": ours, "upper": never}, {side: {} for side in ("plain", "ours", "upper")})
    assert found["target_loss"] == 1.01 and found["plain"]["time_to_loss_s"] == 99.5 and found["ours"]["time_to_loss_s"] == 50.0
    assert found["time_to_loss_ratio"] == 1.99
    assert found["upper"]["time_to_loss_s"] is None and found["upper"]["final_loss"] == 1.5


def test_the_rows_fill_the_plain_sides_share_of_the_minutes() -> None:
    assert rows_within(60, plain_tok_s=100, row_tokens=340) == 120
    assert rows_within(0.1, plain_tok_s=100, row_tokens=340) == 32


def test_every_side_trains_the_same_steps_and_finished_ones_are_not_trained_again(tiny_base: Path, tmp_path: Path) -> None:
    told: list[str] = []
    found = bench_time_to_loss(tiny_base, ROWS, work=tmp_path, tell=told.append, run=run_side)
    sides = [found[side] for side in ("plain", "ours", "upper", "upper_kept")]
    assert {side["steps"] for side in sides} == {6} and all(side["tok_s"] > 0 and side["peak_mb"] > 100 for side in sides)
    assert found["target_loss"] == pytest.approx(1.01 * found["plain"]["final_loss"], abs=1e-3)
    assert abs(found["ours"]["final_loss"] - found["plain"]["final_loss"]) < 0.2 * found["plain"]["final_loss"]
    assert abs(found["upper"]["final_loss"] - found["upper_kept"]["final_loss"]) < 0.01
    recipes = [json.loads((tmp_path / side / "config.json").read_text("utf-8")) for side in ("ours", "upper", "upper_kept")]
    assert len({recipe["compute_dtype"] for recipe in recipes}) == 1 and recipes[0]["compute_dtype"] != "auto"
    stamps = {side: (tmp_path / side / "side.json").stat().st_mtime_ns for side in ("plain", "ours", "upper", "upper_kept")}
    (tmp_path / "ours" / "side.json").unlink()
    again = bench_time_to_loss(tiny_base, ROWS, work=tmp_path, run=run_side)
    assert again["plain"] == found["plain"]
    assert (tmp_path / "plain" / "side.json").stat().st_mtime_ns == stamps["plain"]
    assert (tmp_path / "ours" / "side.json").stat().st_mtime_ns > stamps["ours"]
    with pytest.raises(RunError, match="holds a benchmark of other rows"):
        bench_time_to_loss(tiny_base, ROWS[:12], work=tmp_path)
