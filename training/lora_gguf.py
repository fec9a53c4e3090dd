"""From a PEFT LoRA adapter to the GGUF file that llama.cpp loads beside its base model.

The file holds `general.type=adapter`, the architecture, `adapter.lora.alpha`, and for each adapted weight `<name>.lora_a`
(rank x in) and `<name>.lora_b` (out x rank), under llama.cpp's names. llama.cpp scales by alpha / rank, and rotates
neighbouring pairs of rows where transformers rotates halves: q and k of the llama family are reordered for it.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from feedback.errors import AdapterError

REORDERED = {"llama", "mistral"}
"""Model types whose q and k weights llama.cpp stores in another row order."""

ARCHITECTURES = {"llama": "llama", "mistral": "llama", "qwen2": "qwen2", "qwen3": "qwen3"}
"""transformers' model_type -> llama.cpp's architecture."""

PREFIX = "base_model.model."


@dataclass(frozen=True, kw_only=True)
class _Shape:
    architecture: str
    layers: int
    heads: int
    kv_heads: int
    reorder: bool


def convert(adapter_dir: Path, base_config: Mapping[str, Any] | Path, out: Path, *, half: bool = False) -> None:
    """Write the LoRA adapter of `adapter_dir` as GGUF to `out` (float32; float16 when `half`).

    `base_config` is the base model's config.json: its content, its path, or the folder that holds it. The file is
    written beside `out`, fsynced and renamed. Raises AdapterError for what llama.cpp cannot apply: DoRA, biases, retrained
    modules, adapted embeddings, an architecture that is not in `ARCHITECTURES`.
    """
    shape = _shape(_read_config(base_config))
    settings = _read_json(adapter_dir / "adapter_config.json")
    _refuse_unsupported(settings)
    pairs = _read_pairs(adapter_dir / "adapter_model.safetensors")
    partial = out.with_name(out.name + ".partial")
    try:
        _write(partial, shape, settings, pairs, half)
        with partial.open("rb") as written:
            os.fsync(written.fileno())
        partial.replace(out)
    finally:
        partial.unlink(missing_ok=True)


def _read_config(base_config: Mapping[str, Any] | Path) -> Mapping[str, Any]:
    if not isinstance(base_config, Path):
        return base_config
    return _read_json(base_config / "config.json" if base_config.is_dir() else base_config)


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise AdapterError(f"{path.name} of {path.parent.name} cannot be read ({error}): train the adapter again.") from error
    if not isinstance(content, dict):
        raise AdapterError(f"{path.name} of {path.parent.name} is no JSON object: train the adapter again.")
    return content


def _shape(config: Mapping[str, Any]) -> _Shape:
    kind = str(config.get("model_type"))
    if kind not in ARCHITECTURES:
        known = ", ".join(sorted(ARCHITECTURES))
        raise AdapterError(
            f"An adapter for a {kind!r} model cannot be written as GGUF: known are {known}. Use the transformers engine."
        )
    heads = int(config["num_attention_heads"])
    kv_heads = config.get("num_key_value_heads")
    return _Shape(
        architecture=ARCHITECTURES[kind],
        layers=int(config["num_hidden_layers"]),
        heads=heads,
        kv_heads=heads if kv_heads is None else int(kv_heads),
        reorder=kind in REORDERED,
    )


def _refuse_unsupported(settings: Mapping[str, Any]) -> None:
    kind = settings.get("peft_type")
    if kind != "LORA":
        raise AdapterError(f"An adapter of the kind {kind!r} cannot be written as GGUF: train a LORA one.")
    faults = [name for name in ("use_dora", "modules_to_save", "alpha_pattern", "fan_in_fan_out") if settings.get(name)]
    if settings.get("bias", "none") != "none":
        faults.append("bias")
    if faults:
        raise AdapterError(
            f"An adapter with {', '.join(faults)} cannot be written as GGUF: train it without, or use transformers."
        )


def _read_pairs(path: Path) -> dict[str, dict[str, Any]]:
    """Return module name -> {"A": array, "B": array}, all float32."""
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        tensors = load_file(path)
    except (OSError, SafetensorError) as error:
        raise AdapterError(f"{path.name} of {path.parent.name} cannot be read ({error}): train the adapter again.") from error
    pairs: dict[str, dict[str, Any]] = {}
    for name, tensor in tensors.items():
        module, mark, side = name.removeprefix(PREFIX).removesuffix(".weight").rpartition(".lora_")
        if not mark or side not in ("A", "B"):
            raise AdapterError(f"The tensor {name!r} cannot be written as GGUF: only LoRA weights of linear layers can.")
        pairs.setdefault(module, {})[side] = tensor.astype("float32")
    half = sorted(module for module, pair in pairs.items() if len(pair) != 2)
    if half or not pairs:
        raise AdapterError(f"The adapter {path.parent.name} lacks half of {half[0] if half else 'everything'}: train it again.")
    return pairs


def _write(path: Path, shape: _Shape, settings: Mapping[str, Any], pairs: Mapping[str, dict[str, Any]], half: bool) -> None:
    import gguf
    import numpy as np

    writer = gguf.GGUFWriter(str(path), shape.architecture)
    writer.add_string(gguf.Keys.General.TYPE, gguf.GGUFType.ADAPTER)
    writer.add_string(gguf.Keys.Adapter.TYPE, "lora")
    writer.add_float32(gguf.Keys.Adapter.LORA_ALPHA, _alpha(settings))
    names = gguf.get_tensor_name_map(_architecture(gguf, shape.architecture), shape.layers)
    for module in sorted(pairs):
        name = names.get_name(f"{module}.weight", try_suffixes=(".weight",))
        if name is None:
            raise AdapterError(
                f"The adapted layer {module!r} has no place in a {shape.architecture} GGUF: leave it out of the targets."
            )
        down, up = pairs[module]["A"], _ordered(module, pairs[module]["B"], shape)
        kind = np.float16 if half else np.float32
        writer.add_tensor(f"{name}.lora_a", np.ascontiguousarray(down, dtype=kind))
        writer.add_tensor(f"{name}.lora_b", np.ascontiguousarray(up, dtype=kind))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _architecture(gguf: Any, name: str) -> Any:
    return next(key for key, value in gguf.MODEL_ARCH_NAMES.items() if value == name)


def _alpha(settings: Mapping[str, Any]) -> float:
    alpha = float(settings["lora_alpha"])
    if not settings.get("use_rslora"):
        return alpha
    if settings.get("rank_pattern"):
        raise AdapterError("An rsLoRA adapter with rank_pattern cannot be written as GGUF: train it with one rank.")
    # rsLoRA scales by alpha / sqrt(rank), llama.cpp by alpha / rank
    return alpha * math.sqrt(int(settings["r"]))


def _ordered(module: str, up: Any, shape: _Shape) -> Any:
    """Reorder the rows of q and k per head: the two halves that rotate together become neighbours."""
    heads = {"q_proj": shape.heads, "k_proj": shape.kv_heads}.get(module.rpartition(".")[2])
    if heads is None or not shape.reorder:
        return up
    rows, rank = up.shape
    return up.reshape(heads, 2, rows // heads // 2, rank).swapaxes(1, 2).reshape(rows, rank)
