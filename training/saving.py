"""Writing what was trained: the adapter folder, all or nothing, and what the first of two stages hands to the second."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import torch

from feedback.errors import RunError
from training.checkpoints import mark_complete, newest
from training.durable import sync
from training.lora_gguf import convert
from training.methods import CONFIG, FILES, GGUF, kind_of
from training.recipe import Recipe

_ONE_FILE = "1000GB"
_WEIGHTS, _FIGURES = "weights.safetensors", "figures.json"


def save_adapter(run: Path, model: Any, recipe: Recipe) -> None:
    """Write `run`/adapter beside its place, flush it, and rename it. Raises RunError when a weight is not a number."""
    spoilt = [name for name, value in model.named_parameters() if value.requires_grad and not torch.isfinite(value).all()]
    if spoilt:
        raise RunError(f"{len(spoilt)} weights of the adapter are not numbers ({spoilt[0]} first): lower the learning rate.")
    partial, final = run / "adapter.partial", run / "adapter"
    for leftover in (partial, final):
        shutil.rmtree(leftover, ignore_errors=True)
    kind = kind_of(recipe.method)
    if kind == "full":
        model.config.use_cache = True  # off in training alone
        model.save_pretrained(str(partial), max_shard_size=_ONE_FILE)
    else:
        model.save_pretrained(str(partial), save_embedding_layers=False, selected_adapters=["default"])
        _name_base(partial / CONFIG, recipe.base_name or Path(recipe.base).name)
    if kind == "lora":
        convert(partial, Path(recipe.base), partial / GGUF)
    for file in partial.iterdir():
        if file.name not in FILES[kind]:  # a model card; settings of `generate`, which serving does not use
            file.unlink()
        else:
            sync(file)
    sync(partial)
    partial.rename(final)
    sync(run)


def _name_base(path: Path, name: str) -> None:
    """Name the base by its name: a path of this machine would mean nothing, and tell too much, on another."""
    settings = json.loads(path.read_text("utf-8"))
    settings["base_model_name_or_path"] = name
    path.write_text(json.dumps(settings, indent=2, sort_keys=True), "utf-8")


def hand_over(folder: Path, model: Any, figures: dict[str, Any], *, seconds: float) -> None:
    """Keep in `folder` the trained weights and the figures of a stage that is over, so that a kill later does not repeat it."""
    from safetensors.torch import save_file

    place = folder / f"checkpoint-{figures['steps']}"
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir(parents=True)
    weights = {name: value.detach().contiguous() for name, value in model.named_parameters() if value.requires_grad}
    save_file(weights, place / _WEIGHTS)
    (place / _FIGURES).write_text(json.dumps(figures), "utf-8")
    mark_complete(place, step=int(figures["steps"]), seconds=seconds)


def take_over(folder: Path, model: Any) -> tuple[dict[str, Any], float] | None:
    """Load what `hand_over` kept; returns its figures and seconds, or None where no stage is over."""
    from safetensors.torch import load_file

    kept = newest(folder)
    if kept is None:
        return None
    weights = load_file(kept.path / _WEIGHTS)
    for name, value in model.named_parameters():
        if value.requires_grad:
            value.data = weights[name].to(value.device)
    return json.loads((kept.path / _FIGURES).read_text("utf-8")), kept.seconds
