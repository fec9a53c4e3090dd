"""The adapter on a loaded base: put there fresh, or with the weights of an earlier one (a warm start)."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from feedback.errors import AdapterError
from training.methods import CONFIG, WEIGHTS, kind_in
from training.recipe import Recipe
from training.upper_layers import linear_names


def attach(model: Any, recipe: Recipe) -> Any:
    """Put a fresh adapter of the recipe's method (float32) on a base; a PeftModel, or the base itself where all is trained.

    For `prefix`, the rank is the number of positions before the prompt.
    """
    from peft import LoraConfig, PrefixTuningConfig, get_peft_model

    torch.manual_seed(recipe.seed)
    targets: str | list[str] = "all-linear"
    numbers = None
    if recipe.upper_layers is not None:
        targets, numbers = linear_names(model, upper=recipe.upper_layers)
    if recipe.method == "full":
        return model.requires_grad_(True)
    if recipe.method == "prefix":
        return get_peft_model(model, PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=recipe.rank))
    config = LoraConfig(
        r=recipe.rank,
        lora_alpha=recipe.alpha,
        lora_dropout=recipe.dropout,
        use_dora=recipe.method == "dora",
        use_rslora=recipe.method == "rslora",
        target_modules=targets,
        layers_to_transform=numbers,
        task_type="CAUSAL_LM",
    )
    return get_peft_model(model, config)


def begin_prefix(model: Any, prompt: Sequence[int]) -> None:
    """Let a fresh prefix begin as what the base itself makes of the first tokens of a prompt (repeated where it is short).

    A random one drowns what the model would say; real words are the authors' advice (Li and Liang 2021, section 7.4).
    """
    from peft.tuners.cartridge.utils import initialize_kv_prefix_from_past_key_values

    wanted = model.active_peft_config.num_virtual_tokens
    tokens = [prompt[place % len(prompt)] for place in range(wanted)]
    base = model.get_base_model()
    with torch.no_grad():
        past = base(input_ids=torch.tensor([tokens], device=base.device), use_cache=True).past_key_values
    initialize_kv_prefix_from_past_key_values(model, past_key_values=past)


def warm_start(model: Any, folder: Path, recipe: Recipe) -> None:
    """Give the fresh adapter of `model` the weights in `folder`, an adapter of the same method, rank and base.

    Raises AdapterError for a folder that holds none, or one of another base, or tensors of other names or shapes; its kind and
    scale are the recipe's, which has looked at them (`training.methods.check_start`).
    """
    found = _weights(folder, recipe)
    if recipe.method == "full":
        own = {name: value for name, value in model.state_dict().items() if name not in _tied(model)}
    else:
        from peft import get_peft_model_state_dict

        own = get_peft_model_state_dict(model, save_embedding_layers=False)
        _refuse_other_base(folder, recipe)
    differing = sorted(own.keys() ^ found.keys()) or [name for name in own if own[name].shape != found[name].shape]
    if differing:
        raise AdapterError(
            f"Training cannot start from {folder.name}: its tensors are not those of a {recipe.method} adapter of rank "
            f"{recipe.rank} on this base ({differing[0]} first). Start from another adapter, or from none."
        )
    spoilt = [name for name, value in found.items() if not torch.isfinite(value).all()]
    if spoilt:
        raise AdapterError(f"Training cannot start from {folder.name}: {spoilt[0]} holds values that are not numbers.")
    load_weights(model, found)


def load_weights(model: Any, weights: dict[str, torch.Tensor]) -> None:
    """Copy saved weights, named as in their file, into the adapter of a model (or into a whole one)."""
    if not hasattr(model, "peft_config"):
        model.load_state_dict(weights, strict=False)  # tied weights are stored once
        return
    from peft import set_peft_model_state_dict

    set_peft_model_state_dict(model, weights)


def _tied(model: Any) -> set[str]:
    return set(getattr(model, "all_tied_weights_keys", None) or {})


def _weights(folder: Path, recipe: Recipe) -> dict[str, torch.Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return dict(load_file(folder / ("model.safetensors" if kind_in(folder) == "full" else WEIGHTS)))
    except (OSError, ValueError, SafetensorError) as error:
        raise AdapterError(f"Training cannot start from {folder.name}: it cannot be read ({error}).") from error


def _refuse_other_base(folder: Path, recipe: Recipe) -> None:
    """Refuse weights that mean something else on another base, though their shapes may fit."""
    theirs = json.loads((folder / CONFIG).read_text("utf-8"))
    base = recipe.base_name or Path(recipe.base).name
    if theirs.get("base_model_name_or_path") not in (None, base, recipe.base):
        raise AdapterError(
            f"Training cannot start from {folder.name}: it belongs to {theirs['base_model_name_or_path']}, not to {base}."
        )


def prefix_cache(model: Any, rows: int) -> Any:
    """Return the keys and values that a prefix puts before each of `rows` prompts; None for every other model."""
    if getattr(model, "peft_config", None) and model.active_peft_config.is_prompt_learning:
        return model.get_prompt(batch_size=rows)
    return None
