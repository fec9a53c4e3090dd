"""The transformers engine: torch and peft, for CUDA and for any Hugging Face causal language model.

LoRA adapters lie side by side in one model, and each forward pass names its own: PEFT's `adapter_names`, given to the LoRA
layers by hooks that are set once and read a thread-local name. There is no active adapter that a swap could change under a
request. A prefix is what the cache of each of its answers begins with, over the same model. A DoRA adapter, which PEFT cannot
choose by name, and a whole model have an instance of their own, which costs the memory of the base once more.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Generator, Iterator, Sequence
from typing import Any

from assistant.adapter_checks import check_adapter
from assistant.engines.base import BASE_VERSION, AdapterVersion, CanaryReading, ChatRequest, Delta, LoadedAdapter, Tool
from assistant.engines.template import ChatTemplate
from assistant.engines.transformers_loading import (
    Precision,
    add_dora,
    cache_of,
    choose_precision,
    open_model,
    read_prefix,
)
from assistant.models import BaseModel
from feedback.errors import CorruptAdapter, EngineError, ModelError
from feedback.records import Message
from training.methods import Kind

CANARY_TOKENS = 40
"""How many of the likeliest next tokens a canary reading holds."""

_PEFT_BASE = "__base__"  # PEFT's name for "no adapter" in adapter_names
_UNUSED = "unused"  # the adapter whose injection puts LoRA layers into place; no request ever names it


class TransformersAdapter:
    """A version that is loaded: the name under which its tensors lie in the model, its prefix, or its own model."""

    def __init__(self, version: str, key: str, *, prefix: Any = None, model: Any = None) -> None:
        self._version = version
        self.key = key
        self.prefix = prefix
        self.model = model
        self.loaded = True

    @property
    def version(self) -> str:
        """The version's name; "base" for the bare base."""
        return self._version


class TransformersEngine:
    """Serves a Hugging Face folder, `slots` answers at a time, each with `context` tokens for prompt and answer together.

    `precision` "auto": nf4 on CUDA; on a CPU bfloat16 where the hardware computes in it, else float32. `threads` is torch's
    on a CPU. Raises ModelError when the folder cannot be loaded.
    """

    def __init__(
        self, base: BaseModel, *, threads: int, slots: int = 8, context: int = 2048, precision: Precision = "auto"
    ) -> None:
        import torch

        self._base = base
        self._context = context
        self._template = ChatTemplate(base.hf_dir)
        self._device = "cuda" if torch.cuda.is_available() else "cpu"
        self._slots = threading.BoundedSemaphore(slots)
        self._changes = threading.Lock()  # one load or unload at a time; answers go on meanwhile
        self._numbers = itertools.count(1)
        if self._device == "cpu":
            torch.set_num_threads(threads)
        self._forward_as = threading.local()  # .key: the adapter of the forward pass that this thread is in
        self._precision = choose_precision(precision, self._device)
        self._model = self._open_base()

    @property
    def name(self) -> str:
        """Name, build and device."""
        import importlib.metadata

        return f"transformers {importlib.metadata.version('transformers')} {self._device}"

    def load(self, adapter: AdapterVersion | None) -> TransformersAdapter:
        """Load an adapter beside the others (None: the bare base). Raises CorruptAdapter; what is loaded stays as it was."""
        if adapter is None:
            return TransformersAdapter(BASE_VERSION, _PEFT_BASE)
        kind = check_adapter(adapter, hf_dir=self._base.hf_dir, base_sha256=self._base.sha256, engine="transformers")
        if kind == "prefix":
            prefix = read_prefix(adapter.path, self._base.hf_dir, like=self._model)
            return TransformersAdapter(adapter.version, _PEFT_BASE, prefix=prefix)
        if kind != "lora":
            return TransformersAdapter(adapter.version, _PEFT_BASE, model=self._own_model(adapter, kind))
        # A name of its own for every load: PEFT keeps the old scale when a name is loaded twice.
        loaded = TransformersAdapter(adapter.version, f"{adapter.version}_{next(self._numbers)}".replace(".", "_"))
        with self._changes:
            try:
                result = self._model.load_adapter(str(adapter.path), adapter_name=loaded.key, torch_device=self._device)
            except Exception as error:
                self._delete(loaded.key)  # PEFT leaves a half-loaded adapter behind
                raise CorruptAdapter(adapter.version, f"peft refuses it ({error})") from error
            if result.missing_keys:
                self._delete(loaded.key)
                raise CorruptAdapter(adapter.version, f"its tensor {result.missing_keys[0]} is missing")
            self._hook_layers()
        return loaded

    def stream(self, request: ChatRequest, adapter: LoadedAdapter) -> Iterator[Delta]:
        """Answer one request; a closed generator stops the model at once. Raises EngineError."""
        loaded = _ours(adapter)
        prompt = self._template.encode(request.messages, request.tools)
        if len(prompt) >= self._context:
            raise EngineError(
                f"The prompt has {len(prompt)} tokens, and the model takes {self._context} with its answer: shorten the "
                "question, or turn the history off."
            )
        limit = min(request.max_tokens, self._context - len(prompt))
        written: list[int] = []
        shown = ""
        with self._slots:
            tokens = self._generate(prompt, limit, request, loaded)
            try:
                for token in tokens:
                    written.append(token)
                    if token in self._template.stop_ids:
                        break
                    text = self._template.decode(written)
                    # A character may span tokens: it is whole when the text no longer ends in a replacement mark.
                    if text != shown and not text.endswith("\ufffd"):
                        yield Delta(text=text[len(shown) :])
                        shown = text
            finally:
                tokens.close()
        ended = bool(written) and written[-1] in self._template.stop_ids
        yield Delta(
            text=self._template.decode(written)[len(shown) :],
            finish_reason="stop" if ended else "length",
            prompt_tokens=len(prompt),
            completion_tokens=len(written),
        )

    def unload(self, adapter: LoadedAdapter) -> None:
        """Delete an adapter's tensors from the model. The bare base stays until `close`."""
        loaded = _ours(adapter)
        with self._changes:
            if loaded.loaded and loaded.key != _PEFT_BASE:
                self._delete(loaded.key)
            loaded.loaded = False
            loaded.prefix = loaded.model = None

    def canary(self, adapter: LoadedAdapter, prompts: Sequence[Sequence[Message]]) -> list[CanaryReading]:
        """Read the log-probabilities of the 40 likeliest next tokens after each prompt."""
        import torch

        loaded = _ours(adapter)
        readings = []
        for prompt in prompts:
            with torch.inference_mode():
                logits, _ = self._forward(self._template.encode(prompt), None, loaded)
                values, ids = torch.log_softmax(logits, dim=-1).topk(CANARY_TOKENS)
            logprobs = dict(zip(ids.tolist(), values.tolist(), strict=True))
            readings.append(CanaryReading(prompt=prompt[-1].content, logprobs=logprobs))
        return readings

    def count_tokens(self, messages: Sequence[Message], tools: Sequence[Tool] = ()) -> int:
        """Count the tokens of the rendered prompt, template and tools included."""
        return self._template.count(messages, tools)

    def close(self) -> None:
        """Free the model."""
        self._model = None

    def _open_base(self) -> Any:
        """Load the base and put LoRA layers into all its linear layers, so that a later adapter replaces no module.

        Without this the first adapter would swap modules under a request that the bare base is answering.
        """
        from peft import LoraConfig, get_peft_model

        model = open_model(self._base.hf_dir, name=self._base.name, precision=self._precision, device=self._device)
        self._model = get_peft_model(model, LoraConfig(r=1, target_modules="all-linear"), adapter_name=_UNUSED)
        self._model.eval()
        self._hook_layers()
        return self._model

    def _own_model(self, adapter: AdapterVersion, kind: Kind) -> Any:
        """Open an instance for one version: a whole model, or the base with a DoRA adapter."""
        folder = adapter.path if kind == "full" else self._base.hf_dir
        try:
            model = open_model(folder, name=adapter.version, precision=self._precision, device=self._device)
            return model if kind == "full" else add_dora(model, adapter.path)
        except (ModelError, RuntimeError) as error:
            raise CorruptAdapter(adapter.version, f"it cannot be loaded ({error})") from error

    def _hook_layers(self) -> None:
        """Tell every LoRA layer to take the adapter's name from the thread that calls it."""
        from peft.tuners.lora import LoraLayer

        for module in self._model.modules():
            if isinstance(module, LoraLayer) and not getattr(module, "nightschool_hooked", False):
                module.register_forward_pre_hook(self._name_adapter, with_kwargs=True)
                module.nightschool_hooked = True

    def _name_adapter(self, _module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        return args, {**kwargs, "adapter_names": [self._forward_as.key] * len(args[0])}

    def _forward(self, ids: list[int], past: Any, loaded: TransformersAdapter) -> tuple[Any, Any]:
        """Run the model over new tokens; returns the logits (float32, vocabulary) after the last one, and the cache."""
        import torch

        model, prefix = loaded.model or self._model, loaded.prefix
        if self._model is None or not loaded.loaded:
            raise EngineError(f"The adapter {loaded.version} is no longer loaded: ask again.")
        if past is None and prefix is not None:
            past = cache_of(prefix)
        self._forward_as.key = loaded.key
        try:
            output = model(
                input_ids=torch.tensor([ids], device=self._device), past_key_values=past, use_cache=True, logits_to_keep=1
            )
        except RuntimeError as error:  # out of memory, above all
            raise EngineError(f"The model failed: {error}.") from error
        finally:
            del self._forward_as.key
        return output.logits[0, -1].float(), output.past_key_values

    def _generate(
        self, prompt: list[int], limit: int, request: ChatRequest, loaded: TransformersAdapter
    ) -> Generator[int, None, None]:
        """Yield one token id after the other; inference mode only inside a step, since the reader runs between steps."""
        import torch

        source = torch.Generator(device=self._device).manual_seed(request.seed)
        ids, past = prompt, None
        for place in range(limit):
            with torch.inference_mode():
                logits, past = self._forward(ids, past, loaded)
                if place == 0 and request.opening:
                    logits[self._template.first_token(request.opening)] += request.opening_bias
                token = _choose(logits, request, source)
            yield token
            ids = [token]

    def _delete(self, key: str) -> None:
        if key in self._model.peft_config:
            self._model.delete_adapter(key)


def _choose(logits: Any, request: ChatRequest, source: Any) -> int:
    """Pick the next token: the likeliest at temperature 0, else by nucleus sampling (Holtzman et al. 2020)."""
    import torch

    if request.temperature <= 0:
        return int(logits.argmax())
    ranked, ids = torch.softmax(logits / request.temperature, dim=-1).sort(descending=True)
    ranked[ranked.cumsum(0) - ranked >= request.top_p] = 0.0
    return int(ids[torch.multinomial(ranked, 1, generator=source)])


def _ours(adapter: LoadedAdapter) -> TransformersAdapter:
    if not isinstance(adapter, TransformersAdapter):
        raise EngineError(f"The adapter {adapter.version} was loaded by another engine.")
    return adapter
