"""The base model as training sees it: 4-bit numbers on every linear layer, held packed or unpacked, or as it was imported.

QLoRA keeps the base in nf4 and unpacks each weight at every use. On a CPU that unpacking costs more than the product with
a small batch, so where the memory allows it each weight is packed and unpacked once at the start: the same numbers in
every step, and dense products. bitsandbytes does the packing.
"""

from __future__ import annotations

import math
import time
import types
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from feedback.errors import ModelError
from training.adapters import attach
from training.fast_lora import LoraProduct, SwiGlu
from training.memory import available
from training.methods import PARAMETER_BYTES, is_rounded
from training.recipe import Recipe

KEEP_SHARE = 0.4
"""Unpacked weights may take at most this share of the memory that is free."""

BFLOAT16_GAIN = 1.5
"""bfloat16 must beat float32 by this factor in the timed product: the rest of a step gains nothing from it."""


@dataclass(frozen=True, kw_only=True)
class Placement:
    """Where and how the products are computed: "cpu" or "cuda", the compute dtype, and whether weights stay unpacked.

    `rounded` says that the linear layers hold nf4 numbers; a base that is not rounded is always unpacked.
    """

    device: str
    dtype: torch.dtype
    keep: bool
    rounded: bool = True


def choose_placement(recipe: Recipe, *, parameters: int) -> Placement:
    """Choose device, dtype and packing from the recipe and, where it says "auto", from a measurement of this machine."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    chosen = faster_dtype() if recipe.compute_dtype == "auto" else recipe.compute_dtype
    dtype = torch.bfloat16 if chosen == "bfloat16" else torch.float32
    if recipe.method == "full":
        dtype = torch.float32  # Adam's small updates would be lost in bfloat16 weights
        refuse_full(parameters, free=free_memory(device))
    rounded = is_rounded(recipe.method)
    fits = parameters * dtype.itemsize < KEEP_SHARE * free_memory(device)
    keep = fits if recipe.dequantised == "auto" else recipe.dequantised == "keep"
    return Placement(device=device, dtype=dtype, keep=keep or not rounded, rounded=rounded)


def free_memory(device: str) -> int:
    """Return the bytes that are free on "cpu" or "cuda"."""
    return int(torch.cuda.mem_get_info()[0]) if device == "cuda" else available()


def refuse_full(parameters: int, *, free: int) -> None:
    """Raise ModelError when weights, gradients and Adam's moments of all parameters do not fit into `free` bytes."""
    needed = parameters * PARAMETER_BYTES
    if needed > free:
        raise ModelError(
            f"Training all {parameters / 1e6:.0f} million weights needs {needed / 2**30:.1f} GiB of memory, and "
            f"{free / 2**30:.1f} GiB are free: choose method = 'lora', or a smaller base."
        )


def faster_dtype() -> Literal["bfloat16", "float32"]:
    """Return the dtype to compute in on this machine."""
    return "bfloat16" if torch.cuda.is_available() or bfloat16_pays() else "float32"


def bfloat16_pays(*, seconds: float = 0.4) -> bool:
    """Time one product of a transformer's size in both dtypes on this CPU and say whether bfloat16 is clearly faster.

    Processors without bfloat16 instructions (most laptops) emulate it, twenty times slower; with AMX it is several times
    faster. The best of several tries is compared, so that other load does not decide.
    """
    best = {dtype: _product_time(dtype, seconds / 2) for dtype in (torch.float32, torch.bfloat16)}
    return best[torch.float32] >= BFLOAT16_GAIN * best[torch.bfloat16]


def _product_time(dtype: torch.dtype, seconds: float) -> float:
    left, right = torch.ones(256, 1024, dtype=dtype), torch.ones(1024, 1024, dtype=dtype)
    best, end = float("inf"), time.perf_counter() + seconds
    while best == float("inf") or time.perf_counter() < end:
        start = time.perf_counter()
        _ = left @ right
        best = min(best, time.perf_counter() - start)
    return best


def count_parameters(base: Path) -> int:
    """Count the parameters of a model folder from the headers of its safetensors."""
    from safetensors import safe_open

    total = 0
    for file in base.glob("*.safetensors"):
        with safe_open(file, framework="numpy") as weights:
            total += sum(math.prod(weights.get_slice(name).get_shape()) for name in weights.keys())  # noqa: SIM118 - no mapping
    if total == 0:
        raise ModelError(f"The base model {base.name} has no .safetensors file: import it again.")
    return total


def load_tokenizer(base: Path) -> Any:
    """Load the tokenizer with its chat template. Raises ModelError when either is missing."""
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(str(base), local_files_only=True)
    except (OSError, ValueError) as error:
        raise ModelError(f"The base model {base.name} has no usable tokenizer ({error}): import it again.") from error
    if tokenizer.chat_template is None:
        raise ModelError(f"The base model {base.name} has no chat template: choose an instruction-tuned model.")
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def load_model(base: Path, placement: Placement, recipe: Recipe) -> Any:
    """Load the base and put what the recipe's method trains on it (float32): a PeftModel, or for `full` the base itself."""
    model = _load_kept(base, placement) if placement.keep else _load_packed(base, placement)
    model.config.use_cache = False
    return attach(model, recipe)


def _load_packed(base: Path, placement: Placement) -> Any:
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    config = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=placement.dtype,
    )
    model = _from_pretrained(
        AutoModelForCausalLM, base, dtype=placement.dtype, quantization_config=config, device_map={"": placement.device}
    )
    stay_trainable(model)
    return model


def stay_trainable(model: Any) -> None:
    """Keep the 4-bit layers of a model from being laid out anew for inference when it is evaluated between its steps.

    On processors with bfloat16 dot products bitsandbytes does so in the first pass without gradients, for good: what is trained
    after it runs through a product that passes no gradient on, and learns next to nothing (bitsandbytes.nn.Linear4bit.forward).
    """
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False


def _load_kept(base: Path, placement: Placement) -> Any:
    from transformers import AutoModelForCausalLM

    model = _from_pretrained(AutoModelForCausalLM, base, dtype=placement.dtype).to(placement.device)
    if not placement.rounded:
        return model
    head = model.get_output_embeddings()
    for module in model.modules():
        if isinstance(module, nn.Linear) and module is not head:
            module.weight.data = _through_nf4(module.weight.data)
    return model


def _from_pretrained(kind: Any, base: Path, **settings: Any) -> Any:
    try:
        return kind.from_pretrained(str(base), local_files_only=True, attn_implementation="sdpa", **settings)
    except (OSError, ValueError) as error:
        raise ModelError(f"The base model {base.name} cannot be loaded ({error}): import it again.") from error


def _through_nf4(weight: torch.Tensor) -> torch.Tensor:
    """Return the weight as nf4 with double quantisation remembers it."""
    from bitsandbytes.functional import dequantize_4bit, quantize_4bit

    packed, state = quantize_4bit(weight, compress_statistics=True, quant_type="nf4")
    return dequantize_4bit(packed, state).to(weight.dtype)


def cast_adapter(model: Any) -> None:
    """Hold the adapter in float32: TRL casts it to bfloat16 on a 4-bit base, which loses small updates."""
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()


def speed_up(model: Any) -> int:
    """Give dense LoRA layers and SwiGLU blocks forwards with fewer passes over memory; return how many were changed.

    The numbers stay the same up to rounding. Layers of another kind (packed, with dropout or DoRA) keep their forward.
    """
    from peft.tuners.lora.layer import Linear as LoraLinear

    changed = 0
    for module in model.modules():
        if isinstance(module, LoraLinear) and _is_plain(module):
            module.forward = types.MethodType(_lora_forward, module)
            changed += 1
        elif _is_swiglu(module):
            module.forward = types.MethodType(_swiglu_forward, module)
            changed += 1
    return changed


def _is_plain(module: Any) -> bool:
    dropout = module.lora_dropout["default"]
    return (
        type(module.base_layer) is nn.Linear
        and not (isinstance(dropout, nn.Dropout) and dropout.p > 0)
        and not getattr(module, "use_dora", {}).get("default", False)
        and not getattr(module, "lora_bias", {}).get("default", False)
    )


def _lora_forward(self: Any, x: torch.Tensor) -> torch.Tensor:
    base, down, up = self.base_layer, self.lora_A["default"].weight, self.lora_B["default"].weight
    result = LoraProduct.apply(x.reshape(-1, x.shape[-1]), base.weight, down, up, self.scaling["default"])
    if base.bias is not None:
        result = result + base.bias
    return result.view(*x.shape[:-1], -1)


def _is_swiglu(module: Any) -> bool:
    parts = all(hasattr(module, name) for name in ("gate_proj", "up_proj", "down_proj", "act_fn"))
    return parts and type(module.act_fn).__name__ in ("SiLU", "SiLUActivation") and type(module).__name__.endswith("MLP")


def _swiglu_forward(self: Any, x: torch.Tensor) -> torch.Tensor:
    return self.down_proj(SwiGlu.apply(self.gate_proj(x), self.up_proj(x)))
