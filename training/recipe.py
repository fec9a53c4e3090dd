"""The recipe of one training: every number that decides what comes out of it, in one record."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, get_args, get_type_hints

from feedback.errors import SettingsError

Dequantised = Literal["auto", "keep", "nf4"]
ComputeDtype = Literal["auto", "float32", "bfloat16"]


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How an adapter is trained: QLoRA (Dettmers et al. 2023, arXiv:2305.14314) on every linear layer.

    `base` is the folder of the dense base model (Hugging Face layout). `minutes` is the wall-clock budget of the whole
    trainer, loading included; None: no budget. `max_length` counts prompt and completion together, in tokens.
    `warmup` is a share of the steps. `max_steps` caps the steps whatever the budget.

    `dequantised` says where the 4-bit base lives: "nf4" unpacks each weight at every use (least memory), "keep" unpacks
    all once (the same numbers, faster on a CPU), "auto" keeps when the memory allows it.
    """

    base: str
    base_name: str = ""
    rank: int = 16
    alpha: int = 32
    dropout: float = 0.0
    learning_rate: float = 5e-4
    batch_size: int = 4
    max_batch_tokens: int = 4096
    epochs: float = 2.0
    warmup: float = 0.05
    clip: float = 1.0
    seed: int = 0
    minutes: float | None = None
    max_length: int = 2048
    max_steps: int | None = None
    dequantised: Dequantised = "auto"
    compute_dtype: ComputeDtype = "auto"
    threads: int | None = None
    nice: int = 10
    checkpoint_seconds: float = 60.0

    def __post_init__(self) -> None:
        """Refuse numbers that no training can use, all faults at once."""
        positive = ("rank", "alpha", "learning_rate", "batch_size", "max_batch_tokens", "epochs", "clip", "max_length")
        faults = [f"{name} is {getattr(self, name)}: it must be above 0" for name in positive if getattr(self, name) <= 0]
        optional = ("minutes", "max_steps", "threads")
        faults += [f"{name} is {getattr(self, name)}: leave it out or make it above 0" for name in optional if self._spoilt(name)]
        for name in ("dropout", "warmup"):
            if not 0 <= getattr(self, name) < 1:
                faults.append(f"{name} is {getattr(self, name)}: it must be from 0 to below 1")
        for name, kind in (("dequantised", Dequantised), ("compute_dtype", ComputeDtype)):
            if getattr(self, name) not in get_args(kind):
                faults.append(f"{name} is {getattr(self, name)!r}: choose one of {', '.join(get_args(kind))}")
        if faults:
            raise SettingsError("The training recipe is wrong: " + "; ".join(faults) + ".")

    def _spoilt(self, name: str) -> bool:
        value = getattr(self, name)
        return value is not None and value <= 0

    def to_json(self) -> str:
        """Return the recipe as JSON with sorted keys."""
        return json.dumps(asdict(self), indent=2, sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> Recipe:
        """Read what `to_json` wrote. Raises SettingsError naming every unknown, missing or mistyped key."""
        try:
            values = json.loads(text)
        except json.JSONDecodeError as error:
            raise SettingsError(f"The training recipe is no JSON (line {error.lineno}): start the night again.") from error
        if not isinstance(values, dict):
            raise SettingsError(f"The training recipe is a {type(values).__name__}: it must be a JSON object.")
        faults = _faults(values)
        if faults:
            raise SettingsError("The training recipe is wrong: " + "; ".join(faults) + ".")
        return cls(**values)


def _faults(values: Mapping[str, Any]) -> list[str]:
    hints = get_type_hints(Recipe)
    known = {field.name for field in fields(Recipe)}
    faults = [f"unknown key {key!r}" for key in sorted(set(values) - known)]
    if "base" not in values:
        faults.append("the key 'base' is missing")
    for key in sorted(known & set(values)):
        value, allowed = values[key], _allowed(hints[key])
        if isinstance(value, bool) or not isinstance(value, allowed):
            faults.append(f"{key} is {value!r}: it must be {' or '.join(kind.__name__ for kind in allowed)}")
    return faults


def _allowed(hint: Any) -> tuple[type, ...]:
    if isinstance(hint, type):
        return (int, float) if hint is float else (hint,)
    if all(isinstance(choice, str) for choice in get_args(hint)):
        return (str,)
    return tuple(kind for part in get_args(hint) for kind in _allowed(part))
