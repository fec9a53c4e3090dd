"""The plan of a training made to fit into memory before it begins, and kept: a second start goes on with the same batches."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import psutil
import torch

from training.base_model import Placement, choose_placement, count_parameters, free_memory
from training.checkpoints import newest
from training.memory import Fitted, Load, Shape, fit, read_shape
from training.methods import kind_of
from training.recipe import Recipe
from training.stages import StageRows
from training.trainer import write_flushed

_FILE = "plan.json"


@dataclass(frozen=True, kw_only=True)
class Fit:
    """What a training goes by: the recipe and the placement as reduced, the plan, and the bytes of the process before it."""

    recipe: Recipe
    placement: Placement
    plan: Fitted
    present: int

    @property
    def expected(self) -> int | None:
        """The bytes that the process should not outgrow; None on a GPU, whose memory is another."""
        return self.present + self.plan.needed if self.placement.device == "cpu" else None

    def figures(self) -> dict[str, Any]:
        """Return what result.json tells of the memory: what was estimated and what was measured, MB."""
        return {**self.plan.figures(present=self.present), "measured_peak_mb": _measured(self.placement.device) // 2**20}


def fit_training(run: Path, recipe: Recipe, stages: Sequence[StageRows]) -> Fit:
    """Choose the placement and reduce the recipe until the training fits into what is free.

    Raises RunError when nothing does, ModelError for a base whose sizes cannot be read.
    """
    base = Path(recipe.base)
    parameters = count_parameters(base)
    placement = choose_placement(recipe, parameters=parameters)
    begun = _read(run)
    if begun:
        recipe = replace(recipe, **begun["batches"])
        placement = replace(placement, dtype=getattr(torch, begun["dtype"]))
    shape = read_shape(base, parameters=parameters)
    load = _load(shape, recipe, placement, stages)
    fitted = fit(
        shape,
        load,
        free=free_memory(placement.device),
        may_split=not begun,
        may_pack=placement.rounded and recipe.dequantised == "auto",
        may_recompute=recipe.method != "prefix",
    )
    batches = {name: getattr(fitted.load, name) for name in ("batch_size", "max_batch_tokens", "accumulation")}
    dtype = str(placement.dtype).removeprefix("torch.")
    write_flushed(run / _FILE, json.dumps({"batches": batches, "dtype": dtype}))
    present = psutil.Process().memory_info().rss if placement.device == "cpu" else 0
    return Fit(
        recipe=replace(recipe, **batches), placement=replace(placement, keep=fitted.load.keep), plan=fitted, present=present
    )


def _read(run: Path) -> dict[str, Any]:
    """Return the plan that the checkpoints of this run were made by; {} where there are none."""
    folder = run / "checkpoints"
    if newest(folder) is None and not any(newest(path) for path in folder.glob("*/")):
        return {}
    try:
        found: dict[str, Any] = json.loads((run / _FILE).read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return found


def _load(shape: Shape, recipe: Recipe, placement: Placement, stages: Sequence[StageRows]) -> Load:
    adapted = min(shape.layers, recipe.upper_layers or shape.layers)
    return Load(
        longest=max(stage.longest for stage in stages),
        answer=max(stage.answer for stage in stages),
        copies=max(stage.copies for stage in stages),
        batch_size=recipe.batch_size,
        max_batch_tokens=recipe.max_batch_tokens,
        accumulation=recipe.accumulation,
        trained=trained_numbers(shape, recipe, adapted=adapted),
        rank=0 if kind_of(recipe.method) in ("prefix", "full") else recipe.rank,
        adapted=adapted,
        number=placement.dtype.itemsize,
        keep=placement.keep,
        dora=recipe.method == "dora",
        best_kept=recipe.evaluation_share > 0,
    )


def trained_numbers(shape: Shape, recipe: Recipe, *, adapted: int) -> int:
    """Return about how many numbers a method trains: of LoRA, both sides of seven products a layer."""
    if recipe.method == "full":
        return shape.parameters
    if recipe.method == "prefix":
        return 2 * recipe.rank * shape.keys * shape.layers
    return recipe.rank * adapted * (9 * shape.hidden + 2 * shape.keys + 3 * shape.inner)


def _measured(device: str) -> int:
    import resource

    if device == "cuda":
        return int(torch.cuda.max_memory_allocated())
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
