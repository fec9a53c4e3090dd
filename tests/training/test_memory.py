"""Memory: the estimate is near what is really kept, and a plan is made smaller in the stated order or refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from feedback.errors import RunError
from training.base_model import Placement, count_parameters, load_model, speed_up
from training.fast_sft import Row, collate, labelled, labels_loss
from training.memory import LOST, MARGIN, Load, Shape, available, fit, needs, peak, read_shape
from training.recipe import Recipe

SMALL = Shape(parameters=135_000_000, hidden=576, keys=192, inner=1536, layers=30, vocabulary=49152, tied=True)
LOAD = Load(longest=350, answer=20, batch_size=4, max_batch_tokens=4096, accumulation=1, trained=4_900_000, rank=16, adapted=30)


@pytest.mark.parametrize("adapted", [2, 1])
@pytest.mark.parametrize("recompute", [False, True])
def test_the_activations_are_those_that_the_way_back_really_keeps(tiny_base: Path, adapted: int, recompute: bool) -> None:
    recipe = Recipe(base=str(tiny_base), rank=4, upper_layers=adapted)
    model = load_model(tiny_base, Placement(device="cpu", dtype=torch.float32, keep=True), recipe)
    speed_up(model)
    model.train()
    if recompute:
        model.get_base_model().gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    rows = [labelled(Row(prompt=tuple(range(3, 203)), completion=(7, 9)), number=number) for number in range(8)]
    weights = {value.untyped_storage().data_ptr() for value in model.parameters()}
    kept: dict[int, int] = {}

    def keep(value: torch.Tensor) -> torch.Tensor:
        storage = value.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return value

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda value: value):
        loss = labels_loss(model, **collate(rows, pad_token_id=0))
    shape = read_shape(tiny_base, parameters=count_parameters(tiny_base))
    load = replace(LOAD, longest=202, answer=2, batch_size=8, rank=4, adapted=adapted, recompute=False)
    estimated = needs(shape, load)["activations"]
    if recompute:  # one layer is computed again while its way back is walked: this count is without it
        again = needs(shape, replace(load, recompute=True))["activations"]
        assert sum(kept.values()) < again / LOST < again < 1.6 * needs(shape, replace(load, adapted=1))["activations"]
    else:
        assert 0.95 < estimated / LOST / sum(kept.values()) < 1.1
    loss.backward()


def plan(free: int, load: Load = LOAD, *, may_split: bool = True, may_pack: bool = True, may_recompute: bool = True) -> Load:
    return fit(SMALL, load, free=free, may_split=may_split, may_pack=may_pack, may_recompute=may_recompute).load


def test_a_plan_is_made_smaller_step_by_step_and_the_effective_batch_stays() -> None:
    asked = peak(SMALL, LOAD)
    assert plan(asked + MARGIN) == LOAD
    halved = plan(asked + MARGIN - 1)
    assert (halved.batch_size, halved.accumulation, halved.keep) == (2, 2, True)
    single = replace(LOAD, batch_size=1, accumulation=4, max_batch_tokens=1024)
    packed = plan(peak(SMALL, single) + MARGIN - 1)
    assert (packed.batch_size, packed.accumulation, packed.keep, packed.recompute) == (1, 4, False, False)
    longer = replace(LOAD, longest=1500)
    least = replace(longer, batch_size=1, accumulation=4, max_batch_tokens=1500, keep=False, recompute=True)
    assert plan(peak(SMALL, least) + MARGIN, longer) == least
    again = plan(peak(SMALL, halved) + MARGIN - 1, may_split=False)
    assert again.batch_size == LOAD.batch_size and (not again.keep or again.recompute)


def test_what_was_changed_is_told_and_what_cannot_be_made_to_fit_is_refused_with_both_figures() -> None:
    fitted = fit(SMALL, LOAD, free=peak(SMALL, LOAD) + MARGIN - 1, may_split=True, may_pack=False, may_recompute=False)
    assert fitted.notes == ("Memory was short, so the training was planned with 2 rows at a time and 2 batches a step.",)
    with pytest.raises(RunError, match=r"needs [12]\.\d GiB of memory at the least, and 0\.1 GiB are free: end other programs"):
        plan(100 * 2**20)


def test_fewer_adapted_layers_packing_and_full_training_weigh_as_they_do() -> None:
    assert peak(SMALL, replace(LOAD, adapted=10)) < peak(SMALL, LOAD)
    assert needs(SMALL, replace(LOAD, keep=False))["weights"] < 0.5 * needs(SMALL, LOAD)["weights"]
    assert peak(SMALL, replace(LOAD, trained=SMALL.parameters)) > 4 * 4 * SMALL.parameters


def test_a_container_with_less_than_the_machine_counts(tmp_path: Path) -> None:
    free = available(tmp_path)
    for name, text in {
        "memory.max": str(100 * 2**20),
        "memory.current": str(80 * 2**20),
        "memory.stat": f"anon 1\ninactive_file {30 * 2**20}\n",
    }.items():
        (tmp_path / name).write_text(text, "utf-8")
    assert available(tmp_path) == 50 * 2**20 < free
    (tmp_path / "memory.max").write_text("max\n", "utf-8")
    assert available(tmp_path) > 50 * 2**20
