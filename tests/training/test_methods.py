"""Every method trains something that PEFT or transformers loads again, starts warm, and says early what it does not go with."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, get_args

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from feedback.errors import AdapterError, ModelError, SettingsError
from training.methods import FILES, check_combination, check_objective, kind_in, kind_of
from training.recipe import Method, Recipe

MakeRun = Callable[..., Path]
METHODS = get_args(Method)


def train_here(run: Path) -> dict[str, Any]:
    from training.session import train

    recipe = Recipe.from_json((run / "config.json").read_text("utf-8"))
    figures = train(run, recipe, stop=SimpleNamespace(asked=False, training=False), started=time.monotonic())
    assert figures is not None
    return figures


def open_base(folder: Path) -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(str(folder), dtype=torch.float32)


def open_trained(base: Path, folder: Path) -> Any:
    """Load what was trained as anybody would, without a line of ours."""
    from peft import PeftModel

    if kind_in(folder) == "full":
        return open_base(folder)
    return PeftModel.from_pretrained(open_base(base), str(folder))


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        out: torch.Tensor = model(input_ids=torch.arange(40, 60)[None], attention_mask=torch.ones(1, 20)).logits
    return out


@pytest.mark.parametrize("method", METHODS)
def test_what_a_method_leaves_is_whole_loads_elsewhere_and_changes_the_answers(
    method: str, make_run: MakeRun, tiny_base: Path
) -> None:
    run = make_run(method=method, max_steps=4, learning_rate=1e-2)
    figures = train_here(run)
    assert figures["method"] == method and figures["steps"] == 4
    folder = run / "adapter"
    assert kind_in(folder) == kind_of(method)
    assert sorted(path.name for path in folder.iterdir()) == sorted(FILES[kind_of(method)])
    moved = (logits(open_trained(tiny_base, folder)) - logits(open_base(tiny_base))).abs().max()
    assert moved > 0.05
    assert str(tiny_base) not in "".join(path.read_text("utf-8") for path in folder.glob("*.json"))


def test_the_gguf_of_rslora_scales_as_peft_does(make_run: MakeRun) -> None:
    import gguf

    run = make_run(method="rslora", max_steps=1, rank=4, alpha=32)
    train_here(run)
    field = gguf.GGUFReader(str(run / "adapter" / "adapter.gguf")).get_field("adapter.lora.alpha")
    assert field is not None
    assert field.contents() / 4 == 32 / 4**0.5  # llama.cpp scales by alpha / rank, rsLoRA by alpha / sqrt(rank)


def test_lora_trains_on_the_base_as_it_is_and_qlora_on_nf4_numbers(tiny_base: Path) -> None:
    from training.base_model import choose_placement, load_model

    own = dict(open_base(tiny_base).named_parameters())["model.layers.0.mlp.up_proj.weight"]
    differs = {}
    for method in ("lora", "qlora"):
        recipe = Recipe(base=str(tiny_base), method=method, compute_dtype="float32", dequantised="auto", rank=4)
        model = load_model(tiny_base, choose_placement(recipe, parameters=1), recipe)
        held = model.get_base_model().model.layers[0].mlp.up_proj.base_layer.weight
        differs[method] = float((held - own).detach().abs().max())
    assert differs["lora"] == 0 and differs["qlora"] > 0


def test_the_loss_of_a_prefix_is_that_of_pefts_own_forward(tiny_base: Path) -> None:
    from training.base_model import Placement, load_model
    from training.fast_sft import labels_loss

    recipe = Recipe(base=str(tiny_base), method="prefix", rank=8)
    model = load_model(tiny_base, Placement(device="cpu", dtype=torch.float32, keep=True, rounded=False), recipe)
    ids = torch.arange(5, 29).reshape(2, 12)
    labels, mask = ids.clone(), torch.ones_like(ids)
    labels[:, :6] = -100
    labels[1, 9:], mask[1, 9:] = -100, 0  # padding
    theirs = model(input_ids=ids, attention_mask=mask, labels=labels).loss
    ours = labels_loss(model, ids, labels)
    torch.testing.assert_close(ours, theirs)
    ours.backward()
    assert model.prompt_encoder["default"].embedding.weight.grad.abs().min() > 0


def test_a_fresh_prefix_says_what_its_words_would(tiny_base: Path) -> None:
    from training.adapters import begin_prefix
    from training.base_model import Placement, load_model

    recipe = Recipe(base=str(tiny_base), method="prefix", rank=6)
    model = load_model(tiny_base, Placement(device="cpu", dtype=torch.float32, keep=True, rounded=False), recipe)
    begin_prefix(model, [7, 8, 9])
    prompt = torch.arange(40, 50)[None]
    with torch.no_grad():
        after_words = open_base(tiny_base)(input_ids=torch.cat([torch.tensor([[7, 8, 9, 7, 8, 9]]), prompt], dim=1)).logits[:, 6:]
        after_prefix = model(input_ids=prompt, attention_mask=torch.ones_like(prompt)).logits[:, -10:]
    torch.testing.assert_close(after_prefix, after_words, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("method", ["qlora", "prefix", "full"])
def test_a_warm_start_begins_where_the_other_training_ended(method: str, make_run: MakeRun) -> None:
    first = make_run(name="r0001", method=method, max_steps=2, learning_rate=5e-3)
    train_here(first)
    second = make_run(name="r0002", method=method, max_steps=1, learning_rate=1e-12, start=str(first / "adapter"), seed=5)
    train_here(second)
    name = next(name for name in FILES[kind_of(method)] if name.endswith(".safetensors"))
    before, after = load_file(first / "adapter" / name), load_file(second / "adapter" / name)
    assert before.keys() == after.keys()
    assert all(torch.allclose(value, after[key], rtol=0, atol=1e-9) for key, value in before.items())


def test_a_start_that_does_not_fit_is_one_sentence(make_run: MakeRun, tmp_path: Path) -> None:
    first = make_run(name="r0001", max_steps=1)
    train_here(first)
    adapter = first / "adapter"
    spoilt, foreign, half = (tmp_path / name for name in ("spoilt", "foreign", "half"))
    for copy in (spoilt, foreign, half):
        shutil.copytree(adapter, copy)
    tensors = load_file(adapter / "adapter_model.safetensors")
    name = sorted(tensors)[0]
    save_file({**tensors, name: tensors[name] * np.nan}, spoilt / "adapter_model.safetensors")
    save_file({key: value for key, value in tensors.items() if key != name}, half / "adapter_model.safetensors")
    config = json.loads((adapter / "adapter_config.json").read_text("utf-8"))
    (foreign / "adapter_config.json").write_text(json.dumps({**config, "base_model_name_or_path": "another"}), "utf-8")
    cases: list[tuple[dict[str, Any], str]] = [
        ({"start": str(adapter), "rank": 8}, "its r is 4, and the recipe's is 8"),
        ({"start": str(adapter), "method": "rslora"}, "its use_rslora is False"),
        ({"start": str(adapter), "method": "dora"}, "holds a lora adapter, and method is 'dora'"),
        ({"start": str(tmp_path / "nowhere")}, "it cannot be read"),
        ({"start": str(spoilt)}, "not numbers"),
        ({"start": str(half)}, "tensors are not those of a qlora adapter of rank 4"),
        ({"start": str(foreign)}, "belongs to another, not to tiny-llama"),
    ]
    for number, (settings, sentence) in enumerate(cases):
        with pytest.raises(AdapterError, match=sentence):
            train_here(make_run(name=f"r1{number:03}", max_steps=1, **settings))


@pytest.mark.parametrize(
    ("config", "settings", "sentence"),
    [
        ({"r": 4}, {"rank": 8}, "its r is 4, and the recipe's is 8"),
        ({"use_dora": True}, {}, "holds a dora adapter, and method is 'qlora'"),
        ({"layers_to_transform": [2, 3]}, {}, "its upper_layers is 2, and the recipe's is None"),
        ({}, {"upper_layers": 2}, "its upper_layers is None, and the recipe's is 2"),
        ({"peft_type": "PREFIX_TUNING", "num_virtual_tokens": 8}, {"method": "prefix"}, "its num_virtual_tokens is 8, .* is 4"),
    ],
)
def test_a_start_of_another_shape_is_refused_as_soon_as_the_recipe_is_made(
    config: dict[str, Any], settings: dict[str, Any], sentence: str, tmp_path: Path
) -> None:
    (tmp_path / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": 4, "lora_alpha": 32, **config}))
    with pytest.raises(AdapterError, match=rf"{sentence}\. Train as it was trained, or start from another"):
        Recipe(base="b", start=str(tmp_path), **{"rank": 4, **settings})


@pytest.mark.parametrize(("method", "nearest"), [("dora", "rslora"), ("prefix", "qlora"), ("full", "lora")])
def test_what_llama_cpp_cannot_serve_is_refused_with_the_nearest_that_it_can(method: str, nearest: str) -> None:
    with pytest.raises(SettingsError, match=rf"{method}.*llama_cpp.*'{nearest}'.*engine.kind = \"transformers\"") as caught:
        check_combination(method, engine="llama_cpp")
    assert str(caught.value).count(". ") == 0
    check_combination(method, engine="transformers")
    check_combination(nearest, engine="llama_cpp")


def test_a_recipe_of_things_that_contradict_each_other_is_refused_when_it_is_read() -> None:
    with pytest.raises(SettingsError, match=r"'lora' trains on the base as it is.*'qlora'"):
        Recipe(base="b", method="lora", dequantised="nf4")
    with pytest.raises(SettingsError, match="'full' trains on the base as it is"):
        Recipe.from_json('{"base": "b", "method": "full", "dequantised": "nf4"}')
    with pytest.raises(SettingsError, match="'prefix' has no adapted layers"):
        Recipe(base="b", method="prefix", upper_layers=4)


@pytest.mark.parametrize("objective", ["dpo", "kto"])
def test_an_objective_without_examples_is_refused_with_settings_of_examples_and_without_ratings(objective: str) -> None:
    with pytest.raises(
        SettingsError, match=rf"'{objective}' .* pass over evaluation_share = 0\.2, patience = 2: .* 'sft\+{objective}'"
    ):
        Recipe(base="b", objective=objective, evaluation_share=0.2, patience=2)  # type: ignore[arg-type]
    with pytest.raises(SettingsError, match="pass over keep_activations = true"):
        Recipe(base="b", objective=objective, upper_layers=1, keep_activations=True)  # type: ignore[arg-type]
    with pytest.raises(SettingsError, match=rf"'{objective}' learns from ratings alone.*choose objective = 'sft'"):
        check_objective(objective, rated=False)
    check_objective(f"sft+{objective}", rated=False, evaluation_share=0.2)


def test_training_all_weights_is_refused_where_they_do_not_fit() -> None:
    from training.base_model import refuse_full

    refuse_full(100_000_000, free=1_600_000_000)
    with pytest.raises(ModelError, match=r"100 million weights needs 1\.5 GiB .* 1\.4 GiB are free: choose method = 'lora'"):
        refuse_full(100_000_000, free=1_500_000_000)
