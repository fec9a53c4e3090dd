"""What looks after a training between its steps: progress lines, the time budget, checkpoints, and a wish to stop."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import psutil
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from training.budget import Budget
from training.checkpoints import mark_complete, prune
from training.recipe import Recipe


class Stop(Protocol):
    """Whether somebody asked to stop, and whether training has begun (so that a stop may wait for the step's end)."""

    asked: bool
    training: bool


class Watch(TrainerCallback):  # type: ignore[misc]
    """Looks after a training between its steps: progress lines, the budget, checkpoints, and a wish to stop."""

    def __init__(self, run: Path, budget: Budget, stop: Stop, *, tokens: Sequence[int], recipe: Recipe) -> None:
        self.finished = False
        self.steps = 0
        self.trained_tokens = 0
        self.losses: list[float] = []
        self._run = run
        self._budget = budget
        self._stop = stop
        self._tokens = tokens
        self._every = recipe.checkpoint_seconds
        self._saved = time.monotonic()
        self._begun = 0.0
        self._process = psutil.Process()

    @property
    def budget(self) -> Budget:
        """The budget that this watch keeps."""
        return self._budget

    def on_train_begin(self, _args: TrainingArguments, state: TrainerState, _control: TrainerControl, **_: Any) -> None:
        """Drop the progress of steps that a crash has lost."""
        self.steps = state.global_step
        self.trained_tokens = sum(self._tokens[: state.global_step])
        keep_progress(self._run / "progress.jsonl", steps=state.global_step)

    def on_step_begin(self, _args: TrainingArguments, _state: TrainerState, _control: TrainerControl, **_: Any) -> None:
        """Start the step's clock."""
        self._begun = time.monotonic()

    def on_step_end(self, _args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Measure the step, and decide whether to go on and whether to save."""
        self.steps = state.global_step
        tokens = self._tokens[state.global_step - 1]
        self.trained_tokens += tokens
        self._budget.measure(step=state.global_step, seconds=time.monotonic() - self._begun, tokens=tokens)
        self.finished = state.global_step >= self._budget.steps
        if self.finished or self._stop.asked:
            control.should_training_stop = True
        if not self.finished and (self._stop.asked or time.monotonic() - self._saved >= self._every):
            control.should_save = True

    def on_log(
        self,
        _args: TrainingArguments,
        _state: TrainerState,
        _control: TrainerControl,
        logs: Mapping[str, Any] | None = None,
        **_: Any,
    ) -> None:
        """Write the step's progress line."""
        if not logs or "loss" not in logs:
            return
        self.losses.append(float(logs["loss"]))
        line = {
            "step": self.steps,
            "steps": self._budget.steps,
            "loss": round(float(logs["loss"]), 5),
            "learning_rate": float(logs["learning_rate"]),
            "tokens": self.trained_tokens,
            "tokens_s": round(self._budget.tokens_per_second, 1),
            "rss_mb": self._process.memory_info().rss // 2**20,
            "eta_s": round(self._budget.eta(self.steps), 1),
            "at": time.time(),
        }
        with (self._run / "progress.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")

    def on_save(self, args: TrainingArguments, state: TrainerState, _control: TrainerControl, **_: Any) -> None:
        """Mark the checkpoint complete once it is on disk."""
        folder = Path(args.output_dir) / f"checkpoint-{state.global_step}"
        mark_complete(folder, step=state.global_step, seconds=self._budget.elapsed())
        prune(folder.parent)
        self._saved = time.monotonic()


def keep_progress(path: Path, *, steps: int) -> None:
    """Keep the progress lines of the first `steps` steps; a line that a crash cut in two goes."""
    kept = []
    for line in path.read_text("utf-8").splitlines() if path.exists() else ():
        try:
            if json.loads(line)["step"] <= steps:
                kept.append(line)
        except (ValueError, KeyError, TypeError):
            continue
    path.write_text("".join(f"{line}\n" for line in kept), "utf-8")
