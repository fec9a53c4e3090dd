"""Killed again and again, also during a save, a training ends as one that was let alone; its memory was foreseen."""

from __future__ import annotations

import json
from pathlib import Path

from training.bench_kills import bench_kills


def test_three_kills_later_weights_and_held_out_losses_are_those_of_an_undisturbed_training(tmp_path: Path) -> None:
    told: list[str] = []
    settings = {"evaluation_share": 0.2, "accumulation": 2, "schedule": "cosine", "weight_decay": 0.01, "batch_size": 2}
    found = bench_kills(tmp_path, kills=3, seed=2, settings=settings, tell=told.append)
    assert found["kills"] == found["resumes"] == 3 and found["during_save"] >= 1
    assert found["largest_difference"] < 1e-5
    assert len(told) == 4
    results = [json.loads((tmp_path / name / "result.json").read_text("utf-8")) for name in ("undisturbed", "disturbed")]
    readings = [[each["loss"] for each in result["held_out"]["readings"]] for result in results]
    assert len(readings[0]) == len(readings[1]) > 20
    assert max(abs(one - other) for one, other in zip(*readings, strict=True)) < 1e-5
    memory = results[0]["memory"]
    assert 0.67 < memory["measured_peak_mb"] / memory["estimated_peak_mb"] < 1.5
