"""The ways to train an adapter, what each leaves behind, and which of them go together. No heavy imports: settings use it.

    method   base while training    what is trained                          served by
    qlora    nf4 numbers            LoRA on every linear layer               both engines
    rslora   nf4 numbers            LoRA scaled by alpha / sqrt(rank)        both engines
    lora     as imported            LoRA on every linear layer               both engines
    dora     nf4 numbers            LoRA and each output's magnitude         transformers, an instance of the base each
    prefix   as imported            keys and values before the prompt        transformers, beside the others
    full     as imported            every weight                             transformers, an instance of its own

QLoRA: Dettmers et al. 2023, arXiv:2305.14314. rsLoRA: Kalajdzievski 2023, arXiv:2312.03732. DoRA: Liu et al. 2024,
arXiv:2402.09353. Prefix tuning: Li and Liang 2021, arXiv:2101.00190. DPO: Rafailov et al. 2023, arXiv:2305.18290.
KTO: Ethayarajh et al. 2024, arXiv:2402.01306.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

from feedback.errors import AdapterError, SettingsError

Engine = Literal["llama_cpp", "transformers"]
Kind = Literal["lora", "dora", "prefix", "full"]
"""What an adapter folder holds, as an engine sees it."""

CONFIG: Final = "adapter_config.json"
WEIGHTS: Final = "adapter_model.safetensors"
GGUF: Final = "adapter.gguf"

FILES: Final[dict[Kind, tuple[str, ...]]] = {
    "lora": (CONFIG, WEIGHTS, GGUF),
    "dora": (CONFIG, WEIGHTS),
    "prefix": (CONFIG, WEIGHTS),
    "full": ("config.json", "model.safetensors"),
}
"""What the folder of each kind holds, beside its manifest."""

PARAMETER_BYTES: Final = 16
"""Memory of one fully trained parameter: weight, gradient and Adam's two moments, each in float32."""


@dataclass(frozen=True, kw_only=True)
class _Method:
    kind: Kind
    rounded: bool  # whether the base's linear layers are rounded to nf4
    rate: float = 5e-4  # the learning rate where none is set
    gguf_lacks: str = ""  # why llama.cpp cannot serve it
    nearest: str = ""  # what it can serve instead


_METHODS: Final = {
    "qlora": _Method(kind="lora", rounded=True),
    "rslora": _Method(kind="lora", rounded=True, rate=1.25e-4),  # its scale is sqrt(rank) larger: at rank 16 the same steps
    "lora": _Method(kind="lora", rounded=False),
    "dora": _Method(kind="dora", rounded=True, gguf_lacks="a GGUF adapter holds no magnitudes", nearest="rslora"),
    "prefix": _Method(kind="prefix", rounded=False, rate=5e-3, gguf_lacks="a GGUF adapter holds no prefix", nearest="qlora"),
    "full": _Method(kind="full", rounded=False, rate=2e-5, gguf_lacks="a GGUF adapter holds no whole model", nearest="lora"),
}


def kind_of(method: str) -> Kind:
    """Return what a training by this method leaves behind."""
    return _METHODS[method].kind


def usual_rate(method: str) -> float:
    """Return the learning rate that a method is trained with where none is set."""
    return _METHODS[method].rate


def is_rounded(method: str) -> bool:
    """Say whether this method trains on nf4 numbers."""
    return _METHODS[method].rounded


def stages_of(objective: str) -> tuple[str, ...]:
    """Return the stages of an objective in their order: ("sft",), ("dpo",), ("sft", "kto") and so on."""
    return tuple(objective.split("+"))


def check_combination(
    method: str, *, engine: Engine | None = None, dequantised: str = "auto", upper_layers: int | None = None
) -> None:
    """Raise SettingsError, with the reason and the nearest thing that works, for settings that cannot go together.

    `engine` is what will serve the adapter; None: not known here. The other values are those of a Recipe.
    """
    chosen = _METHODS[method]
    if engine == "llama_cpp" and chosen.gguf_lacks:
        raise SettingsError(
            f"method = {method!r} cannot be served by llama_cpp ({chosen.gguf_lacks}): choose method = {chosen.nearest!r}, "
            'or set engine.kind = "transformers".'
        )
    if dequantised == "nf4" and not chosen.rounded:
        instead = "choose method = 'qlora'" if chosen.kind == "lora" else "leave dequantised out"
        raise SettingsError(
            f"method = {method!r} trains on the base as it is, and dequantised = 'nf4' would round it: {instead}."
        )
    if upper_layers is not None and chosen.kind in ("prefix", "full"):
        raise SettingsError(
            f"method = {method!r} has no adapted layers to choose from: leave upper_layers = {upper_layers} out, "
            "or choose method = 'qlora'."
        )


def check_objective(objective: str, *, rated: bool = True, **of_examples: float) -> None:
    """Raise SettingsError, with the nearest thing that works, where an objective would pass over settings, or has no rows.

    `of_examples` are settings that only a training on examples heeds (0 or False: not set); `rated` says whether there are
    ratings at all.
    """
    if "sft" in stages_of(objective):
        return
    if unheeded := [f"{name} = {json.dumps(value)}" for name, value in of_examples.items() if value]:
        raise SettingsError(
            f"objective = {objective!r} trains on no examples and would pass over {', '.join(unheeded)}: leave that out, or "
            f"choose objective = 'sft+{objective}'."
        )
    if not rated:
        raise SettingsError(
            f"objective = {objective!r} learns from ratings alone, and here are none: choose objective = 'sft', or "
            f"'sft+{objective}' that also learns from ratings later."
        )


def check_start(folder: Path, method: str, *, rank: int, alpha: int, upper_layers: int | None) -> None:
    """Raise AdapterError where the adapter in `folder`, which a training is to begin from, is not of the shape that it trains.

    One that cannot be read is left to the training, which says what is wrong with it.
    """
    try:
        kind = kind_in(folder)
        theirs: dict[str, Any] = {} if kind == "full" else json.loads((folder / CONFIG).read_text("utf-8"))
    except (OSError, ValueError):
        return
    refused = f"Training cannot start from {folder.name}: "
    instead = "Train as it was trained, or start from another adapter or from none (start_from)."
    if kind != kind_of(method):
        raise AdapterError(f"{refused}it holds a {kind} adapter, and method is {method!r}. {instead}")
    ours: dict[str, int] = {"num_virtual_tokens": rank} if kind == "prefix" else {"r": rank, "lora_alpha": alpha}
    if kind == "lora":
        ours["use_rslora"] = method == "rslora"
    for name, value in ours.items():
        if name in theirs and theirs[name] != value:
            raise AdapterError(f"{refused}its {name} is {theirs[name]}, and the recipe's is {value}. {instead}")
    adapted = theirs.get("layers_to_transform")
    if (upper := None if adapted is None else len(adapted)) != upper_layers:
        raise AdapterError(f"{refused}its upper_layers is {upper}, and the recipe's is {upper_layers}. {instead}")


def gguf_lacks(kind: Kind) -> str:
    """Return why llama.cpp cannot serve this kind of adapter; "" where it can."""
    return next(method.gguf_lacks for method in _METHODS.values() if method.kind == kind)


def kind_in(folder: Path) -> Kind:
    """Return what an adapter folder holds, by its files. Raises ValueError or OSError for a config that cannot be read."""
    if (folder / "config.json").is_file() and not (folder / CONFIG).is_file():
        return "full"
    config = json.loads((folder / CONFIG).read_text("utf-8"))
    if not isinstance(config, dict) or "peft_type" not in config:
        raise ValueError(f"{CONFIG} of {folder.name} names no kind of adapter")
    if config["peft_type"] == "PREFIX_TUNING":
        return "prefix"
    return "dora" if config.get("use_dora") else "lora"


def files_of(folder: Path) -> tuple[str, ...]:
    """Return the names of the files that an adapter folder must hold; those of LoRA where its kind cannot be read."""
    try:
        return FILES[kind_in(folder)]
    except (OSError, ValueError):
        return FILES["lora"]
