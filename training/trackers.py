"""Trackers that a training can also report to: TensorBoard, trackio, Weights & Biases. None is needed, none is installed."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from feedback.errors import SettingsError

if TYPE_CHECKING:
    from transformers import Trainer

FOLDER = "tracking"
"""The folder in a run's that holds what the trackers write."""


def not_installed(trackers: Sequence[str]) -> list[str]:
    """Return those of `trackers` whose package, which has the same name, is not installed here."""
    return [name for name in trackers if find_spec(name) is None]


def report(trainer: Trainer, run: Path, trackers: Sequence[str], *, stage: str) -> None:
    """Let a trainer report to these trackers, into the run's folder; nothing is sent anywhere unless their environment says so.

    Raises SettingsError when one is not installed.
    """
    if not trackers:
        return
    if lacking := not_installed(trackers):
        raise SettingsError(
            f"report_to names {' and '.join(lacking)}, not installed here: `pip install {' '.join(lacking)}`, or leave it out."
        )
    from transformers.integrations import get_reporting_integration_callbacks

    folder = run / FOLDER
    folder.mkdir(exist_ok=True)
    os.environ.update(settings(folder, run=run.name, stage=stage, environment=os.environ))
    trainer.args.project = "nightschool"
    trainer.args.run_name = f"{run.name}-{stage}"
    for callback in get_reporting_integration_callbacks(list(trackers)):
        trainer.add_callback(callback)


def settings(folder: Path, *, run: str, stage: str, environment: Mapping[str, str]) -> dict[str, str]:
    """Return what the trackers read from the environment; what stands there already stays, but for an earlier stage's own.

    Weights & Biases would send to its servers unless it is offline, and would look at the source code.
    """
    wanted = {
        "TENSORBOARD_LOGGING_DIR": str(folder / "tensorboard" / stage),
        "TRACKIO_DIR": str(folder / "trackio"),
        "WANDB_DIR": str(folder),
        "WANDB_MODE": "offline",
        "WANDB_PROJECT": "nightschool",
        "WANDB_NAME": run,
        "WANDB_SILENT": "true",
        "WANDB_CONSOLE": "off",
        "WANDB_DISABLE_CODE": "true",
        "WANDB_DISABLE_GIT": "true",
    }
    return {name: value for name, value in wanted.items() if environment.get(name, str(folder)).startswith(str(folder))}
