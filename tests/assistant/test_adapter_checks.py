"""Each way in which an adapter folder can be wrong is refused with a sentence that names it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from assistant.adapter_checks import check_adapter
from assistant.engines.base import AdapterVersion
from feedback.errors import CorruptAdapter
from training.methods import Engine, Kind

LAYERS = 2
HIDDEN, INNER = 16, 24


@pytest.fixture
def hf_dir(tmp_path: Path) -> Path:
    folder = tmp_path / "hf"
    folder.mkdir()
    tensors = {"model.embed_tokens.weight": np.zeros((32, HIDDEN), np.float32)}
    for layer in range(LAYERS):
        prefix = f"model.layers.{layer}"
        for name in ("q_proj", "k_proj", "v_proj", "o_proj"):
            tensors[f"{prefix}.self_attn.{name}.weight"] = np.zeros((HIDDEN, HIDDEN), np.float32)
        for name, shape in {"gate_proj": (INNER, HIDDEN), "up_proj": (INNER, HIDDEN), "down_proj": (HIDDEN, INNER)}.items():
            tensors[f"{prefix}.mlp.{name}.weight"] = np.zeros(shape, np.float32)
        tensors[f"{prefix}.input_layernorm.weight"] = np.zeros((HIDDEN,), np.float32)
    save_file(tensors, folder / "model.safetensors")
    return folder


@pytest.fixture
def folder(tmp_path: Path, hf_dir: Path, random_adapter) -> Path:
    return random_adapter(tmp_path / "v0001", hf_dir)


def check(folder: Path, hf_dir: Path, *, engine: Engine = "llama_cpp") -> Kind:
    return check_adapter(AdapterVersion(version="v0001", path=folder), hf_dir=hf_dir, base_sha256="b" * 64, engine=engine)


def edit_config(**changes: object) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        path = folder / "adapter_config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))

    return edit


def edit_tensors(change: Callable[[dict[str, np.ndarray]], object]) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        path = folder / "adapter_model.safetensors"
        tensors = {name: tensor.copy() for name, tensor in load_file(path).items()}
        change(tensors)
        save_file(tensors, path)

    return edit


KEY = "base_model.model.model.layers.1.mlp.down_proj.lora_B.weight"

FAULTS: dict[str, tuple[Callable[[Path], object], str]] = {
    "no config": (lambda folder: (folder / "adapter_config.json").unlink(), "has no adapter_config.json"),
    "config is not JSON": (lambda folder: (folder / "adapter_config.json").write_text("{"), "adapter_config.json cannot be read"),
    "no weights": (lambda folder: (folder / "adapter_model.safetensors").unlink(), "has no adapter_model.safetensors"),
    "half a file": (
        lambda folder: (folder / "adapter_model.safetensors").write_bytes(
            (folder / "adapter_model.safetensors").read_bytes()[:-100]
        ),
        "adapter_model.safetensors cannot be read",
    ),
    "empty file": (lambda folder: (folder / "adapter_model.safetensors").write_bytes(b""), "cannot be read"),
    "another kind": (edit_config(peft_type="IA3"), "of the kind IA3"),
    "rank 0": (edit_config(r=0), "its rank is 0"),
    "rank of another adapter": (edit_config(r=8), "has the shape"),
    "DoRA": (
        edit_config(use_dora=True),
        'it is a DoRA adapter, and a GGUF adapter holds no magnitudes: set engine.kind = "transformers"',
    ),
    "whole modules": (edit_config(modules_to_save=["lm_head"]), "uses modules_to_save"),
    "biases": (edit_config(bias="all"), "trains biases"),
    "no tensors": (edit_tensors(lambda tensors: tensors.clear()), "is missing"),
    "half of the tensors": (
        edit_tensors(lambda tensors: [tensors.pop(name) for name in list(tensors) if "layers.1" in name]),
        "lora_A for model.layers.1.mlp.down_proj is missing",
    ),
    "one side of a pair": (edit_tensors(lambda tensors: tensors.pop(KEY)), "lora_B for model.layers.1.mlp.down_proj is missing"),
    "NaN": (edit_tensors(lambda tensors: tensors[KEY].fill(np.nan)), "not finite"),
    "one infinite value": (edit_tensors(lambda tensors: tensors[KEY].__setitem__((0, 0), np.inf)), "not finite"),
    "another base's shape": (
        edit_tensors(lambda tensors: tensors.update({KEY: np.zeros((HIDDEN + 1, 4), np.float32)})),
        "has the shape",
    ),
    "a layer that the base lacks": (
        edit_tensors(lambda tensors: tensors.update({KEY.replace("layers.1", "layers.9"): tensors[KEY]})),
        "has no place for",
    ),
    "another base": (
        lambda folder: (folder / "manifest.json").write_text(json.dumps({"base_hash": "c" * 64})),
        "trained on another base model",
    ),
    "broken manifest": (lambda folder: (folder / "manifest.json").write_text("[]"), "manifest.json cannot be read"),
}


def test_a_sound_adapter_passes(folder: Path, hf_dir: Path) -> None:
    check(folder, hf_dir)
    (folder / "manifest.json").write_text(json.dumps({"base_hash": "b" * 64}))
    check(folder, hf_dir)


@pytest.mark.parametrize("fault", FAULTS)
def test_a_faulty_adapter_is_refused_by_name(fault: str, folder: Path, hf_dir: Path) -> None:
    damage, sentence = FAULTS[fault]
    damage(folder)
    with pytest.raises(CorruptAdapter, match=sentence):
        check(folder, hf_dir)


def test_bfloat16_weights_are_read(folder: Path, hf_dir: Path) -> None:
    import torch
    from safetensors.torch import load_file as load_torch
    from safetensors.torch import save_file as save_torch

    path = folder / "adapter_model.safetensors"
    tensors = {name: tensor.to(torch.bfloat16) for name, tensor in load_torch(path).items()}
    save_torch(tensors, path)
    check(folder, hf_dir)
    tensors[KEY][0, 0] = float("nan")
    save_torch(tensors, path)
    with pytest.raises(CorruptAdapter, match="not finite"):
        check(folder, hf_dir)


def write_prefix(folder: Path, *, positions: int = 4, width: int = 2 * LAYERS * HIDDEN) -> Path:
    folder.mkdir()
    config = {"peft_type": "PREFIX_TUNING", "num_virtual_tokens": positions}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    save_file({"prompt_embeddings": np.ones((positions, width), np.float32)}, folder / "adapter_model.safetensors")
    return folder


def write_whole(folder: Path, hf_dir: Path) -> Path:
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_bytes((hf_dir / "model.safetensors").read_bytes())
    return folder


@pytest.fixture
def base_config(hf_dir: Path) -> None:
    config = {"num_hidden_layers": LAYERS, "num_attention_heads": 4, "num_key_value_heads": 4, "hidden_size": HIDDEN}
    (hf_dir / "config.json").write_text(json.dumps(config))


@pytest.mark.usefixtures("base_config")
def test_a_prefix_and_a_whole_model_pass_for_transformers_and_are_refused_for_llama_cpp(tmp_path: Path, hf_dir: Path) -> None:
    for kind, made in (("prefix", write_prefix(tmp_path / "prefix")), ("full", write_whole(tmp_path / "whole", hf_dir))):
        assert check(made, hf_dir, engine="transformers") == kind
        with pytest.raises(CorruptAdapter, match=r'a GGUF adapter holds no .*: set engine.kind = "transformers"'):
            check(made, hf_dir, engine="llama_cpp")


@pytest.mark.usefixtures("base_config")
def test_a_faulty_prefix_is_refused_by_name(tmp_path: Path, hf_dir: Path) -> None:
    with pytest.raises(CorruptAdapter, match=r"has the shape \(4, 60\), not \(4, 64\)"):
        check(write_prefix(tmp_path / "narrow", width=60), hf_dir, engine="transformers")
    with pytest.raises(CorruptAdapter, match="its rank is 300"):
        check(write_prefix(tmp_path / "long", positions=300), hf_dir, engine="transformers")
    spoilt = write_prefix(tmp_path / "spoilt")
    edit_tensors(lambda tensors: tensors["prompt_embeddings"].fill(np.nan))(spoilt)
    with pytest.raises(CorruptAdapter, match="not finite"):
        check(spoilt, hf_dir, engine="transformers")


def test_a_faulty_whole_model_is_refused_by_name(tmp_path: Path, hf_dir: Path) -> None:
    whole = write_whole(tmp_path / "whole", hf_dir)
    tensors = load_file(whole / "model.safetensors")
    name = "model.layers.0.mlp.up_proj.weight"
    damages: list[tuple[dict[str, np.ndarray], str]] = [
        ({**tensors, name: np.zeros((3, 3), np.float32)}, r"up_proj.weight has the shape \(3, 3\), not \(24, 16\)"),
        ({each: tensors[each] for each in tensors if each != name}, "up_proj.weight has the shape None"),
        ({**tensors, name: np.full((INNER, HIDDEN), np.inf, np.float32)}, "not finite"),
    ]
    for damaged, sentence in damages:
        save_file(damaged, whole / "model.safetensors")
        with pytest.raises(CorruptAdapter, match=sentence):
            check(whole, hf_dir, engine="transformers")
    (whole / "model.safetensors").write_bytes(b"")
    with pytest.raises(CorruptAdapter, match=r"its model\.safetensors cannot be read"):
        check(whole, hf_dir, engine="transformers")


def test_a_dora_adapter_without_its_magnitudes_is_refused(folder: Path, hf_dir: Path) -> None:
    edit_config(use_dora=True)(folder)
    with pytest.raises(CorruptAdapter, match=r"lora_magnitude_vector for .* is missing"):
        check(folder, hf_dir, engine="transformers")
