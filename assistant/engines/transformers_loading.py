"""Loading for the transformers engine: the base, a whole model or a DoRA adapter beside it, and the cache of a prefix."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from assistant.adapter_checks import prefix_shape
from feedback.errors import ModelError

Precision = Literal["auto", "nf4", "bfloat16", "float32"]


def open_model(folder: Path, *, name: str, precision: Precision, device: str) -> Any:
    """Load a Hugging Face folder for inference. Raises ModelError, which calls it `name`."""
    import torch
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig
    from transformers.utils import logging

    options: dict[str, Any] = {"dtype": torch.float32 if precision == "float32" else torch.bfloat16}
    if precision == "nf4":
        options["quantization_config"] = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=torch.bfloat16,
        )
    logging.disable_progress_bar()
    try:
        model = AutoModelForCausalLM.from_pretrained(folder, device_map={"": device}, local_files_only=True, **options)
    except (OSError, ValueError, RuntimeError) as error:
        raise ModelError(f"The model {name} cannot be loaded: {error}.") from error
    finally:
        logging.enable_progress_bar()
    return model.eval()


def choose_precision(wanted: Precision, device: str) -> Precision:
    """Return the precision that "auto" means: nf4 on CUDA; on a CPU bfloat16 where the hardware computes in it."""
    if wanted != "auto":
        return wanted
    if device == "cuda":
        return "nf4"
    return "bfloat16" if _computes_bfloat16() else "float32"


def _computes_bfloat16() -> bool:
    """Say whether the CPU multiplies in bfloat16; emulated, it is many times slower than float32."""
    import torch

    probes = (getattr(torch.cpu, name, None) for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"))
    return any(probe is not None and probe() for probe in probes)


def add_dora(model: Any, folder: Path) -> Any:
    """Put a DoRA adapter on a model of its own: PEFT cannot choose one by name for a single request."""
    from peft import PeftModel

    return PeftModel.from_pretrained(model, str(folder)).eval()


def read_prefix(folder: Path, hf_dir: Path, *, like: Any) -> Any:
    """Return a prefix as PEFT saved it: keys and values (2 x layers, heads, positions, size of a head), on the model `like`'s."""
    from safetensors.torch import load_file

    flat = load_file(folder / "adapter_model.safetensors")["prompt_embeddings"]
    layers, heads, size = prefix_shape(hf_dir)
    return flat.view(len(flat), 2 * layers, heads, size).permute(1, 2, 0, 3).to(device=like.device, dtype=like.dtype)


def cache_of(prefix: Any) -> Any:
    """Return a fresh cache that begins with a prefix, for one answer."""
    from transformers import DynamicCache

    cache = DynamicCache()
    for layer in range(len(prefix) // 2):
        cache.update(prefix[2 * layer][None], prefix[2 * layer + 1][None], layer)
    return cache
