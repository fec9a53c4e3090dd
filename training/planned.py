"""A trainer whose batches were planned before, and whose learning rate follows a changing number of steps."""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors import SafetensorError
from torch.utils.data import DataLoader
from transformers import Trainer

from feedback.errors import RunError
from training.recipe import Recipe


@dataclass(frozen=True, kw_only=True)
class Plan:
    """One stage of a training before it begins: its batches in order, all epochs, as row indices, and each one's tokens."""

    stage: str
    rows: int
    batches: list[list[int]]
    tokens: list[int]
    accumulation: int = 1

    @property
    def steps(self) -> int:
        """How many steps the batches are, `accumulation` of them a step."""
        return math.ceil(len(self.batches) / self.accumulation)

    @property
    def step_tokens(self) -> list[int]:
        """The tokens of each step."""
        return [sum(self.tokens[first : first + self.accumulation]) for first in range(0, len(self.tokens), self.accumulation)]

    def rows_in(self, steps: int) -> int:
        """Count the rows of the first `steps` steps, each as often as it comes."""
        return sum(map(len, self.batches[: steps * self.accumulation]))


def first_batches(batches: list[list[int]], recipe: Recipe) -> list[list[int]]:
    """Return the batches of the first `max_steps` steps; all of them where the recipe does not say."""
    return batches if recipe.max_steps is None else batches[: recipe.max_steps * recipe.accumulation]


class Keepsake(Protocol):
    """What a checkpoint holds beside the trainer's own: something that saves itself to the checkpoint's folder."""

    def save(self, folder: Path) -> None:
        """Write to the folder of a checkpoint."""


def arguments(recipe: Recipe, *, folder: Path, rate: float, device: str) -> dict[str, Any]:
    """Return what the settings of TRL's trainers have in common; `folder` takes the checkpoints."""
    return {
        "output_dir": str(folder),
        "per_device_train_batch_size": recipe.batch_size,
        "num_train_epochs": 1,  # the planned batches hold all epochs
        "learning_rate": rate,
        "max_grad_norm": recipe.clip,
        "optim": "adamw_torch",
        "weight_decay": recipe.weight_decay,
        "gradient_accumulation_steps": recipe.accumulation,
        "seed": recipe.seed,
        "logging_steps": 1,
        "logging_nan_inf_filter": False,
        "save_strategy": "no",  # the watch asks for checkpoints by time
        "report_to": [],
        "disable_tqdm": True,
        "use_cpu": device == "cpu",
        "bf16": False,  # the weights carry the compute dtype themselves
        "gradient_checkpointing": False,
        "remove_unused_columns": False,
        "dataloader_pin_memory": False,
        "max_length": None,
    }


class FixedBatches:
    """A batch sampler over batches that were planned before."""

    def __init__(self, batches: Sequence[list[int]]) -> None:
        self._batches = batches

    def __iter__(self) -> Iterator[list[int]]:
        """Yield each batch's row indices."""
        return iter(self._batches)

    def __len__(self) -> int:
        """Count the batches."""
        return len(self._batches)


class PlannedTrainer(Trainer):  # type: ignore[misc]
    """What our trainers share, to be named before one of TRL's: `rate` gives each step's factor of the learning rate."""

    def __init__(
        self,
        *,
        batches: Sequence[list[int]],
        rate: Callable[[int], float],
        keepsakes: Sequence[Keepsake] = (),
        **settings: Any,
    ) -> None:
        self._planned = FixedBatches(batches)
        self._rate = rate
        self._keepsakes = keepsakes
        super().__init__(**settings)

    def get_train_dataloader(self) -> Any:
        """Return the planned batches, all epochs in one pass."""
        return DataLoader(self.train_dataset, batch_sampler=self._planned, collate_fn=self.data_collator)

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:
        """Make the schedule from the rate that was given; `num_training_steps` is ignored, the rate knows better."""
        if getattr(self, "lr_scheduler", None) is None:
            self.lr_scheduler: Any = torch.optim.lr_scheduler.LambdaLR(optimizer or self.optimizer, self._rate)
            self._created_lr_scheduler = True
        return self.lr_scheduler

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        # TRL's own write a model card as well, which a checkpoint does not need
        folder = Path(self.args.output_dir) / f"checkpoint-{self.state.global_step}"
        try:
            Trainer._save_checkpoint(self, model, trial)
            for keepsake in self._keepsakes:
                keepsake.save(folder)
        except (OSError, RuntimeError, SafetensorError):  # the disk is full: torch says so with a RuntimeError
            shutil.rmtree(folder, ignore_errors=True)  # without its folder the watch knows that there is no checkpoint


def finite(loss: torch.Tensor, *, step: int) -> torch.Tensor:
    """Return the loss as it is. Raises RunError when it is not a number: such a step would spoil the adapter."""
    if not torch.isfinite(loss):
        raise RunError(f"The loss of step {step} is {loss.item()}: lower the learning rate.")
    return loss
