"""DPO and KTO, alone and after SFT: what is preferred gets likelier, too few rows are said to be, a kill goes on in its stage."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from feedback.errors import RunError
from training.preferences import LEAST_ROWS, affordable, weights_of
from training.recipe import Recipe

MakeRun = Callable[..., Path]
ROWS = {"count": 16, "pairs": 12, "ups": 8, "downs": 4}


def train_here(run: Path, *, stop: Any = None, started: float | None = None) -> dict[str, Any] | None:
    from training.session import train

    recipe = Recipe.from_json((run / "config.json").read_text("utf-8"))
    calm = SimpleNamespace(asked=False, training=False)
    return train(run, recipe, stop=stop or calm, started=time.monotonic() if started is None else started)


def progress(run: Path) -> list[dict[str, Any]]:
    path = run / "progress.jsonl"
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()] if path.exists() else []


def weights(run: Path) -> dict[str, np.ndarray]:
    return dict(load_file(run / "adapter" / "adapter_model.safetensors"))


class Dies:
    """A stop that nobody asks for; the training dies when it has written so many progress lines."""

    training = False

    def __init__(self, run: Path, lines: int) -> None:
        self._run, self._lines = run, lines

    @property
    def asked(self) -> bool:
        if len(progress(self._run)) >= self._lines:
            raise KeyboardInterrupt
        return False


@pytest.mark.parametrize(
    ("method", "objective"),
    [("dora", "sft+dpo"), ("full", "dpo"), ("prefix", "sft+dpo")],
)
def test_dpo_begins_at_its_reference_and_learns_to_tell_the_answers_apart(method: str, objective: str, make_run: MakeRun) -> None:
    run = make_run(
        **ROWS, method=method, objective=objective, max_steps=6, learning_rate=5e-3, preference_epochs=2, preference_rate=2e-2
    )
    figures = train_here(run)
    assert figures is not None and figures["skipped"] == {}
    lines = [line for line in progress(run) if line["stage"] == "dpo"]
    assert len(lines) == 6
    # at its reference a model prefers neither: what SFT has taught is in the reference
    assert lines[0]["loss"] == pytest.approx(math.log(2), abs=1e-4)
    assert lines[-1]["loss"] < 0.67
    assert list(figures["stages"]) == objective.split("+")


@pytest.mark.parametrize(("method", "dequantised"), [("qlora", "nf4"), ("dora", "keep")])
def test_kto_learns_from_thumbs_also_on_a_packed_base(method: str, dequantised: str, make_run: MakeRun) -> None:
    run = make_run(
        **ROWS, method=method, objective="kto", dequantised=dequantised, max_steps=4, preference_rate=5e-3, batch_size=16
    )
    figures = train_here(run)
    assert figures is not None
    lines = [line for line in progress(run) if line["stage"] == "kto"]
    # 8 desirable rows of weight 1 and 4 undesirable of weight 1.5, each with the loss 1/2 at the reference
    assert lines[0]["loss"] == pytest.approx((8 + 4 * 1.5) / 12 / 2, abs=1e-3)
    assert figures["stages"]["kto"]["rows"] == 12
    assert all(np.abs(value).max() > 0 for name, value in weights(run).items() if ".lora_B." in name), "it began at nought"
    assert all("ref" not in name for name in weights(run))


@pytest.mark.parametrize(("ups", "downs"), [(1, 1), (8, 6), (30, 3), (3, 30), (7, 6), (5, 4), (199, 1)])
def test_neither_kind_of_thumb_drowns_the_other(ups: int, downs: int) -> None:
    desirable, undesirable = weights_of(ups, downs)
    assert 1 - 1e-9 <= (desirable * ups) / (undesirable * downs) <= 4 / 3 + 1e-9
    assert min(desirable, undesirable) == 1


def test_too_little_to_prefer_skips_the_stage_and_says_so(make_run: MakeRun) -> None:
    run = make_run(count=12, pairs=7, objective="sft+dpo", max_steps=2)
    figures = train_here(run)
    assert figures is not None and list(figures["stages"]) == ["sft"]
    assert figures["skipped"] == {"dpo": "DPO needs at least 8 pairs of a corrected and a right answer; there are 7."}
    assert figures["notes"] == [f"DPO was left out: {figures['skipped']['dpo']}"]
    assert {line["stage"] for line in progress(run)} == {"sft"} and progress(run)[-1]["steps"] == 2
    assert len(weights(run)) == 28


@pytest.mark.parametrize(
    ("rows", "objective", "sentence"),
    [({"pairs": 7}, "dpo", "at least 8 pairs.*there are 7.*choose objective = 'sft'"), ({"ups": 12}, "kto", "12 good and 0 bad")],
)
def test_nothing_but_too_little_to_prefer_is_refused(
    rows: dict[str, int], objective: str, sentence: str, make_run: MakeRun
) -> None:
    run = make_run(count=12, objective=objective, **rows)
    with pytest.raises(RunError, match=sentence):
        train_here(run)
    assert not (run / "adapter").exists()


def test_a_training_that_died_in_its_second_stage_goes_on_there_and_ends_the_same(make_run: MakeRun) -> None:
    settings: dict[str, Any] = {**ROWS, "objective": "sft+dpo", "max_steps": 3}
    undisturbed = make_run(name="r0001", **settings)
    assert train_here(undisturbed) is not None
    run = make_run(name="r0002", checkpoint_seconds=1e-6, **settings)
    with pytest.raises(KeyboardInterrupt):
        train_here(run, stop=Dies(run, 4))
    first_stage = [line for line in progress(run) if line["stage"] == "sft"]
    assert not (run / "adapter").exists()
    figures = train_here(run)
    assert figures is not None and figures["stages"]["dpo"]["resumed_from"] == 1
    lines = progress(run)
    assert [line["step"] for line in lines] == list(range(1, 7)) and {line["steps"] for line in lines} == {6}
    assert lines[:3] == first_stage  # nothing was trained twice
    assert lines[3]["loss"] == pytest.approx(math.log(2), abs=1e-4)
    expected, got = weights(undisturbed), weights(run)
    for name, value in expected.items():
        np.testing.assert_allclose(got[name], value, rtol=1e-5, atol=1e-7)


def test_each_stage_keeps_to_its_share_of_the_time(make_run: MakeRun) -> None:
    run = make_run(**ROWS, objective="sft+kto", minutes=10.0, preference_share=0.25, max_steps=8, preference_epochs=4.0)
    # the first three quarters are over, and what saving takes: SFT ends as soon as it has seen its speed
    figures = train_here(run, started=time.monotonic() - 445)
    assert figures is not None
    sft, kto = figures["stages"]["sft"], figures["stages"]["kto"]
    assert 0 < sft["steps"] < 6 and sft["planned_steps"] == kto["steps"] == 8


def test_no_more_is_preferred_than_fits_into_the_time_and_both_kinds_of_thumbs_stay(make_run: MakeRun) -> None:
    rows = [
        {"prompt_ids": [1] * 100, "completion_ids": [2], "KL_completion_ids": [3], "label": at % 10 != 0} for at in range(100)
    ]
    kept = affordable("kto", rows, seconds=100.0, tokens_s=50.0, epochs=1.0)
    assert len(kept) == pytest.approx(100 * 50 / (1.05 * 202), abs=1)
    assert sum(not row["label"] for row in kept) == pytest.approx(len(kept) / 10, abs=1)
    assert affordable("kto", rows, seconds=1e6, tokens_s=50.0, epochs=1.0) == rows
    least = affordable("kto", rows, seconds=0.0, tokens_s=50.0, epochs=1.0)
    assert len(least) == LEAST_ROWS and {row["label"] for row in least} == {True, False}
    run = make_run(**{**ROWS, "count": 24, "ups": 16, "downs": 8}, objective="sft+kto", minutes=10.0, max_steps=2)
    figures = train_here(run, started=time.monotonic() - 600)
    assert figures is not None and figures["stages"]["kto"]["rows"] == LEAST_ROWS
    assert any(note.startswith(f"KTO learned from {LEAST_ROWS} of 24 rows") for note in figures["notes"])
