"""Adapters on the upper layers alone: the way back ends below them, and kept activations change no loss."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gguf
import pytest
import torch
from safetensors.torch import load_file

from assistant.adapter_checks import check_adapter
from assistant.engines.base import AdapterVersion
from feedback.errors import ModelError
from training.base_model import Placement, load_model, speed_up
from training.fast_sft import Row, collate, labelled, labels_loss
from training.recipe import Recipe
from training.session import train
from training.tiny_model import build_tiny
from training.upper_layers import Kept, Lower, linear_names

ROWS = [Row(prompt=tuple(range(3, 3 + length)), completion=(7, 9, 11, 5)) for length in (20, 33, 41, 12)]


@pytest.fixture(scope="module")
def four_layers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_tiny(tmp_path_factory.mktemp("four-layers"), layers=4)


def model_of(base: Path, *, upper: int) -> Any:
    model = load_model(
        base, Placement(device="cpu", dtype=torch.float32, keep=True), Recipe(base=str(base), rank=4, upper_layers=upper)
    )
    torch.manual_seed(1)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data.normal_(std=0.1)
    speed_up(model)
    return model


def batch_of(*numbers: int) -> dict[str, torch.Tensor]:
    return collate([labelled(ROWS[number], number=number) for number in numbers], pad_token_id=0)


def test_the_way_back_ends_below_the_adapted_layers(four_layers: Path) -> None:
    model = model_of(four_layers, upper=1)
    layers = model.get_base_model().model.layers
    outputs: list[bool] = []
    for layer in layers:
        layer.register_forward_hook(lambda _module, _inputs, output: outputs.append(output.requires_grad))
    labels_loss(model, **batch_of(0, 1)).backward()
    assert outputs == [False, False, False, True]
    trained = {name for name, value in model.named_parameters() if value.grad is not None}
    assert trained == {name for name, value in model.named_parameters() if value.requires_grad}
    assert trained and all(".layers.3." in name for name in trained)


def test_losses_and_gradients_with_kept_activations_are_those_without(four_layers: Path, tmp_path: Path) -> None:
    model = model_of(four_layers, upper=2)
    lengths = [row.length for row in ROWS]
    runs: list[int] = []
    model.get_base_model().model.layers[0].register_forward_hook(lambda *_: runs.append(1))
    for folder in (None, tmp_path / "activations"):
        lower = Lower(model.get_base_model(), upper=2, lengths=lengths, folder=folder)
        # the second epoch batches the rows otherwise: what is kept belongs to a row
        for numbers in ((0, 1), (2, 3), (3, 0), (1, 2)):
            batch = batch_of(*numbers)
            plain = labels_loss(model, **{name: batch[name] for name in ("input_ids", "labels")})
            plain.backward()
            expected = {name: value.grad.clone() for name, value in model.named_parameters() if value.grad is not None}
            model.zero_grad()
            runs.clear()
            kept = labels_loss(model, **batch, lower=lower)
            assert len(runs) == (1 if numbers in ((0, 1), (2, 3)) else 0)
            kept.backward()
            assert abs(plain.item() - kept.item()) < 2e-3 * plain.item()
            for name, value in model.named_parameters():
                if value.grad is not None:
                    torch.testing.assert_close(value.grad, expected[name], rtol=0.05, atol=2e-3)
            model.zero_grad()
    assert (tmp_path / "activations" / "activations.f16").stat().st_size == Kept.bytes(lengths, width=64)


def test_a_row_that_half_precision_cannot_hold_is_not_kept() -> None:
    kept = Kept([2, 3], width=4, folder=None)
    kept.put(0, torch.full((2, 4), 1e6))
    kept.put(1, torch.full((3, 4), 2.5))
    assert not kept.holds(0) and kept.holds(1)
    assert torch.equal(kept.get(1).float(), torch.full((3, 4), 2.5))


def test_more_layers_than_the_base_has_and_other_architectures_are_refused(four_layers: Path) -> None:
    from transformers import AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel

    model = AutoModelForCausalLM.from_pretrained(str(four_layers))
    names, numbers = linear_names(model, upper=3)
    assert numbers == [1, 2, 3] and len(names) == 7
    with pytest.raises(ModelError, match="upper_layers is 5, and the base model has 4 layers"):
        linear_names(model, upper=5)
    other = GPT2LMHeadModel(GPT2Config(n_embd=16, n_layer=1, n_head=2, vocab_size=50))
    with pytest.raises(ModelError, match="upper_layers cannot be used with a 'gpt2' model: known are llama, mistral"):
        linear_names(other, upper=1)


def test_an_adapter_of_the_upper_layers_is_trained_converted_and_passes_the_checks(
    make_run: Callable[..., Path], four_layers: Path
) -> None:
    run = make_run(epochs=2.0, upper_layers=1, keep_activations=True, evaluation_share=0.2)
    config = {**json.loads((run / "config.json").read_text("utf-8")), "base": str(four_layers)}

    never = SimpleNamespace(asked=False, training=False)
    figures = train(run, Recipe.from_json(json.dumps(config)), stop=never, started=time.monotonic())
    assert figures is not None and figures["held_out"]["rows"] > 0
    names = {tensor.name for tensor in gguf.GGUFReader(str(run / "adapter" / "adapter.gguf")).tensors}
    assert len(names) == 14 and all(name.startswith("blk.3.") for name in names)
    version = AdapterVersion(version="v0001", path=run / "adapter")
    assert check_adapter(version, hf_dir=four_layers, base_sha256="0" * 64, engine="llama_cpp") == "lora"
    assert not (run / "activations").exists() and not (run / "adapter.reserve").exists()


@pytest.mark.parametrize(
    ("method", "objective"), [("dora", "sft"), ("rslora", "sft"), ("qlora", "dpo"), ("qlora", "kto"), ("dora", "sft+kto")]
)
def test_upper_layers_go_with_every_method_that_has_layers_and_with_preferences(
    method: str, objective: str, make_run: Callable[..., Path]
) -> None:
    rows: dict[str, Any] = {"count": 12, "pairs": 8, "ups": 6, "downs": 6}
    rates: dict[str, Any] = {"learning_rate": 1e-2, "preference_rate": 1e-2}
    keep = objective.startswith("sft")
    run = make_run(**rows, **rates, method=method, objective=objective, upper_layers=1, keep_activations=keep, max_steps=2)
    recipe = Recipe.from_json((run / "config.json").read_text("utf-8"))
    figures = train(run, recipe, stop=SimpleNamespace(asked=False, training=False), started=time.monotonic())
    assert figures is not None and list(figures["stages"]) == objective.split("+") and figures["notes"] == []
    tensors = load_file(run / "adapter" / "adapter_model.safetensors")
    assert tensors and all(".layers.1." in name for name in tensors)
    assert all(value.abs().max() > 0 for name, value in tensors.items() if ".lora_B." in name), "what begins at nought has moved"
