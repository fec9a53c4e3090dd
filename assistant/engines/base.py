"""The protocol of an engine, and what goes in and comes out of one.

An engine is a generator: the chat, the command line, the benchmarks and the examination drain the same `stream`.
One answer comes from one adapter version; no engine has an "active adapter" that is switched under a request.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

from feedback.records import Message

BASE_VERSION = "base"
"""The name that turns and pages use for the base model without an adapter."""

Tool = Mapping[str, Any]
"""A tool in the OpenAI shape: {"type": "function", "function": {"name", "description", "parameters": a JSON schema}}."""


@dataclass(frozen=True, kw_only=True)
class AdapterVersion:
    """A published (or candidate) adapter: its version's name and its folder."""

    version: str
    path: Path


@dataclass(frozen=True, kw_only=True)
class ChatRequest:
    """One request. Greedy when `temperature` is 0. `max_tokens` counts the answer alone.

    `opening` is a text whose first token gets `opening_bias` nats (added to its logit) where the answer begins: below 0 the
    answer begins so less often. An engine that cannot tell the beginning apart may bias that token in the whole answer.
    """

    messages: tuple[Message, ...]
    max_tokens: int = 160
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0
    tools: tuple[Tool, ...] = ()
    opening: str = ""
    opening_bias: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Delta:
    """A piece of an answer. The last one of a stream, and only it, has a finish reason and the token counts."""

    text: str
    finish_reason: Literal["stop", "length"] | None = None
    prompt_tokens: int = 0
    completion_tokens: int = 0


@dataclass(frozen=True, kw_only=True)
class CanaryReading:
    """Log-probabilities (natural log) of the likeliest next tokens after one fixed prompt."""

    prompt: str
    logprobs: dict[int, float]  # token id -> log-probability


class LoadedAdapter(Protocol):
    """An adapter (or the bare base) that an engine holds ready. Engines subclass or satisfy this."""

    @property
    def version(self) -> str:
        """The version's name; `BASE_VERSION` for the bare base."""


@runtime_checkable
class Engine(Protocol):
    """What every engine offers."""

    @property
    def name(self) -> str:
        """Name and build, as stored in every turn: "llama_cpp 2026.10.11549"."""

    def load(self, adapter: AdapterVersion | None) -> LoadedAdapter:
        """Load an adapter (None: the bare base), warmed, not yet in service. Raises CorruptAdapter or ModelError."""

    def stream(self, request: ChatRequest, adapter: LoadedAdapter) -> Iterator[Delta]:
        """Answer one request. Closing the generator stops the model. Raises EngineError."""

    def unload(self, adapter: LoadedAdapter) -> None:
        """Free what `load` took. The adapter must not be streaming."""

    def canary(self, adapter: LoadedAdapter, prompts: Sequence[Sequence[Message]]) -> list[CanaryReading]:
        """Read the log-probabilities of the 40 likeliest next tokens after each prompt."""

    def count_tokens(self, messages: Sequence[Message], tools: Sequence[Tool] = ()) -> int:
        """Count the tokens of the rendered prompt, template and tools included."""

    def close(self) -> None:
        """Free everything."""
