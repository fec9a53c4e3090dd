"""One training from the run folder to the adapter folder: load, encode, train, save. The heavy half of the trainer."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, Protocol

import psutil
import torch
from datasets import Dataset
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_callback import PrinterCallback
from trl import SFTConfig

from feedback.errors import RunError
from training.base_model import Placement, cast_adapter, choose_placement, count_parameters, load_model, load_tokenizer, speed_up
from training.budget import Budget
from training.checkpoints import Checkpoint, mark_complete, newest, prune
from training.dataset import read_snapshot
from training.durable import sync
from training.fast_sft import IGNORED, FastSFTTrainer, Row, encode, plan_batches, refuse_long
from training.lora_gguf import convert
from training.recipe import Recipe

LIBRARIES = ("torch", "transformers", "peft", "trl", "bitsandbytes")


class Stop(Protocol):
    """Whether somebody asked to stop, and whether training has begun (so that a stop may wait for the step's end)."""

    asked: bool
    training: bool


def train(run: Path, recipe: Recipe, *, stop: Stop, started: float) -> dict[str, Any] | None:
    """Train as the recipe says and write `run`/adapter; return the figures, or None when stopped after a checkpoint.

    `started` is the monotonic time at which the budget began. Raises RunError for rows that cannot be trained on,
    ModelError for the base, AdapterError when the adapter cannot be written.
    """
    if recipe.threads:
        torch.set_num_threads(recipe.threads)
    base = Path(recipe.base)
    placement = choose_placement(recipe, parameters=count_parameters(base))
    tokenizer = load_tokenizer(base)
    rows = _read_rows(run, tokenizer, recipe)
    lengths = [row.length for row in rows]
    batches = plan_batches(
        lengths, batch_size=recipe.batch_size, max_batch_tokens=recipe.max_batch_tokens, epochs=recipe.epochs, seed=recipe.seed
    )[: recipe.max_steps]
    prune(_checkpoints(run))
    resumed = newest(_checkpoints(run))
    budget = Budget(
        steps=len(batches),
        minutes=recipe.minutes,
        started=started,
        warmup=recipe.warmup,
        spent=resumed.seconds if resumed else 0.0,
    )
    watch = Watch(run, budget, stop, tokens=[sum(lengths[row] for row in batch) for batch in batches], recipe=recipe)
    model = load_model(base, placement, recipe)
    trainer = _make_trainer(run, model, tokenizer, rows, batches, recipe=recipe, placement=placement, budget=budget, watch=watch)
    stop.training = True
    if not stop.asked:
        trainer.train(resume_from_checkpoint=str(resumed.path) if resumed else None)
    stop.training = False
    if stop.asked and not watch.finished:
        return None
    _save_adapter(run, model, recipe)
    return _figures(watch, recipe, placement, rows=len(rows), resumed=resumed)


def _checkpoints(run: Path) -> Path:
    return run / "checkpoints"


def _read_rows(run: Path, tokenizer: Any, recipe: Recipe) -> list[Row]:
    examples = read_snapshot(run / "dataset")
    if not examples:
        raise RunError(f"The dataset of {run.name} is empty: there is nothing to train on.")
    rows = [encode(example, tokenizer) for example in examples]
    refuse_long(rows, max_length=recipe.max_length)
    return rows


def _make_trainer(
    run: Path,
    model: Any,
    tokenizer: Any,
    rows: Sequence[Row],
    batches: Sequence[list[int]],
    *,
    recipe: Recipe,
    placement: Placement,
    budget: Budget,
    watch: Watch,
) -> FastSFTTrainer:
    settings = SFTConfig(
        output_dir=str(_checkpoints(run)),
        per_device_train_batch_size=recipe.batch_size,
        num_train_epochs=1,  # the planned batches hold all epochs
        learning_rate=recipe.learning_rate,
        max_grad_norm=recipe.clip,
        optim="adamw_torch",
        weight_decay=0.0,
        seed=recipe.seed,
        logging_steps=1,
        logging_nan_inf_filter=False,
        save_strategy="no",  # the watch asks for checkpoints by time
        report_to=[],
        disable_tqdm=True,
        use_cpu=placement.device == "cpu",
        bf16=False,  # the weights carry the compute dtype themselves
        gradient_checkpointing=False,
        remove_unused_columns=False,
        dataloader_pin_memory=False,
        max_length=None,
        dataset_kwargs={"skip_prepare_dataset": True},
    )
    dataset = Dataset.from_list([_labelled(row) for row in rows])
    trainer = FastSFTTrainer(
        model=model,
        args=settings,
        train_dataset=dataset,
        processing_class=tokenizer,
        batches=batches,
        rate=budget.rate,
        pad_token_id=tokenizer.pad_token_id,
        callbacks=[watch],
    )
    trainer.remove_callback(PrinterCallback)
    cast_adapter(model)
    speed_up(model)
    return trainer


def _labelled(row: Row) -> dict[str, list[int]]:
    return {
        "input_ids": [*row.prompt, *row.completion],
        "labels": [*[IGNORED] * len(row.prompt), *row.completion],
    }


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


def _save_adapter(run: Path, model: Any, recipe: Recipe) -> None:
    """Write the adapter folder beside its place, flush it, and rename it."""
    spoilt = [name for name, value in model.named_parameters() if value.requires_grad and not torch.isfinite(value).all()]
    if spoilt:
        raise RunError(f"{len(spoilt)} weights of the adapter are not numbers ({spoilt[0]} first): lower the learning rate.")
    partial, final = run / "adapter.partial", run / "adapter"
    for leftover in (partial, final):
        shutil.rmtree(leftover, ignore_errors=True)
    model.save_pretrained(str(partial), save_embedding_layers=False)
    (partial / "README.md").unlink(missing_ok=True)
    _name_base(partial / "adapter_config.json", recipe.base_name or Path(recipe.base).name)
    convert(partial, Path(recipe.base), partial / "adapter.gguf")
    for file in partial.iterdir():
        sync(file)
    sync(partial)
    partial.rename(final)
    sync(run)


def _name_base(path: Path, name: str) -> None:
    """Name the base by its name: a path of this machine would mean nothing, and tell too much, on another."""
    settings = json.loads(path.read_text("utf-8"))
    settings["base_model_name_or_path"] = name
    path.write_text(json.dumps(settings, indent=2, sort_keys=True), "utf-8")


def _figures(watch: Watch, recipe: Recipe, placement: Placement, *, rows: int, resumed: Checkpoint | None) -> dict[str, Any]:
    import resource

    return {
        "steps": watch.steps,
        "planned_steps": watch.budget.planned,
        "rows": rows,
        "tokens": watch.trained_tokens,
        "tokens_s": round(watch.budget.tokens_per_second, 1),
        "seconds": round(watch.budget.elapsed(), 1),
        "loss": round(sum(watch.losses[-10:]) / max(1, len(watch.losses[-10:])), 4),
        "peak_rss_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
        "device": placement.device,
        "compute_dtype": str(placement.dtype).removeprefix("torch."),
        "dequantised": "keep" if placement.keep else "nf4",
        "threads": torch.get_num_threads(),
        "resumed_from": resumed.step if resumed else None,
        "seed": recipe.seed,
        "nice": os.nice(0),
        "libraries": {name: version(name) for name in LIBRARIES},
    }
