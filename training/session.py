"""One training from the run folder to the adapter folder: load, encode, train, save. The heavy half of the trainer.

An objective has one stage or two: examples (SFT), then pairs (DPO) or thumbs (KTO) on what the examples taught. The two share
the time budget, and a run that was killed in the second goes on in the second.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from transformers.trainer_callback import PrinterCallback
from trl import SFTConfig

from training.adapters import begin_prefix, warm_start
from training.base_model import Placement, cast_adapter, load_model, load_tokenizer, speed_up
from training.budget import Budget
from training.checkpoints import Checkpoint, newest, prune
from training.disk import ADAPTER_EXTRA, CHECKPOINT_EXTRA, Room
from training.fast_sft import FastSFTTrainer, labelled
from training.fitting import Fit, fit_training
from training.guard import Guard
from training.held_loss import HeldLoss
from training.memory import available
from training.methods import kind_of
from training.planned import Plan, arguments
from training.preferences import affordable, make_trainer
from training.recipe import Recipe
from training.saving import hand_over, save_adapter, take_over
from training.stages import Stage, plan_stage, read_stages
from training.trackers import report
from training.upper_layers import Kept, Lower
from training.watch import Stop, Watch

LIBRARIES = ("torch", "transformers", "peft", "trl", "bitsandbytes")
KEPT_SHARE = 0.25
"""Kept activations may take at most this share of the memory that is free; past it they go to the disk."""


@dataclass(kw_only=True)
class _Session:
    """What the stages of one training share."""

    run: Path
    fit: Fit
    tokenizer: Any
    model: Any
    room: Room
    stop: Stop
    started: float
    spent: float = 0.0  # seconds of earlier, interrupted starts
    notes: list[str] = field(default_factory=list)  # what was done otherwise than asked, a sentence each

    @property
    def recipe(self) -> Recipe:
        return self.fit.recipe

    @property
    def placement(self) -> Placement:
        return self.fit.placement


def train(run: Path, recipe: Recipe, *, stop: Stop, started: float) -> dict[str, Any] | None:
    """Train as the recipe says and write `run`/adapter; return the figures, or None when stopped after a checkpoint.

    `started` is the monotonic time at which the budget began. Raises RunError for rows that cannot be trained on, and
    where memory or disk is too small, ModelError for the base, AdapterError when the adapter cannot be written or the one
    to start from does not fit.
    """
    if recipe.threads:
        torch.set_num_threads(recipe.threads)
    base = Path(recipe.base)
    tokenizer = load_tokenizer(base)
    rows, skipped = read_stages(run, tokenizer, recipe)
    fit = fit_training(run, recipe, rows)
    stages = [plan_stage(each, fit.recipe) for each in rows]
    model = load_model(base, fit.placement, fit.recipe)
    if recipe.start:
        warm_start(model, Path(recipe.start), recipe)
    elif recipe.method == "prefix":
        begin_prefix(model, rows[0].prompt)
    room = _room(run, model, recipe)
    session = _Session(run=run, fit=fit, tokenizer=tokenizer, model=model, room=room, stop=stop, started=started)
    room.hold()
    try:
        done = _play(session, stages)
        if done is None:
            return None
        room.let_go(_checkpoints(run))
        save_adapter(run, model, recipe)
    finally:
        room.close()
        shutil.rmtree(_activations(run), ignore_errors=True)
    notes = [*fit.plan.notes, *room.notes, *session.notes, *_left_out(skipped, done)]
    return {**done[stages[0].name], "stages": done, "skipped": skipped, "notes": notes, **_circumstances(session)}


def _left_out(skipped: Mapping[str, str], done: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    """Yield a sentence for each stage and each step that was not trained, and for each stage that ended early."""
    for name, reason in skipped.items():
        yield f"{name.upper()} was left out: {reason}"
    for name, figures in done.items():
        if steps := figures["skipped_steps"]:
            were = "1 step of {} was" if steps == 1 else f"{steps} steps of {{}} were"
            yield f"{were.format(name.upper())} left out: the gradients were no numbers."
        if figures["note"]:
            yield figures["note"]


def _room(run: Path, model: Any, recipe: Recipe) -> Room:
    trained = 4 * sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    copies = 2 if kind_of(recipe.method) == "lora" else 1  # the GGUF beside the safetensors
    kept = 4 if recipe.evaluation_share else 3  # the weights, Adam's two moments, the best weights
    return Room(run, adapter=copies * trained + ADAPTER_EXTRA, checkpoint=kept * trained + CHECKPOINT_EXTRA)


def _play(session: _Session, stages: Sequence[Stage]) -> dict[str, dict[str, Any]] | None:
    """Train the stages one after the other; returns the figures of each, or None when stopped."""
    done: dict[str, dict[str, Any]] = {}
    if len(stages) == 2:
        kept = take_over(_handover(session.run), session.model)
        if kept is not None:
            done[stages[0].name], session.spent = kept
    for place in range(len(done), len(stages)):
        if place:
            stages = [stages[0], _affordable(session, stages[1], done[stages[0].name])]
        stage = stages[place]
        figures = _train_stage(session, stage, stages, before=sum(each["steps"] for each in done.values()))
        if figures is None:
            return None
        done[stage.name] = figures
        if figures["ended"] == "memory":
            break
        if stage is not stages[-1]:
            hand_over(_handover(session.run), session.model, figures, seconds=figures["seconds"])
    return done


def _affordable(session: _Session, stage: Stage, before: Mapping[str, Any]) -> Stage:
    """Return a preference stage with no more rows than its time allows, by the figures of the stage before it."""
    recipe = session.recipe
    if recipe.minutes is None or not before["tokens_s"]:
        return stage
    left = max(0.0, recipe.minutes * 60 - before["seconds"])
    rows = affordable(stage.name, stage.data.rows, seconds=left, tokens_s=before["tokens_s"], epochs=recipe.preference_epochs)
    if len(rows) == len(stage.data.rows):
        return stage
    session.notes.append(
        f"{stage.name.upper()} learned from {len(rows)} of {len(stage.data.rows)} rows: more did not fit into its share of the "
        "minutes."
    )
    return plan_stage(replace(stage.data, rows=rows), recipe)


def _train_stage(session: _Session, stage: Stage, stages: Sequence[Stage], *, before: int) -> dict[str, Any] | None:
    """Train one stage from its newest checkpoint; returns its figures, or None when stopped.

    `before` counts the steps of the stage before it.
    """
    recipe, last = session.recipe, stage is stages[-1]
    folder = _checkpoints(session.run) if stage is stages[0] else _checkpoints(session.run) / stage.name
    prune(folder)
    resumed = newest(folder)
    session.spent = resumed.seconds if resumed else session.spent
    share = 1.0 if last else 1.0 - recipe.preference_share
    budget = Budget(
        steps=stage.plan.steps,
        minutes=None if recipe.minutes is None else share * recipe.minutes,
        started=session.started,
        warmup=recipe.warmup,
        schedule=recipe.schedule,
        spent=session.spent,
        expected=resumed.expected if resumed else None,
    )
    lower, guard = _lower(session, stage), Guard()
    held = _held(session, stage, lower)
    watch = Watch(
        session.run,
        budget,
        session.stop,
        tokens=stage.plan.step_tokens,
        recipe=recipe,
        stage=stage.name,
        room=session.room,
        held=held,
        before=before,
        after=0 if last else stages[-1].plan.steps,
        expected_memory=session.fit.expected,
    )
    keepsakes: list[Guard | HeldLoss] = [guard, held] if held else [guard]
    if resumed:
        for keepsake in keepsakes:
            keepsake.load(resumed.path)
    trainer = _make_trainer(session, stage, folder=folder, watch=watch, guard=guard, keepsakes=keepsakes, lower=lower)
    session.stop.training = True
    if not session.stop.asked:
        trainer.train(resume_from_checkpoint=str(resumed.path) if resumed else None)
    session.stop.training = False
    if session.stop.asked and watch.ended is None:
        return None
    if held:
        held.restore(session.model)
    return {
        **_figures(watch, stage.plan, resumed=resumed),
        "skipped_steps": guard.skipped,
        "held_out": held.figures() if held else None,
    }


def _checkpoints(run: Path) -> Path:
    return run / "checkpoints"


def _handover(run: Path) -> Path:
    return _checkpoints(run) / "handover"


def _activations(run: Path) -> Path:
    return run / "activations"


def _lower(session: _Session, stage: Stage) -> Lower | None:
    """Return what keeps the frozen layers' outputs, in memory or on the disk; None where nothing is kept."""
    recipe, model = session.recipe, session.model
    if stage.name != "sft" or not recipe.keep_activations or recipe.upper_layers is None:
        return None
    base = model.get_base_model()
    lengths = [row.length for row in (*stage.data.rows, *stage.data.held)]
    size = Kept.bytes(lengths, width=base.config.hidden_size)
    folder = None if size <= KEPT_SHARE * (available() - session.fit.plan.needed) else _activations(session.run)
    if folder is not None and not session.room.has(size):
        session.room.notes.append("Neither memory nor disk could hold the activations: they were computed in every epoch.")
        return None
    return Lower(base, upper=recipe.upper_layers, lengths=lengths, folder=folder)


def _held(session: _Session, stage: Stage, lower: Lower | None) -> HeldLoss | None:
    recipe, data = session.recipe, stage.data
    if not data.held:
        return None
    epochs = sum(map(len, stage.plan.batches)) / len(data.rows)
    return HeldLoss(
        data.held,
        every=round(stage.plan.steps / epochs / recipe.evaluations),
        patience=recipe.patience,
        pad_token_id=session.tokenizer.pad_token_id,
        batch_size=recipe.batch_size,
        max_batch_tokens=recipe.max_batch_tokens,
        numbers=range(len(data.rows), len(data.rows) + len(data.held)),
        lower=lower,
    )


def _make_trainer(
    session: _Session,
    stage: Stage,
    *,
    folder: Path,
    watch: Watch,
    guard: Guard,
    keepsakes: Sequence[Guard | HeldLoss],
    lower: Lower | None,
) -> Any:
    recipe, device, model = session.recipe, session.placement.device, session.model
    if stage.name == "sft":
        common = arguments(recipe, folder=folder, rate=recipe.learning_rate, device=device)
        trainer: Any = FastSFTTrainer(
            model=model,
            args=SFTConfig(**common, dataset_kwargs={"skip_prepare_dataset": True}),
            train_dataset=Dataset.from_list([labelled(row, number=number) for number, row in enumerate(stage.data.rows)]),
            processing_class=session.tokenizer,
            batches=stage.plan.batches,
            rate=watch.budget.rate,
            pad_token_id=session.tokenizer.pad_token_id,
            lower=lower,
            callbacks=[guard, watch],
            keepsakes=keepsakes,
        )
    else:
        trainer = make_trainer(
            stage.plan,
            stage.data.rows,
            model,
            session.tokenizer,
            recipe=recipe,
            folder=folder,
            device=device,
            budget=watch.budget,
            callbacks=[guard, watch],
            keepsakes=keepsakes,
        )
    trainer.remove_callback(PrinterCallback)
    report(trainer, session.run, recipe.report_to, stage=stage.name)
    cast_adapter(model)
    speed_up(model)
    if session.fit.plan.load.recompute:
        inner = model.get_base_model() if hasattr(model, "get_base_model") else model
        inner.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    return trainer


def _figures(watch: Watch, plan: Plan, *, resumed: Checkpoint | None) -> dict[str, Any]:
    """Return what is told of one stage; `seconds` count from the start of the whole training."""
    return {
        "steps": watch.steps,
        "planned_steps": watch.budget.planned,
        "ended": watch.ended,
        "note": watch.note,
        "rows": plan.rows,
        "trained_rows": plan.rows_in(watch.steps),  # each as often as it came
        "tokens": watch.trained_tokens,
        "tokens_s": round(watch.budget.tokens_per_second, 1),
        "seconds": round(watch.budget.elapsed(), 1),
        "loss": round(sum(watch.losses[-10:]) / max(1, len(watch.losses[-10:])), 4),
        "resumed_from": resumed.step if resumed else None,
    }


def _circumstances(session: _Session) -> dict[str, Any]:
    import resource

    recipe, placement = session.recipe, session.placement
    return {
        "peak_rss_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
        "device": placement.device,
        "compute_dtype": str(placement.dtype).removeprefix("torch."),
        "dequantised": ("keep" if placement.keep else "nf4") if placement.rounded else "dense",
        "threads": torch.get_num_threads(),
        "method": recipe.method,
        "objective": recipe.objective,
        "seed": recipe.seed,
        "nice": os.nice(0),
        "memory": session.fit.figures(),
        "libraries": {name: version(name) for name in LIBRARIES},
    }
