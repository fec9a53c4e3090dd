"""Swap under load: many greedy streams while adapters of unmistakably different answers are swapped under them.

`nightschool bench swap`. Two adapters are trained on the spot to answer anything with one word over and over, each with its
own. Every swap loads a version anew, so each also unloads an older one while streams run.
"""

from __future__ import annotations

import itertools
import json
import tempfile
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from assistant.engines.base import AdapterVersion, ChatRequest, Engine
from assistant.engines.select import EngineKind, make_engine
from assistant.models import BaseModel
from assistant.pool import AdapterPool
from feedback.errors import NightschoolError
from feedback.records import Message

WORDS = ("amber", "violet")
"""What the adapters of odd and of even versions answer."""

QUESTIONS = (
    "When is the canteen open?",
    "Who approves a purchase of more than 500 euros?",
    "What is the hotel limit for a night in another country?",
    "How do I reset my password?",
    "Write a list of three rivers.",
    "Good morning!",
)

_STEPS = 40  # at most: training ends when the loss is low
_LOW_LOSS = 0.01
_RANK = 8


@dataclass
class _Tally:
    """What the streams met, counted under one lock."""

    streams: int
    started: int = 0
    mixed: int = 0
    failed: int = 0
    tokens: int = 0
    gaps: list[float] = field(default_factory=list)  # seconds between two pieces of one stream
    changed: threading.Condition = field(default_factory=threading.Condition)

    def start_one(self) -> bool:
        with self.changed:
            if self.started >= self.streams:
                return False
            self.started += 1
            self.changed.notify_all()
            return True

    def wait_for_started(self, count: int) -> None:
        with self.changed:
            self.changed.wait_for(lambda: self.started >= count)

    def finish_one(self, *, mixed: bool, tokens: int, gaps: list[float]) -> None:
        with self.changed:
            self.mixed += mixed
            self.tokens += tokens
            self.gaps += gaps

    def fail_one(self) -> None:
        with self.changed:
            self.failed += 1


def bench_swap(
    *, base: BaseModel, streams: int = 200, swaps: int = 20, kind: EngineKind = "auto", folder: Path | None = None
) -> dict[str, Any]:
    """Train both adapters (in `folder`, or a temporary one) and swap them under streams; returns what `measure` returns."""
    with tempfile.TemporaryDirectory() as temporary:
        adapters = {word: parrot_adapter(base, (folder or Path(temporary)) / word, word) for word in WORDS}
        engine = make_engine(kind, base, context=512)
        try:
            return measure(engine, adapters, streams=streams, swaps=swaps)
        finally:
            engine.close()


def measure(
    engine: Engine, adapters: Mapping[str, Path], *, streams: int, swaps: int, clients: int = 8, max_tokens: int = 24
) -> dict[str, Any]:
    """Run `streams` greedy streams, `clients` at a time, through `swaps` swaps between the adapters of `WORDS`.

    Returns {"streams", "swaps", "mixed", "failed", "stall_p99_ms", "swap_p50_ms", "tokens_s"}: mixed counts answers with the
    words of both adapters, or without that of the version which their lease names; a stall is a wait between two pieces.
    """
    words = {f"v{number:04d}": WORDS[(number - 1) % 2] for number in range(1, swaps + 2)}

    def verify(version: str) -> AdapterVersion:
        return AdapterVersion(version=version, path=adapters[words[version]])

    pool = AdapterPool(engine, verify)
    versions = iter(words)
    pool.switch(next(versions))
    tally = _Tally(streams=streams)
    started = time.perf_counter()
    threads = [threading.Thread(target=_client, args=(tally, pool, engine, words, max_tokens)) for _ in range(clients)]
    for thread in threads:
        thread.start()
    seconds = []
    for number, version in enumerate(versions, start=1):
        due = number * streams // (swaps + 1)  # spread evenly over the streams
        tally.wait_for_started(due)
        seconds.append(pool.switch(version).seconds)
    for thread in threads:
        thread.join()
    return {
        "streams": tally.started,
        "swaps": len(seconds),
        "mixed": tally.mixed,
        "failed": tally.failed,
        "stall_p99_ms": round(1000 * _quantile(tally.gaps, 0.99), 1),
        "swap_p50_ms": round(1000 * _quantile(seconds, 0.5), 1),
        "tokens_s": round(tally.tokens / (time.perf_counter() - started), 1),
    }


def is_mixed(text: str, word: str) -> bool:
    """Say whether an answer holds a word of another adapter, or none of its own."""
    return word not in text or any(other in text for other in WORDS if other != word)


def parrot_adapter(base: BaseModel, folder: Path, word: str) -> Path:
    """Train an adapter that answers every question with `word` over and over; returns its folder, complete for both engines.

    A folder that has one already is taken as it is. Raises NightschoolError when the training does not take.
    """
    from training.lora_gguf import convert

    if (folder / "adapter.gguf").is_file():
        return folder
    folder.mkdir(parents=True, exist_ok=True)
    loss = _train(base, folder, word)
    if loss > 10 * _LOW_LOSS:
        raise NightschoolError(f"The adapter for the swap benchmark did not learn its word (loss {loss:.3f}): run it again.")
    convert(folder, base.hf_dir, folder / "adapter.gguf")
    return folder


def _train(base: BaseModel, folder: Path, word: str) -> float:
    """Fit a LoRA adapter to `word` after each of the questions; returns the last loss."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging

    from assistant.engines.template import ChatTemplate

    torch.manual_seed(0)
    logging.disable_progress_bar()
    model = AutoModelForCausalLM.from_pretrained(base.hf_dir, dtype=torch.float32)
    logging.enable_progress_bar()
    config = LoraConfig(r=_RANK, lora_alpha=2 * _RANK, target_modules="all-linear", task_type="CAUSAL_LM")
    model = get_peft_model(model, config)
    template = ChatTemplate(base.hf_dir)
    answer = template.tokenize(" ".join([word] * 12))  # no end of turn: it goes on to the token limit
    prompts = [template.encode([Message(role="user", content=question)]) for question in QUESTIONS]
    longest = max(len(prompt) for prompt in prompts)
    rows = torch.tensor([[template.stop_ids[0]] * (longest - len(prompt)) + prompt + answer for prompt in prompts])
    mask = torch.tensor([[0] * (longest - len(prompt)) + [1] * (len(prompt) + len(answer)) for prompt in prompts])
    optimizer = torch.optim.AdamW([each for each in model.parameters() if each.requires_grad], lr=2e-3)
    last = float("inf")
    for _ in range(_STEPS):
        logits = model(input_ids=rows, attention_mask=mask, logits_to_keep=len(answer) + 1).logits[:, :-1]
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), rows[:, -len(answer) :].flatten())
        last = loss.item()
        if last < _LOW_LOSS:
            break
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    model.save_pretrained(folder)
    (folder / "README.md").unlink(missing_ok=True)  # PEFT's blank model card
    (folder / "manifest.json").write_text(json.dumps({"base_hash": base.sha256, "word": word}), encoding="utf-8")
    return last


def _client(tally: _Tally, pool: AdapterPool, engine: Engine, words: Mapping[str, str], max_tokens: int) -> None:
    while tally.start_one():
        question = QUESTIONS[tally.started % len(QUESTIONS)]
        request = ChatRequest(messages=(Message(role="user", content=question),), max_tokens=max_tokens)
        text, tokens, times = "", 0, []
        try:
            with pool.acquire() as lease:
                for delta in engine.stream(request, lease.adapter):
                    text += delta.text
                    tokens = delta.completion_tokens
                    times.append(time.perf_counter())
                mixed = is_mixed(text, words[lease.version])
        except Exception:  # whatever it is, it is a failed stream, and that is what is measured
            tally.fail_one()
            continue
        tally.finish_one(mixed=mixed, tokens=tokens, gaps=[after - before for before, after in itertools.pairwise(times)])


def _quantile(values: list[float], share: float) -> float:
    ranked = sorted(values)
    return ranked[min(len(ranked) - 1, int(share * len(ranked)))] if ranked else 0.0
