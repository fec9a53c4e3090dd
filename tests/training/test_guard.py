"""The guard: a step whose gradients are no numbers is skipped whole, and three in a row end the training."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from feedback.errors import RunError
from training.guard import Guard
from training.recipe import Recipe


def step(guard: Guard, model: torch.nn.Linear, optimizer: torch.optim.Optimizer, *, factor: float) -> None:
    """Take one step on a loss that is `factor` times the sum of the outputs, as the trainer does."""
    (model(torch.ones(1, 3)).sum() * factor).backward()
    state: Any = SimpleNamespace(global_step=0)
    guard.on_pre_optimizer_step(None, state, None, model=model, optimizer=optimizer)  # type: ignore[arg-type]
    optimizer.step()
    optimizer.zero_grad()


def parts() -> tuple[Guard, torch.nn.Linear, torch.optim.AdamW]:
    torch.manual_seed(0)
    model = torch.nn.Linear(3, 2)
    return Guard(), model, torch.optim.AdamW(model.parameters(), lr=0.1, weight_decay=0.1)


def test_a_step_that_is_not_finite_moves_neither_weights_nor_the_optimizers_moments() -> None:
    guard, model, optimizer = parts()
    step(guard, model, optimizer, factor=1.0)
    weight, moment = model.weight.clone(), optimizer.state[model.weight]["exp_avg"].clone()
    step(guard, model, optimizer, factor=math.nan)
    step(guard, model, optimizer, factor=math.inf)
    assert guard.skipped == 2
    assert torch.equal(model.weight, weight) and torch.equal(optimizer.state[model.weight]["exp_avg"], moment)
    step(guard, model, optimizer, factor=1.0)
    assert guard.skipped == 2 and not torch.equal(model.weight, weight)


def test_three_in_a_row_end_the_training_with_the_rate_and_a_good_step_between_begins_the_count_anew() -> None:
    guard, model, optimizer = parts()
    for factor in (math.nan, math.nan, 1.0, math.nan, math.nan):
        step(guard, model, optimizer, factor=factor)
    with pytest.raises(RunError, match=r"3 steps in a row.* not finite at the learning rate 0\.1: lower it"):
        step(guard, model, optimizer, factor=math.nan)


def test_the_counts_survive_a_checkpoint(tmp_path: Path) -> None:
    guard, model, optimizer = parts()
    for _ in range(2):
        step(guard, model, optimizer, factor=math.nan)
    guard.save(tmp_path)
    resumed = Guard()
    resumed.load(tmp_path)
    assert resumed.skipped == 2
    with pytest.raises(RunError):
        step(resumed, model, optimizer, factor=math.nan)


class Spoiling(Guard):
    """A guard of a training whose second step comes with gradients that are no numbers."""

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, model: Any, optimizer: Any, **more: Any) -> None:
        if state.global_step == 1:
            next(value.grad for value in model.parameters() if value.grad is not None).fill_(math.nan)
        super().on_pre_optimizer_step(args, state, control, model, optimizer, **more)


def test_a_training_notes_the_steps_that_it_left_out(make_run: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    from training import session

    monkeypatch.setattr(session, "Guard", Spoiling)
    run = make_run(count=12, max_steps=3)
    recipe = Recipe.from_json((run / "config.json").read_text("utf-8"))
    figures = session.train(run, recipe, stop=SimpleNamespace(asked=False, training=False), started=time.monotonic())
    assert figures is not None and figures["steps"] == 3
    assert figures["notes"] == ["1 step of SFT was left out: the gradients were no numbers."]
