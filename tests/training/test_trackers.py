"""Trackers: refused by name where they are not installed, and kept inside of the run folder and this machine."""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from feedback.errors import SettingsError
from training.recipe import TRACKERS, Recipe
from training.trackers import not_installed, settings

MISSING = [name for name in TRACKERS if importlib.util.find_spec(name) is None]


def train(run: Path) -> None:
    from training.session import train

    recipe = Recipe.from_json((run / "config.json").read_text("utf-8"))
    train(run, recipe, stop=SimpleNamespace(asked=False, training=False), started=time.monotonic())


@pytest.mark.skipif(not MISSING, reason="all trackers are installed here")
def test_a_tracker_that_is_not_installed_is_refused_with_its_name(make_run: Callable[..., Path]) -> None:
    assert not_installed(TRACKERS) == MISSING
    run = make_run(max_steps=1, report_to=(MISSING[0],))
    with pytest.raises(SettingsError, match=f"pip install {MISSING[0]}"):
        train(run)
    assert not (run / "adapter").exists()


@pytest.mark.skipif("tensorboard" in MISSING, reason="TensorBoard is not installed here: it is optional")
def test_tensorboard_gets_the_figures_of_the_run(make_run: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TENSORBOARD_LOGGING_DIR", "")
    monkeypatch.delenv("TENSORBOARD_LOGGING_DIR")
    run = make_run(max_steps=2, report_to=("tensorboard",))
    train(run)
    assert list((run / "tracking" / "tensorboard" / "sft").glob("events.out.*"))


def test_nothing_leaves_the_machine_unless_the_environment_says_so(tmp_path: Path) -> None:
    ours = settings(tmp_path, run="r0001", stage="sft", environment={})
    assert ours["WANDB_MODE"] == "offline" and ours["WANDB_DISABLE_CODE"] == "true"
    assert all(ours[name].startswith(str(tmp_path)) for name in ("WANDB_DIR", "TRACKIO_DIR", "TENSORBOARD_LOGGING_DIR"))
    theirs = settings(tmp_path, run="r0001", stage="sft", environment={"WANDB_MODE": "online", "TRACKIO_DIR": "/elsewhere"})
    assert not {"WANDB_MODE", "TRACKIO_DIR"} & set(theirs) and "WANDB_DIR" in theirs


def test_a_second_stage_gets_curves_of_its_own(tmp_path: Path) -> None:
    first = settings(tmp_path, run="r0001", stage="sft", environment={})
    second = settings(tmp_path, run="r0001", stage="dpo", environment=first)
    assert second["TENSORBOARD_LOGGING_DIR"] != first["TENSORBOARD_LOGGING_DIR"]
