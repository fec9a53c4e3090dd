"""Log-probabilities of given answers under a model with and without an adapter (torch; a leaf module)."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from feedback.records import Message
from training.methods import kind_in

BATCH = 8
BATCH_TOKENS = 1536
"""Answers read at the same time, and tokens, with the padding: the logits of the answers alone are made."""

Given = tuple[Sequence[Message], str]
"""A prompt and the answer whose log-probability is measured."""


@dataclass(frozen=True, kw_only=True)
class Reading:
    """The summed log-probability (nats) of one answer's tokens, of which the end of turn is one, and their number."""

    logprob: float
    tokens: int

    def a_token(self) -> dict[str, float]:
        """Return the mean log-probability of a token, and the number of tokens, as JSON data."""
        return {"logprob": round(self.logprob / self.tokens, 5), "tokens": self.tokens}


def read_answers(
    hf_dir: Path,
    adapter: Path | None,
    groups: Mapping[str, Sequence[Given]],
    *,
    seconds: Mapping[str, float],
    seed: int = 0,
) -> dict[str, dict[int, Reading]]:
    """Read the given answers of several groups under one model; returns, for each group, the readings by place.

    A group ends after its `seconds`, but not before its first batch: what was read until then is a fair sample, since batches,
    sorted by length, are taken in a random order. `adapter` is an adapter's folder, or one of a whole model.
    """
    model, tokenizer = _open(hf_dir, adapter)
    found: dict[str, dict[int, Reading]] = {}
    for name, given in groups.items():
        encoded = [_encoded(tokenizer, *each) for each in given]
        batches = list(_batches([len(prompt) + len(answer) for prompt, answer in encoded]))
        random.Random(seed).shuffle(batches)
        started = time.monotonic()
        found[name] = {}
        for batch in batches:
            if found[name] and time.monotonic() - started > seconds[name]:
                break
            readings = _read(model, [encoded[place] for place in batch])
            found[name].update(zip(batch, readings, strict=True))
    return found


def _open(hf_dir: Path, adapter: Path | None) -> tuple[Any, Any]:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils import logging

    logging.disable_progress_bar()
    cuda = torch.cuda.is_available()
    whole = adapter is not None and kind_in(adapter) == "full"
    model = AutoModelForCausalLM.from_pretrained(
        adapter if whole else hf_dir, dtype=torch.bfloat16 if cuda else torch.float32, device_map="cuda" if cuda else None
    )
    if adapter is not None and not whole:
        from peft import PeftModel

        model = PeftModel.from_pretrained(model, adapter)
    return model.eval(), AutoTokenizer.from_pretrained(hf_dir)


def _encoded(tokenizer: Any, messages: Sequence[Message], answer: str) -> tuple[list[int], list[int]]:
    prompt = tokenizer.apply_chat_template(
        [message.as_dict() for message in messages], add_generation_prompt=True, return_dict=True
    )["input_ids"]
    return prompt, [*tokenizer(answer, add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]


def _batches(lengths: Sequence[int]) -> Iterator[list[int]]:
    """Yield places sorted by length, as many at a time as fit."""
    batch: list[int] = []
    for place in sorted(range(len(lengths)), key=lambda place: (lengths[place], place)):
        if batch and (len(batch) == BATCH or (len(batch) + 1) * lengths[place] > BATCH_TOKENS):
            yield batch
            batch = []
        batch.append(place)
    if batch:
        yield batch


def _read(model: Any, rows: Sequence[tuple[list[int], list[int]]]) -> list[Reading]:
    """Read one batch: padded at the end, which no earlier token sees."""
    import torch

    longest = max(len(prompt) + len(answer) for prompt, answer in rows)
    ids = torch.tensor([prompt + answer + [0] * (longest - len(prompt) - len(answer)) for prompt, answer in rows])
    mask = torch.tensor(
        [[1] * (len(prompt) + len(answer)) + [0] * (longest - len(prompt) - len(answer)) for prompt, answer in rows]
    )
    first = min(len(prompt) for prompt, _ in rows) - 1  # the logits that are needed begin here
    device = next(model.parameters()).device
    with torch.inference_mode():
        logits = model(
            input_ids=ids.to(device), attention_mask=mask.to(device), use_cache=False, logits_to_keep=longest - first
        ).logits
    readings = []
    for row, (prompt, answer) in enumerate(rows):
        begin = len(prompt) - 1 - first
        scores = torch.log_softmax(logits[row, begin : begin + len(answer)].float(), dim=-1)
        chosen = scores.gather(1, torch.tensor(answer, device=device)[:, None])
        readings.append(Reading(logprob=float(chosen.sum()), tokens=len(answer)))
    return readings
