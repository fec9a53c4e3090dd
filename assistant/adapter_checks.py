"""What an adapter folder must be before an engine may load it. numpy and safetensors only: no torch, no model.

PEFT itself accepts an adapter with half of its tensors missing, or all of them NaN; here each is a CorruptAdapter.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from assistant.engines.base import AdapterVersion
from feedback.errors import CorruptAdapter
from training.methods import CONFIG, WEIGHTS, Engine, Kind, gguf_lacks, kind_in

MAX_RANK = 256

_KEY = re.compile(r"base_model\.model\.(?P<module>.+)\.lora_(?P<side>[AB])\.weight")
_MAGNITUDE = re.compile(r"base_model\.model\.(?P<module>.+)\.lora_magnitude_vector")  # DoRA's
_PREFIX = "prompt_embeddings"
_NAMES = {"lora": "a LoRA adapter", "dora": "a DoRA adapter", "prefix": "a prefix", "full": "a whole model"}
_DTYPES = {"F64": np.float64, "F32": np.float32, "F16": np.float16}

Shapes = dict[str, tuple[int, ...]]


def check_adapter(adapter: AdapterVersion, *, hf_dir: Path, base_sha256: str, engine: Engine) -> Kind:
    """Check base hash, config, keys, shapes, rank and finite values of an adapter against the base model in `hf_dir`.

    Returns its kind, which `engine` can serve. A candidate that has no manifest yet is not checked for the base's hash.
    Raises CorruptAdapter with the first fault.
    """
    try:
        _check_base_hash(adapter.path / "manifest.json", base_sha256)
        kind = _kind(adapter.path)
        lack = gguf_lacks(kind)
        if engine == "llama_cpp" and lack:
            raise _FaultError(f'it is {_NAMES[kind]}, and {lack}: set engine.kind = "transformers"')
        if kind == "full":
            _check_whole(adapter.path / "model.safetensors", hf_dir)
            return kind
        config = _read_config(adapter.path / CONFIG, kind)
        tensors = _read_tensors(adapter.path / WEIGHTS)
        if kind == "prefix":
            _check_prefix(config, tensors, hf_dir)
        else:
            _check_tensors(config, tensors, linear_shapes(hf_dir))
    except _FaultError as fault:
        raise CorruptAdapter(adapter.version, str(fault)) from None
    return kind


def prefix_shape(hf_dir: Path) -> tuple[int, int, int]:
    """Return layers, key heads and the size of a head of the model in `hf_dir`: what one position of a prefix is made of."""
    config = json.loads((hf_dir / "config.json").read_text(encoding="utf-8"))
    heads = int(config["num_attention_heads"])
    size = config.get("head_dim") or int(config["hidden_size"]) // heads
    return int(config["num_hidden_layers"]), int(config.get("num_key_value_heads") or heads), int(size)


def linear_shapes(hf_dir: Path) -> Shapes:
    """Return the shape (out, in) of each weight matrix of a Hugging Face folder by its module's name, from the headers alone."""
    from safetensors import safe_open

    shapes: Shapes = {}
    for file in sorted(hf_dir.glob("*.safetensors")):
        with safe_open(file, framework="numpy") as weights:
            for name in weights.keys():  # noqa: SIM118 - safe_open is no mapping
                shape = tuple(weights.get_slice(name).get_shape())
                if name.endswith(".weight") and len(shape) == 2 and "embed" not in name:
                    shapes[name.removesuffix(".weight")] = shape
    return shapes


class _FaultError(Exception):
    """The first thing that is wrong, as a clause for the sentence of CorruptAdapter."""


def _check_base_hash(manifest: Path, base_sha256: str) -> None:
    if not manifest.is_file():
        return
    try:
        trained_on = json.loads(manifest.read_text(encoding="utf-8")).get("base_hash", base_sha256)
    except (ValueError, AttributeError):
        raise _FaultError("its manifest.json cannot be read") from None
    if trained_on != base_sha256:
        raise _FaultError(f"it was trained on another base model ({str(trained_on)[:12]}, not {base_sha256[:12]})")


def _kind(folder: Path) -> Kind:
    try:
        return kind_in(folder)
    except FileNotFoundError:
        raise _FaultError(f"it has no {CONFIG}") from None
    except (OSError, ValueError):
        raise _FaultError(f"its {CONFIG} cannot be read") from None


def _read_config(path: Path, kind: Kind) -> dict[str, Any]:
    config: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    if kind != "prefix" and config["peft_type"] != "LORA":
        raise _FaultError(f"it is of the kind {config['peft_type']}, which is not served")
    rank = config.get("num_virtual_tokens" if kind == "prefix" else "r")
    if not isinstance(rank, int) or not 1 <= rank <= MAX_RANK:
        raise _FaultError(f"its rank is {rank}, and only 1 to {MAX_RANK} is served")
    for option in ("prefix_projection", "modules_to_save", "rank_pattern", "alpha_pattern", "lora_bias"):
        if config.get(option):
            raise _FaultError(f"it uses {option}, which is not served")
    if config.get("bias", "none") != "none":
        raise _FaultError("it trains biases, which is not served")
    return config


def _read_tensors(path: Path) -> dict[str, NDArray[Any]]:
    from safetensors import SafetensorError, deserialize

    try:
        rows = deserialize(path.read_bytes())  # type: ignore[no-untyped-call]
    except FileNotFoundError:
        raise _FaultError(f"it has no {path.name}") from None
    except SafetensorError as error:
        raise _FaultError(f"its {path.name} cannot be read ({error})") from None
    return {name: _as_array(name, row) for name, row in rows}


def _as_array(name: str, row: Mapping[str, Any]) -> NDArray[Any]:
    if row["dtype"] == "BF16":  # numpy has no bfloat16: it is the upper half of a float32
        flat: NDArray[Any] = (np.frombuffer(row["data"], dtype=np.uint16).astype(np.uint32) << 16).view(np.float32)
    elif row["dtype"] in _DTYPES:
        flat = np.frombuffer(row["data"], dtype=_DTYPES[row["dtype"]])
    else:
        raise _FaultError(f"its tensor {name} is of the type {row['dtype']}")
    return flat.reshape(row["shape"])


def _check_tensors(config: Mapping[str, Any], tensors: Mapping[str, NDArray[Any]], base: Shapes) -> None:
    pairs: dict[str, dict[str, NDArray[Any]]] = {}
    for name, tensor in tensors.items():
        match = _KEY.fullmatch(name) or (_MAGNITUDE.fullmatch(name) if config.get("use_dora") else None)
        if match is None or match["module"] not in base:
            raise _FaultError(f"it holds {name}, which the base model has no place for")
        _refuse_infinite(name, tensor)
        pairs.setdefault(match["module"], {})[match.groupdict().get("side", "magnitude_vector")] = tensor
    for module in sorted(_targets(config, base) | pairs.keys()):
        rows, columns = base[module]
        shapes: Shapes = {"A": (config["r"], columns), "B": (rows, config["r"])}
        if config.get("use_dora"):
            shapes["magnitude_vector"] = (rows,)
        for side, shape in shapes.items():
            if side not in pairs.get(module, {}):
                raise _FaultError(f"its tensor lora_{side} for {module} is missing")
            found = pairs[module][side].shape
            if found != shape:
                raise _FaultError(f"its tensor lora_{side} for {module} has the shape {found}, not {shape}")
    if not pairs:
        raise _FaultError("it holds no tensors")


def _refuse_infinite(name: str, tensor: NDArray[Any]) -> None:
    if not np.isfinite(tensor).all():
        raise _FaultError(f"its tensor {name} holds values that are not finite")


def _check_prefix(config: Mapping[str, Any], tensors: Mapping[str, NDArray[Any]], hf_dir: Path) -> None:
    if set(tensors) != {_PREFIX}:
        raise _FaultError(f"it holds {', '.join(sorted(tensors)) or 'no tensors'}, and a prefix holds {_PREFIX} alone")
    layers, heads, size = prefix_shape(hf_dir)
    found, shape = tensors[_PREFIX].shape, (config["num_virtual_tokens"], 2 * layers * heads * size)
    if found != shape:
        raise _FaultError(f"its tensor {_PREFIX} has the shape {found}, not {shape}")
    _refuse_infinite(_PREFIX, tensors[_PREFIX])


def _check_whole(path: Path, hf_dir: Path) -> None:
    """Compare a whole model with the base, tensor by tensor, as it may be large."""
    from safetensors import SafetensorError, safe_open

    expected = _header(sorted(hf_dir.glob("*.safetensors")))
    try:
        found = _header([path])
        differing = sorted(name for name in found.keys() | expected.keys() if found.get(name) != expected.get(name))
        if differing:
            raise _FaultError(
                f"its tensor {differing[0]} has the shape {found.get(differing[0])}, not {expected.get(differing[0])}"
            )
        with safe_open(path, framework="numpy") as weights:
            for name in found:
                _refuse_infinite(name, weights.get_tensor(name))
    except FileNotFoundError:
        raise _FaultError(f"it has no {path.name}") from None
    except SafetensorError as error:
        raise _FaultError(f"its {path.name} cannot be read ({error})") from None


def _header(files: Sequence[Path]) -> Shapes:
    """Return the shapes of all tensors; an output layer may be stored though it is the embedding's, and is left out then."""
    from safetensors import safe_open

    shapes: Shapes = {}
    for file in files:
        with safe_open(file, framework="numpy") as weights:
            shapes |= {name: tuple(weights.get_slice(name).get_shape()) for name in weights.keys()}  # noqa: SIM118 - no mapping
    return {name: shape for name, shape in shapes.items() if name != "lm_head.weight"}


def _targets(config: Mapping[str, Any], base: Shapes) -> set[str]:
    """Return the modules that the config says are adapted (a list of name endings, or one pattern for whole names)."""
    if config.get("layers_to_transform") is not None:
        return set()
    wanted = config.get("target_modules") or []
    if isinstance(wanted, str):
        return {module for module in base if re.fullmatch(wanted, module)}
    excluded = tuple(config.get("exclude_modules") or ())
    return {
        module
        for module in base
        if any(module == name or module.endswith(f".{name}") for name in wanted)
        and not any(module == name or module.endswith(f".{name}") for name in excluded)
    }
