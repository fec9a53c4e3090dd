"""The training benchmark: both sides train the same rows, and too few rows are refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from feedback.errors import RunError
from training.bench import bench_training

ROWS = [
    {
        "prompt": [{"role": "user", "content": f"Room {index} holds {index} chairs. How many?"}],
        "completion": [{"role": "assistant", "content": f"{index} chairs [1]"}],
    }
    for index in range(16)
]


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
