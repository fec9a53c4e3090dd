"""PEFT to GGUF: the names, the scale, the row order that llama.cpp's rotation needs, and refusals in a sentence."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from feedback.errors import AdapterError
from training.lora_gguf import convert

BASE: dict[str, Any] = {"model_type": "llama", "num_hidden_layers": 1, "num_attention_heads": 4, "num_key_value_heads": 2}
RANK, HIDDEN, HEAD = 4, 32, 8
LAYER = "base_model.model.model.layers.0."


def write_adapter(folder: Path, *, drop: str = "", extra: str = "", **settings: Any) -> Path:
    """Write a PEFT folder with random q, k and down projections."""
    rng = np.random.default_rng(0)
    sizes = {"self_attn.q_proj": (HIDDEN, 4 * HEAD), "self_attn.k_proj": (HIDDEN, 2 * HEAD), "mlp.down_proj": (64, HIDDEN)}
    tensors = {}
    for module, (inside, outside) in sizes.items():
        tensors[f"{LAYER}{module}.lora_A.weight"] = rng.normal(size=(RANK, inside)).astype("float32")
        tensors[f"{LAYER}{module}.lora_B.weight"] = rng.normal(size=(outside, RANK)).astype("float32")
    tensors.pop(drop, None)
    if extra:
        tensors[extra] = np.zeros((2, 2), dtype="float32")
    folder.mkdir(exist_ok=True)
    save_file(tensors, folder / "adapter_model.safetensors")
    config = {"peft_type": "LORA", "r": RANK, "lora_alpha": 8, "bias": "none", **settings}
    (folder / "adapter_config.json").write_text(json.dumps(config), "utf-8")
    return folder


def read_gguf(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    from gguf import GGUFReader

    reader = GGUFReader(path)
    fields = {name: field.contents() for name, field in reader.fields.items()}
    return fields, {tensor.name: np.array(tensor.data).reshape(tuple(reversed(tensor.shape))) for tensor in reader.tensors}


def test_the_file_says_what_llama_cpp_reads(tmp_path: Path) -> None:
    convert(write_adapter(tmp_path / "a"), BASE, tmp_path / "adapter.gguf")
    fields, tensors = read_gguf(tmp_path / "adapter.gguf")
    wanted = {"general.type": "adapter", "general.architecture": "llama", "adapter.type": "lora", "adapter.lora.alpha": 8.0}
    assert {name: fields[name] for name in wanted} == wanted
    assert sorted(tensors) == [f"blk.0.{name}.weight.lora_{side}" for name in ("attn_k", "attn_q", "ffn_down") for side in "ab"]
    assert tensors["blk.0.ffn_down.weight.lora_a"].shape == (RANK, 64)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "adapter.gguf"]


def rotate_halves(heads: np.ndarray, angle: np.ndarray) -> np.ndarray:
    """Rotate as transformers does: element i with element i + half."""
    low, high = heads[:, : HEAD // 2], heads[:, HEAD // 2 :]
    return np.concatenate([low * np.cos(angle) - high * np.sin(angle), high * np.cos(angle) + low * np.sin(angle)], axis=1)


def rotate_pairs(heads: np.ndarray, angle: np.ndarray) -> np.ndarray:
    """Rotate as llama.cpp does for the llama family: element 2i with element 2i + 1."""
    even, odd = heads[:, ::2], heads[:, 1::2]
    turned = np.stack([even * np.cos(angle) - odd * np.sin(angle), odd * np.cos(angle) + even * np.sin(angle)], axis=2)
    return turned.reshape(heads.shape)


def test_attention_scores_after_rotation_are_the_same_in_both_engines(tmp_path: Path) -> None:
    from safetensors.numpy import load_file

    folder = write_adapter(tmp_path / "a")
    convert(folder, BASE, tmp_path / "adapter.gguf")
    theirs, (_, ours) = load_file(folder / "adapter_model.safetensors"), read_gguf(tmp_path / "adapter.gguf")
    rng = np.random.default_rng(1)
    x, y = rng.normal(size=(2, HIDDEN))
    angles = np.array([1.0, 0.3, 0.1, 0.03])
    scores = []
    for pair, rotate in (("{}", rotate_halves), ("gguf {}", rotate_pairs)):
        sides = []
        for name, vector, position in (("q", x, 7), ("k", y, 3)):
            if pair == "{}":
                down, up = (theirs[f"{LAYER}self_attn.{name}_proj.lora_{side}.weight"] for side in "AB")
            else:
                down, up = (ours[f"blk.0.attn_{name}.weight.lora_{side}"] for side in "ab")
            sides.append(rotate((up @ (down @ vector)).reshape(-1, HEAD), position * angles))
        scores.append(sides[0] @ sides[1].T)
    np.testing.assert_allclose(scores[0], scores[1], rtol=1e-5)


def test_rows_stay_in_order_where_both_engines_rotate_alike(tmp_path: Path) -> None:
    from safetensors.numpy import load_file

    folder = write_adapter(tmp_path / "a")
    convert(folder, {**BASE, "model_type": "qwen2"}, tmp_path / "adapter.gguf")
    _, tensors = read_gguf(tmp_path / "adapter.gguf")
    theirs = load_file(folder / "adapter_model.safetensors")[f"{LAYER}self_attn.q_proj.lora_B.weight"]
    np.testing.assert_array_equal(tensors["blk.0.attn_q.weight.lora_b"], theirs)


def test_rslora_keeps_its_scale_under_llama_cpps_rule(tmp_path: Path) -> None:
    convert(write_adapter(tmp_path / "a", use_rslora=True), BASE, tmp_path / "adapter.gguf")
    fields, _ = read_gguf(tmp_path / "adapter.gguf")
    assert fields["adapter.lora.alpha"] / RANK == pytest.approx(8 / RANK**0.5)


def test_half_precision_is_a_choice(tmp_path: Path) -> None:
    convert(write_adapter(tmp_path / "a"), BASE, tmp_path / "adapter.gguf", half=True)
    assert all(tensor.dtype == np.float16 for tensor in read_gguf(tmp_path / "adapter.gguf")[1].values())


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"use_dora": True}, "with use_dora cannot be written as GGUF"),
        ({"modules_to_save": ["lm_head"]}, "with modules_to_save cannot"),
        ({"bias": "all"}, "with bias cannot"),
        ({"peft_type": "IA3"}, "of the kind 'IA3' cannot"),
        ({"drop": LAYER + "mlp.down_proj.lora_B.weight"}, "lacks half of model.layers.0.mlp.down_proj"),
        ({"extra": "base_model.model.model.embed_tokens.lora_embedding_A"}, "lora_embedding_A' cannot be written"),
    ],
)
def test_what_llama_cpp_cannot_apply_is_refused_and_leaves_no_file(tmp_path: Path, change: dict[str, Any], sentence: str) -> None:
    folder = write_adapter(tmp_path / "a", **change)
    with pytest.raises(AdapterError, match=sentence):
        convert(folder, BASE, tmp_path / "adapter.gguf")
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_an_unknown_architecture_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(AdapterError, match="'mamba' model cannot be written as GGUF"):
        convert(write_adapter(tmp_path / "a"), {**BASE, "model_type": "mamba"}, tmp_path / "adapter.gguf")


def test_a_layer_that_the_base_does_not_have_is_refused_and_leaves_no_file(tmp_path: Path) -> None:
    folder = write_adapter(tmp_path / "a")
    with pytest.raises(AdapterError, match=r"'model\.layers\.0\..*' has no place"):
        convert(folder, {**BASE, "num_hidden_layers": 0}, tmp_path / "adapter.gguf")
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_a_damaged_weights_file_is_refused(tmp_path: Path) -> None:
    folder = write_adapter(tmp_path / "a")
    (folder / "adapter_model.safetensors").write_bytes(b"no tensors here")
    with pytest.raises(AdapterError, match=r"adapter_model\.safetensors of a cannot be read"):
        convert(folder, BASE, tmp_path / "adapter.gguf")
