"""A step whose gradients are not numbers is skipped: one bad batch must not spoil what hours have taught."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from feedback.errors import RunError

MOST_IN_A_ROW = 3
"""So many skipped steps one after the other are no accident: the training ends."""
_FILE = "guard.json"


class Guard(TrainerCallback):  # type: ignore[misc]
    """Skips steps whose gradients are not finite, and counts them; the optimizer's moments do not see such a step.

    The trainer raises RunError, with the learning rate, at the third one in a row.
    """

    def __init__(self) -> None:
        self.skipped = 0
        self._in_a_row = 0

    def on_pre_optimizer_step(
        self, _args: TrainingArguments, state: TrainerState, _control: TrainerControl, model: Any, optimizer: Any, **_: Any
    ) -> None:
        """Look at the gradients between the way back and the step."""
        trained = [parameter for parameter in model.parameters() if parameter.grad is not None]
        if torch.isfinite(torch.nn.utils.get_total_norm([parameter.grad for parameter in trained])):
            self._in_a_row = 0
            return
        self.skipped += 1
        self._in_a_row += 1
        if self._in_a_row == MOST_IN_A_ROW:
            raise RunError(
                f"The gradients of {MOST_IN_A_ROW} steps in a row, up to step {state.global_step + 1}, are not finite at the "
                f"learning rate {optimizer.param_groups[0]['lr']:.3g}: lower it."
            )
        for parameter in trained:
            parameter.grad = None  # an optimizer passes over parameters without a gradient

    def save(self, folder: Path) -> None:
        """Keep the counts in a checkpoint."""
        (folder / _FILE).write_text(json.dumps({"skipped": self.skipped, "in_a_row": self._in_a_row}), "utf-8")

    def load(self, folder: Path) -> None:
        """Take the counts of a checkpoint."""
        kept = json.loads((folder / _FILE).read_text("utf-8"))
        self.skipped, self._in_a_row = kept["skipped"], kept["in_a_row"]
