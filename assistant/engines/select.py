"""Which engine serves: by setting, or by what the machine has."""

from __future__ import annotations

import shutil
from typing import Literal

from assistant.engines.base import Engine
from assistant.hardware import cores
from assistant.models import BaseModel
from feedback.errors import SettingsError

EngineKind = Literal["auto", "llama_cpp", "transformers"]


def make_engine(kind: EngineKind, base: BaseModel, *, threads: int = 0, slots: int = 8, context: int = 2048) -> Engine:
    """Build the engine that serves `base`: transformers with CUDA, or where the base has no GGUF; else llama.cpp.

    `threads` 0 means one for each core; `slots` answers are written at a time; `context` is in tokens, prompt and answer.
    Raises SettingsError for an unknown kind, ModelError when the base cannot be served by the kind asked for.
    """
    kind = engine_kind(kind, base)
    if kind == "llama_cpp":
        from assistant.engines.llama_cpp import LlamaCppEngine

        return LlamaCppEngine(base, threads=threads or cores(), slots=slots, context=context)
    if kind == "transformers":
        from assistant.engines.transformers_engine import TransformersEngine

        return TransformersEngine(base, threads=threads or cores(), slots=slots, context=context)
    raise SettingsError(f"engine is {kind!r}: choose auto, llama_cpp or transformers.")


def engine_kind(kind: EngineKind, base: BaseModel) -> Literal["llama_cpp", "transformers"]:
    """Return the kind of engine that serves `base` by this setting."""
    if kind == "auto":
        return "transformers" if base.gguf_path is None or has_cuda() else "llama_cpp"
    return kind


def has_cuda() -> bool:
    """Say whether CUDA can be used; torch is only asked where a driver is installed, because importing it takes seconds."""
    if shutil.which("nvidia-smi") is None:
        return False
    import torch

    return bool(torch.cuda.is_available())
