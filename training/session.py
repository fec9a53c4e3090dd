"""One training from the run folder to the adapter folder: load, encode, train, save. The heavy half of the trainer."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from transformers.trainer_callback import PrinterCallback
from trl import SFTConfig

from feedback.errors import RunError
from training.base_model import Placement, cast_adapter, choose_placement, count_parameters, load_model, load_tokenizer, speed_up
from training.budget import Budget
from training.checkpoints import Checkpoint, newest, prune
from training.dataset import read_snapshot
from training.durable import sync
from training.fast_sft import IGNORED, FastSFTTrainer, Row, encode, plan_batches, refuse_long
from training.lora_gguf import convert
from training.recipe import Recipe
from training.watch import Stop, Watch

LIBRARIES = ("torch", "transformers", "peft", "trl", "bitsandbytes")


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
