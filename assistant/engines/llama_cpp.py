"""The llama.cpp engine, in process through xllamacpp: the default without CUDA.

An adapter is fixed when a server instance starts, so there is one instance for each version in service. The GGUF of the
base is memory-mapped and its pages are shared; an instance costs its KV cache, the adapter and about half a second.
Prefix caches live inside an instance, so they are keyed by version by construction.
"""

from __future__ import annotations

import queue
import secrets
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from assistant.adapter_checks import check_adapter
from assistant.engines.base import BASE_VERSION, AdapterVersion, CanaryReading, ChatRequest, Delta, LoadedAdapter, Tool
from assistant.engines.template import ChatTemplate
from assistant.models import BaseModel
from feedback.errors import CorruptAdapter, EngineError, ModelError
from feedback.records import Message

CANARY_TOKENS = 40
"""How many of the likeliest next tokens a canary reading holds."""

_PATIENCE_S = 60.0  # a stopped stream ends at its next token; reading a long prompt comes before the first

_PREFIX_CACHE_MIB = 64  # llama.cpp's own default for this cache in memory is 8 GiB


class LlamaCppAdapter:
    """One server instance: the base, or the base with one adapter."""

    def __init__(self, version: str, server: Any) -> None:
        self._version = version
        self._changed = threading.Condition()
        self.server = server
        self.calls = 0  # C++ calls under way; the instance may only be freed at zero
        self.closing = threading.Event()  # ends every call at its next token

    @property
    def version(self) -> str:
        """The version's name; "base" for the bare base."""
        return self._version

    def begin(self) -> None:
        """Count a call into the instance. Raises EngineError when it is gone."""
        with self._changed:
            if self.server is None:
                raise EngineError(f"The adapter {self.version} is no longer loaded: ask again.")
            self.calls += 1

    def end(self) -> None:
        """Count a call as come back."""
        with self._changed:
            self.calls -= 1
            self._changed.notify_all()

    def free(self, patience_s: float) -> None:
        """Free the instance once no call is under way. Raises EngineError when one does not come back in time."""
        with self._changed:
            if not self._changed.wait_for(lambda: self.calls == 0, timeout=patience_s):
                raise EngineError(f"The adapter {self.version} cannot be unloaded: it is still answering.")
            self.server = None


class LlamaCppEngine:
    """Serves a GGUF base, `slots` answers at a time, each with `context` tokens for prompt and answer together.

    `threads` counts physical cores to use. Raises ModelError when the base has no GGUF.
    """

    def __init__(
        self, base: BaseModel, *, threads: int, slots: int = 8, context: int = 2048, gguf_path: Path | None = None
    ) -> None:
        path = gguf_path or base.gguf_path
        if path is None or not path.is_file():
            raise ModelError(
                f'The base model {base.name} has no GGUF file: use the transformers engine (engine = "transformers").'
            )
        self._base = base
        self._path = path
        self._threads = threads
        self._slots = slots
        self._context = context
        self._template = ChatTemplate(base.hf_dir)
        self._loaded: list[LlamaCppAdapter] = []

    @property
    def name(self) -> str:
        """Name and build."""
        import importlib.metadata

        return f"llama_cpp {importlib.metadata.version('xllamacpp')}"

    def load(self, adapter: AdapterVersion | None) -> LlamaCppAdapter:
        """Start an instance for an adapter (None: the bare base) and warm it up.

        Raises CorruptAdapter when the adapter fails a check or llama.cpp refuses it, ModelError when it refuses the base.
        """
        import xllamacpp as xlc

        if adapter is not None:
            check_adapter(adapter, hf_dir=self._base.hf_dir, base_sha256=self._base.sha256, engine="llama_cpp")
            if not (adapter.path / "adapter.gguf").is_file():
                raise CorruptAdapter(adapter.version, "it has no adapter.gguf")
        try:
            server = xlc.Server(self.server_params(adapter))
        except Exception as error:  # C++ exceptions of many kinds
            if adapter is not None:
                raise CorruptAdapter(adapter.version, f"llama.cpp refuses it ({error})") from error
            raise ModelError(f"llama.cpp cannot load {self._path.name}: {error}.") from error
        loaded = LlamaCppAdapter(adapter.version if adapter else BASE_VERSION, server)
        self._complete(loaded, self._template.encode([Message(role="user", content="Hello")]), {"n_predict": 1})
        self._loaded.append(loaded)
        return loaded

    def stream(self, request: ChatRequest, adapter: LoadedAdapter) -> Iterator[Delta]:
        """Answer one request; closing the generator stops the model at its next token. Raises EngineError."""
        loaded = _ours(adapter)
        body = {
            "prompt": self._template.encode(request.messages, request.tools),
            "n_predict": request.max_tokens,
            "temperature": request.temperature,
            "top_p": request.top_p,
            "top_k": 0,  # the protocol knows temperature and top_p only: no hidden truncation
            "min_p": 0.0,
            "seed": request.seed,
            "stream": True,
        }
        if request.opening and request.opening_bias:
            # in the whole answer: a token that begins a sentence is another one inside of it
            body["logit_bias"] = [[self._template.first_token(request.opening), request.opening_bias]]
        chunks: queue.SimpleQueue[dict[str, Any] | BaseException | None] = queue.SimpleQueue()
        closed = threading.Event()

        def receive(chunk: dict[str, Any]) -> bool:
            chunks.put(chunk)
            # True ends the generation. The main thread is dead when the interpreter shuts down with an open stream.
            return closed.is_set() or loaded.closing.is_set() or not threading.main_thread().is_alive()

        def call() -> None:
            try:
                loaded.server.handle_completions(body, receive)
                chunks.put(None)
            except BaseException as error:  # crosses a thread: raised again in the reader's
                chunks.put(error)
            finally:
                loaded.end()

        loaded.begin()  # ended by the call, not by the reader: a reader may stop reading without closing
        # Not a daemon: one that is killed inside C++ at shutdown aborts the process.
        threading.Thread(target=call, name="llama_cpp stream").start()
        try:
            yield from _deltas(chunks)
        finally:
            closed.set()

    def unload(self, adapter: LoadedAdapter) -> None:
        """Free an instance, once its last call has come back (a stopped stream ends at its next token)."""
        loaded = _ours(adapter)
        if loaded in self._loaded:
            self._loaded.remove(loaded)
        loaded.free(_PATIENCE_S)

    def canary(self, adapter: LoadedAdapter, prompts: Sequence[Sequence[Message]]) -> list[CanaryReading]:
        """Read the log-probabilities of the 40 likeliest next tokens after each prompt, the prefix cache left aside."""
        loaded = _ours(adapter)
        readings = []
        for prompt in prompts:
            body = {"n_predict": 1, "temperature": 0.0, "n_probs": CANARY_TOKENS, "cache_prompt": False}
            answer = self._complete(loaded, self._template.encode(prompt), body)
            top = answer["choices"][0]["logprobs"]["content"][0]["top_logprobs"]
            logprobs = {int(row["id"]): float(row["logprob"]) for row in top}
            readings.append(CanaryReading(prompt=prompt[-1].content, logprobs=logprobs))
        return readings

    def count_tokens(self, messages: Sequence[Message], tools: Sequence[Tool] = ()) -> int:
        """Count the tokens of the rendered prompt, template and tools included."""
        return self._template.count(messages, tools)

    def close(self) -> None:
        """Free every instance; answers that are being written end at their next token."""
        for loaded in self._loaded:
            loaded.closing.set()
        for loaded in list(self._loaded):
            self.unload(loaded)

    def server_params(self, adapter: AdapterVersion | None) -> Any:
        """Return the parameters of an instance (xllamacpp's CommonParams), as `load` starts it."""
        import xllamacpp as xlc

        params = xlc.CommonParams()
        params.model.path = str(self._path)
        params.verbosity = -1
        params.cpuparams.n_threads = self._threads
        params.cpuparams_batch.n_threads = self._threads
        params.n_parallel = self._slots
        params.n_ctx = self._slots * self._context
        params.fit_params = False  # probes the memory by loading the model twice: half of the start
        params.warmup = False  # `load` warms the instance with a prompt of our own
        params.cache_ram_mib = _PREFIX_CACHE_MIB
        # The instance also listens on a free port of the loopback: nobody but us may use it.
        params.api_keys = [secrets.token_urlsafe(32)]
        params.ui = False
        params.endpoint_slots = False
        if adapter is not None:
            params.lora_adapters = [xlc.CommonAdapterLoraInfo(str(adapter.path / "adapter.gguf"), 1.0)]
        return params

    def prompt_ids(self, messages: Sequence[Message]) -> list[int]:
        """Return the token ids that the model is given for these messages."""
        return self._template.encode(messages)

    def _complete(self, loaded: LlamaCppAdapter, ids: list[int], body: dict[str, Any]) -> dict[str, Any]:
        loaded.begin()
        try:
            answer: dict[str, Any] = loaded.server.handle_completions({"prompt": ids, **body})
        finally:
            loaded.end()
        _raise_error(answer)
        return answer


def _ours(adapter: LoadedAdapter) -> LlamaCppAdapter:
    if not isinstance(adapter, LlamaCppAdapter):
        raise EngineError(f"The adapter {adapter.version} was loaded by another engine.")
    return adapter


def _deltas(chunks: queue.SimpleQueue[dict[str, Any] | BaseException | None]) -> Iterator[Delta]:
    """Turn the chunks of llama.cpp into deltas; the one with the finish reason comes last."""
    while True:
        chunk = chunks.get()
        if chunk is None:
            raise EngineError("The model stopped without finishing its answer: ask again.")
        if isinstance(chunk, BaseException):
            raise EngineError(f"The model failed: {chunk}.") from chunk
        _raise_error(chunk)
        choice = chunk["choices"][0]
        if choice["finish_reason"] is None:
            if choice["text"]:
                yield Delta(text=choice["text"])
            continue
        usage = chunk["usage"]
        yield Delta(
            text=choice["text"],
            finish_reason="length" if choice["finish_reason"] == "length" else "stop",
            prompt_tokens=usage["prompt_tokens"],
            completion_tokens=usage["completion_tokens"],
        )
        return


def _raise_error(answer: dict[str, Any]) -> None:
    error = answer.get("error")
    if not error:
        return
    if error.get("type") == "exceed_context_size_error":
        raise EngineError(
            f"The prompt has {error['n_prompt_tokens']} tokens, and the model takes {error['n_ctx']} with its answer: "
            "shorten the question, or turn the history off."
        )
    raise EngineError(f"The model failed: {error.get('message', error)}.")
