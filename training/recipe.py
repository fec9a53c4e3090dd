"""The recipe of one training: every number that decides what comes out of it, in one record."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

from feedback.errors import SettingsError
from training.methods import check_combination, check_objective, check_start

Dequantised = Literal["auto", "keep", "nf4"]
ComputeDtype = Literal["auto", "float32", "bfloat16"]
Method = Literal["qlora", "lora", "dora", "rslora", "prefix", "full"]
Objective = Literal["sft", "dpo", "kto", "sft+dpo", "sft+kto"]
Schedule = Literal["linear", "cosine", "constant"]

TRACKERS = ("tensorboard", "trackio", "wandb")
"""What `report_to` may name."""

_CHOICES = {
    "dequantised": Dequantised,
    "compute_dtype": ComputeDtype,
    "method": Method,
    "objective": Objective,
    "schedule": Schedule,
}
_POSITIVE = (
    "rank",
    "alpha",
    "learning_rate",
    "batch_size",
    "max_batch_tokens",
    "epochs",
    "clip",
    "max_length",
    "beta",
    "preference_rate",
    "preference_epochs",
    "accumulation",
    "evaluations",
)
_SHARES = ("dropout", "warmup", "evaluation_share")
_ABOVE_ZERO_OR_ABSENT = ("minutes", "max_steps", "threads", "upper_layers")
_NOT_BELOW_ZERO = ("weight_decay", "patience")


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How an adapter is trained; by default QLoRA (Dettmers et al. 2023, arXiv:2305.14314) on every linear layer.

    `base` is the folder of the dense base model (Hugging Face layout). `minutes` is the wall-clock budget of the whole
    trainer, loading included; None: no budget. `max_length` counts prompt and completion together, in tokens.
    `warmup` is a share of the steps. `max_steps` caps the steps whatever the budget.

    `dequantised` says where the 4-bit base lives: "nf4" unpacks each weight at every use (least memory), "keep" unpacks
    all once (the same numbers, faster on a CPU), "auto" keeps when the memory allows it.

    `method` and `objective` are explained in `training.methods`. `start` is an adapter folder of the same method, rank and
    base whose weights the training begins from. `beta`, `preference_rate` (learning rate), `preference_epochs` and
    `preference_share` (of the minutes) belong to the DPO or KTO stage.

    `accumulation` counts the batches behind one step. `upper_layers` adapts that many of the last layers alone, and
    `keep_activations` then keeps what the frozen ones below compute. `evaluation_share` of the rows is held out to measure
    the loss, `evaluations` times an epoch; `patience` is how many such measurements may pass without a gain before training
    stops (0: any number). `report_to` names trackers to send the figures to.
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
    method: Method = "qlora"
    objective: Objective = "sft"
    start: str | None = None
    beta: float = 0.1
    preference_rate: float = 5e-6
    preference_epochs: float = 1.0
    preference_share: float = 0.3
    upper_layers: int | None = None
    keep_activations: bool = False
    accumulation: int = 1
    weight_decay: float = 0.0
    schedule: Schedule = "linear"
    evaluation_share: float = 0.0
    evaluations: int = 2
    patience: int = 0
    report_to: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Refuse numbers that no training can use, all faults at once; then what does not go together."""
        faults = [f"{name} is {getattr(self, name)}: it must be above 0" for name in _POSITIVE if getattr(self, name) <= 0]
        for name in _ABOVE_ZERO_OR_ABSENT:
            if self._spoilt(name):
                faults.append(f"{name} is {getattr(self, name)}: leave it out or make it above 0")
        for name in _NOT_BELOW_ZERO:
            if getattr(self, name) < 0:
                faults.append(f"{name} is {getattr(self, name)}: it must not be below 0")
        for name in _SHARES:
            if not 0 <= getattr(self, name) < 1:
                faults.append(f"{name} is {getattr(self, name)}: it must be from 0 to below 1")
        if not 0 < self.preference_share < 1:
            faults.append(f"preference_share is {self.preference_share}: it must be above 0 and below 1")
        for name, kind in _CHOICES.items():
            if getattr(self, name) not in get_args(kind):
                faults.append(f"{name} is {getattr(self, name)!r}: choose one of {', '.join(get_args(kind))}")
        strangers = [name for name in self.report_to if name not in TRACKERS]
        if strangers:
            faults.append(f"report_to names {', '.join(map(repr, strangers))}: choose from {', '.join(TRACKERS)}")
        if self.keep_activations and self.upper_layers is None:
            faults.append("keep_activations is true without upper_layers: say how many of the last layers are adapted")
        if self.patience and not self.evaluation_share:
            faults.append(f"patience is {self.patience} without evaluation_share: hold some rows out to measure on")
        if faults:
            raise SettingsError("The training recipe is wrong: " + "; ".join(faults) + ".")
        check_combination(self.method, dequantised=self.dequantised, upper_layers=self.upper_layers)
        check_objective(
            self.objective,
            evaluation_share=self.evaluation_share,
            patience=self.patience,
            keep_activations=self.keep_activations,
        )
        if self.start is not None:
            check_start(Path(self.start), self.method, rank=self.rank, alpha=self.alpha, upper_layers=self.upper_layers)

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
        given: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in values.items()}
        return cls(**given)


def _faults(values: Mapping[str, Any]) -> list[str]:
    hints = get_type_hints(Recipe)
    known = {field.name for field in fields(Recipe)}
    faults = [f"unknown key {key!r}" for key in sorted(set(values) - known)]
    if "base" not in values:
        faults.append("the key 'base' is missing")
    for key in sorted(known & set(values)):
        if not _fits(values[key], hints[key]):
            faults.append(f"{key} is {values[key]!r}: it must be {' or '.join(_names(hints[key]))}")
    return faults


def _fits(value: Any, hint: Any) -> bool:
    if get_origin(hint) is tuple:
        return isinstance(value, list) and all(isinstance(part, str) for part in value)
    if isinstance(value, bool):
        return hint is bool
    return isinstance(value, _allowed(hint))


def _names(hint: Any) -> list[str]:
    return ["a list of str"] if get_origin(hint) is tuple else [kind.__name__ for kind in _allowed(hint)]


def _allowed(hint: Any) -> tuple[type, ...]:
    if isinstance(hint, type):
        return (int, float) if hint is float else (hint,)
    if all(isinstance(choice, str) for choice in get_args(hint)):
        return (str,)
    return tuple(kind for part in get_args(hint) for kind in _allowed(part))
