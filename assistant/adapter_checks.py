"""What an adapter folder must be before an engine may load it. numpy and safetensors only: no torch, no model.

PEFT itself accepts an adapter with half of its tensors missing, or all of them NaN; here each is a CorruptAdapter.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from assistant.engines.base import AdapterVersion
from feedback.errors import CorruptAdapter

MAX_RANK = 256

_KEY = re.compile(r"base_model\.model\.(?P<module>.+)\.lora_(?P<side>[AB])\.weight")
_DTYPES = {"F64": np.float64, "F32": np.float32, "F16": np.float16}

Shapes = dict[str, tuple[int, ...]]


def check_adapter(adapter: AdapterVersion, *, hf_dir: Path, base_sha256: str) -> None:
    """Check base hash, config, keys, shapes, rank and finite values of an adapter against the base model in `hf_dir`.

    A candidate that has no manifest yet is not checked for the base's hash. Raises CorruptAdapter with the first fault.
    """
    try:
        _check_base_hash(adapter.path / "manifest.json", base_sha256)
        config = _read_config(adapter.path / "adapter_config.json")
        tensors = _read_tensors(adapter.path / "adapter_model.safetensors")
        _check_tensors(config, tensors, linear_shapes(hf_dir))
    except _FaultError as fault:
        raise CorruptAdapter(adapter.version, str(fault)) from None


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


def _read_config(path: Path) -> dict[str, Any]:
    try:
        config: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        kind, rank = config["peft_type"], config["r"]
    except FileNotFoundError:
        raise _FaultError("it has no adapter_config.json") from None
    except (ValueError, KeyError, TypeError):
        raise _FaultError("its adapter_config.json cannot be read") from None
    if kind != "LORA":
        raise _FaultError(f"it is of the kind {kind}, and only LORA is served")
    if not isinstance(rank, int) or not 1 <= rank <= MAX_RANK:
        raise _FaultError(f"its rank is {rank}, and only 1 to {MAX_RANK} is served")
    for option in ("use_dora", "modules_to_save", "rank_pattern", "alpha_pattern", "lora_bias"):
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
        raise _FaultError("it has no adapter_model.safetensors") from None
    except SafetensorError as error:
        raise _FaultError(f"its adapter_model.safetensors cannot be read ({error})") from None
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
        match = _KEY.fullmatch(name)
        if match is None or match["module"] not in base:
            raise _FaultError(f"it holds {name}, which the base model has no place for")
        if not np.isfinite(tensor).all():
            raise _FaultError(f"its tensor {name} holds values that are not finite")
        pairs.setdefault(match["module"], {})[match["side"]] = tensor
    for module in sorted(_targets(config, base) | pairs.keys()):
        for side in "AB":
            if side not in pairs.get(module, {}):
                raise _FaultError(f"its tensor lora_{side} for {module} is missing")
        rows, columns = base[module]
        for side, shape in (("A", (config["r"], columns)), ("B", (rows, config["r"]))):
            found = pairs[module][side].shape
            if found != shape:
                raise _FaultError(f"its tensor lora_{side} for {module} has the shape {found}, not {shape}")
    if not pairs:
        raise _FaultError("it holds no tensors")


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
