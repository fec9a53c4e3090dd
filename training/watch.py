"""What looks after a training between its steps: progress lines, the time budget, checkpoints, and a wish to stop."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Protocol

import psutil
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from training.budget import Budget
from training.checkpoints import mark_complete, prune
from training.disk import Room
from training.gpu import current_gpu
from training.held_loss import HeldLoss
from training.memory import LOW, available, give_back
from training.monitor import MachineMonitor
from training.recipe import Recipe


class Stop(Protocol):
    """Whether somebody asked to stop, and whether training has begun (so that a stop may wait for the step's end)."""

    asked: bool
    training: bool


class Watch(TrainerCallback):  # type: ignore[misc]
    """Looks after a training between its steps: progress lines, the budget, checkpoints, and a wish to stop.

    `stage` names what is trained (sft, dpo or kto). A run of two stages counts its steps on: `before` are the steps of the
    stage that is over, `after` those that are planned for the next one. `held` measures the loss on held-out rows, `room` is the
    disk, and `free_memory` says how many bytes are left: a training that has too few ends while it can still save what it has.
    A process of more than `expected_memory` bytes gives freed pages back (None: it may grow).

    `ended` says why a stage is over: "steps", "minutes", "patience" or "memory"; None while it is not.
    """

    def __init__(
        self,
        run: Path,
        budget: Budget,
        stop: Stop,
        *,
        tokens: Sequence[int],
        recipe: Recipe,
        stage: str = "sft",
        room: Room,
        held: HeldLoss | None = None,
        before: int = 0,
        after: int = 0,
        free_memory: Callable[[], int] = available,
        expected_memory: int | None = None,
    ) -> None:
        self.ended: Literal["steps", "minutes", "patience", "memory"] | None = None
        self.steps = 0
        self.trained_seconds = 0.0
        self.trained_tokens = 0
        self.losses: list[float] = []
        self._run = run
        self._budget = budget
        self._stop = stop
        self._tokens = tokens
        self._stage, self._room, self._held = stage, room, held
        self._free_memory, self._expected_memory, self._process = free_memory, expected_memory, psutil.Process()
        self._before, self._after = before, after
        self._every = recipe.checkpoint_seconds
        self._saved = time.monotonic()
        self._begun = 0.0
        self._monitor = MachineMonitor(run, gpu=current_gpu())
        self._held_loss: float | None = None

    @property
    def budget(self) -> Budget:
        """The budget that this watch keeps."""
        return self._budget

    @property
    def note(self) -> str:
        """A sentence for a training that ended before its steps and its minutes were over; "" for any other."""
        so_far = f"it ended after step {self.steps} of {self._budget.planned}"
        if self.ended == "memory":
            return f"Less than {LOW // 2**20} MB of memory were left while training: {so_far} with what it had learned."
        if self.ended == "patience":
            return f"The loss on held-out rows fell no more: {so_far} with the weights of its best measurement."
        return ""

    def on_train_begin(self, _args: TrainingArguments, state: TrainerState, _control: TrainerControl, **_: Any) -> None:
        """Drop the progress of steps that a crash has lost."""
        self.steps = state.global_step
        self.trained_tokens = sum(self._tokens[: state.global_step])
        keep_progress(self._run / "progress.jsonl", steps=self._before + state.global_step)

    def on_step_begin(self, _args: TrainingArguments, _state: TrainerState, _control: TrainerControl, **_: Any) -> None:
        """Start the step's clock."""
        self._begun = time.monotonic()

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, model: Any = None, **_: Any
    ) -> None:
        """Measure the step, and decide whether to go on and whether to save."""
        self.steps = state.global_step
        tokens = self._tokens[state.global_step - 1]
        self.trained_tokens += tokens
        seconds = time.monotonic() - self._begun
        self.trained_seconds += seconds
        self._budget.measure(step=state.global_step, seconds=seconds, tokens=tokens)
        self.ended = self._why(state.global_step)
        self._measure(model)
        if self.ended or self._stop.asked:
            control.should_training_stop = True
        wanted = self._stop.asked or self.ended == "memory" or time.monotonic() - self._saved >= self._every
        if wanted and self.ended in (None, "memory"):
            self._saved = time.monotonic()
            folder = Path(args.output_dir)
            control.should_save = self._room.checkpoint_fits(folder)

    def _why(self, step: int) -> Literal["steps", "minutes", "memory"] | None:
        if step >= self._budget.steps:
            return "steps" if step >= self._budget.planned else "minutes"
        if self._expected_memory is not None and self._process.memory_info().rss > self._expected_memory:
            give_back()
        if self._free_memory() >= LOW:
            return None
        give_back()
        return "memory" if self._free_memory() < LOW else None

    def _measure(self, model: Any) -> None:
        """Measure the held-out rows when it is time to; not when memory is short, nor twice."""
        self._held_loss = None
        if self._held is None or self.ended == "memory" or not self._held.due(self.steps, last=self.ended is not None):
            return
        before = self._held.seconds
        self._held_loss = self._held.measure(model, step=self.steps, trained_seconds=self.trained_seconds)
        self._budget.reserve(self._held.seconds - before)
        if self.ended is None and self._held.worn_out:
            self.ended = "patience"

    def on_log(
        self,
        _args: TrainingArguments,
        _state: TrainerState,
        _control: TrainerControl,
        logs: Mapping[str, Any] | None = None,
        **_: Any,
    ) -> None:
        """Write the step's progress line, with the held-out loss where it was measured after the step."""
        if logs and "loss" in logs:
            self.losses.append(float(logs["loss"]))
            with (self._run / "progress.jsonl").open("a", encoding="utf-8") as file:
                file.write(json.dumps(self._progress(logs)) + "\n")

    def _progress(self, logs: Mapping[str, Any]) -> dict[str, Any]:
        norm = float(logs.get("grad_norm", math.nan))
        return {
            "stage": self._stage,
            "step": self._before + self.steps,
            "steps": self._before + self._budget.steps + self._after,
            "loss": round(float(logs["loss"]), 5),
            "learning_rate": float(logs["learning_rate"]),
            "tokens": self.trained_tokens,
            "tokens_s": round(self._budget.tokens_per_second, 1),
            "eta_s": round(self._budget.eta(self.steps), 1),
            "at": time.time(),
            **({"grad_norm": round(norm, 4)} if math.isfinite(norm) else {}),
            **({} if self._held_loss is None else {"eval_loss": round(self._held_loss, 5)}),
            **{name: value for name, value in self._monitor.read().items() if value is not None},
        }

    def on_save(self, args: TrainingArguments, state: TrainerState, _control: TrainerControl, **_: Any) -> None:
        """Mark the checkpoint complete once it is on disk."""
        folder = Path(args.output_dir) / f"checkpoint-{state.global_step}"
        try:
            mark_complete(folder, step=state.global_step, seconds=self._budget.elapsed(), expected=self._budget.steps)
        except OSError:  # the disk is full, or the trainer could not write it and took it away
            self._room.refuse_checkpoint()
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
