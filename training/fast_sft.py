"""Supervised fine-tuning for long prompts and short completions: rows, batches, and the loss on the labels alone.

A row's prompt is some 350 tokens and its completion some 15. So batches hold rows of like length (little padding),
padding stands on the right and needs no mask (no token looks to its right), and the vocabulary's scores, the largest
product of a small model, are computed for the labelled positions only.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import nn
from trl import SFTTrainer

from feedback.errors import RunError
from training.adapters import prefix_cache
from training.planned import PlannedTrainer, finite
from training.upper_layers import Lower

IGNORED = -100
"""The label of a position that carries no loss."""

PADDED_TO = 16
"""Batches are padded to a multiple of so many tokens."""

JITTER = 0.1
"""How far (as a share) a length is shaken before sorting, so that batches differ from epoch to epoch."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """One example as token ids; the completion ends with the end-of-turn token."""

    prompt: tuple[int, ...]
    completion: tuple[int, ...]

    @property
    def length(self) -> int:
        """Tokens of prompt and completion."""
        return len(self.prompt) + len(self.completion)


def encode(example: Mapping[str, Any], tokenizer: Any) -> Row:
    """Render a `{"prompt": [messages], "completion": [messages]}` row with the chat template, as serving renders it.

    Prompt and completion are tokenised apart, because a served prompt is tokenised before its answer exists. What the
    template puts after the end-of-turn token is left out: no engine generates it. Raises RunError when the template
    does not continue its own prompt, or never ends a turn.
    """
    prompt, messages = list(example["prompt"]), [*example["prompt"], *example["completion"]]
    start = tokenizer.apply_chat_template(prompt, tokenize=False, add_generation_prompt=True)
    whole = tokenizer.apply_chat_template(messages, tokenize=False)
    if not whole.startswith(start):
        raise RunError(
            "The chat template does not continue its own prompt, so no completion can be cut out: use another base model."
        )
    prompt_ids = tokenizer(start, add_special_tokens=False)["input_ids"]
    completion_ids = tokenizer(whole[len(start) :], add_special_tokens=False)["input_ids"]
    if tokenizer.eos_token_id not in completion_ids:
        raise RunError(f"The chat template never ends a turn with {tokenizer.eos_token!r}: use another base model.")
    end = len(completion_ids) - completion_ids[::-1].index(tokenizer.eos_token_id)
    return Row(prompt=tuple(prompt_ids), completion=tuple(completion_ids[:end]))


def refuse_long(rows: Sequence[Row], *, max_length: int) -> None:
    """Raise RunError when any row is longer than `max_length` tokens: cutting it would cut its completion away."""
    long = [index for index, row in enumerate(rows) if row.length > max_length]
    if long:
        worst = max(rows[index].length for index in long)
        raise RunError(
            f"{len(long)} of {len(rows)} examples are longer than {max_length} tokens (row {long[0]} first; the longest "
            f"has {worst}): leave them out of the dataset."
        )


def plan_batches(lengths: Sequence[int], *, batch_size: int, max_batch_tokens: int, epochs: float, seed: int) -> list[list[int]]:
    """Return the batches of the whole training, in order, as row indices: the same for the same arguments.

    In each epoch every row comes once, in batches of like length whose order is shuffled; a batch has at most
    `batch_size` rows and, padding included, at most `max_batch_tokens` tokens (a single row may be longer). The last
    epoch may be a part of one.
    """
    batches: list[list[int]] = []
    epoch = 0
    while epochs > epoch:
        rng = random.Random(f"{seed}/{epoch}")
        share = min(1.0, epochs - epoch)
        packed = _pack(lengths, batch_size, max_batch_tokens, rng)
        rng.shuffle(packed)
        batches += packed[: max(1, round(share * len(packed)))]
        epoch += 1
    return batches


def padded_length(length: int) -> int:
    """Return how many tokens a row of this length takes where it is the longest of its batch.

    Few different sizes: of ever new ones the allocator's heap is torn to pieces, and after a few hundred steps on a CPU a fifth
    of the time goes into finding room (docs/LOG.md).
    """
    return -(-length // PADDED_TO) * PADDED_TO


def _pack(lengths: Sequence[int], batch_size: int, max_tokens: int, rng: random.Random) -> list[list[int]]:
    order = sorted(range(len(lengths)), key=lambda row: -lengths[row] * (1 + JITTER * (rng.random() - 0.5)))
    packed: list[list[int]] = []
    longest = 0
    for row in order:
        size = padded_length(lengths[row])
        longest = max(longest, size) if packed else size
        if packed and len(packed[-1]) < batch_size and longest * (len(packed[-1]) + 1) <= max_tokens:
            packed[-1].append(row)
        else:
            packed.append([row])
            longest = size
    return packed


def labelled(row: Row, *, number: int) -> dict[str, Any]:
    """Return a row as `collate` takes it; `number` is its place among all rows."""
    return {
        "input_ids": [*row.prompt, *row.completion],
        "labels": [*[IGNORED] * len(row.prompt), *row.completion],
        "number": number,
    }


def collate(rows: Sequence[Mapping[str, Any]], *, pad_token_id: int) -> dict[str, torch.Tensor]:
    """Pad rows on the right into two (rows, longest) tensors beside their numbers (rows); no mask is needed, see above."""
    longest = padded_length(max(len(row["input_ids"]) for row in rows))
    batch = {"input_ids": pad_token_id, "labels": IGNORED}
    padded = {
        key: torch.tensor([[*row[key], *[filler] * (longest - len(row[key]))] for row in rows]) for key, filler in batch.items()
    }
    return {**padded, "numbers": torch.tensor([row["number"] for row in rows])}


def labels_loss(
    model: Any, input_ids: torch.Tensor, labels: torch.Tensor, numbers: torch.Tensor | None = None, *, lower: Lower | None = None
) -> torch.Tensor:
    """Return the mean cross-entropy of the labelled tokens, scoring only their positions; the model may be a PeftModel.

    With `lower`, its lower layers are computed once for each row; `numbers` says which rows these are.
    """
    inner = model.get_base_model() if hasattr(model, "get_base_model") else model
    if lower is not None and numbers is not None:
        hidden = lower(input_ids, numbers)
    else:
        past = prefix_cache(model, len(input_ids))
        hidden = inner.get_decoder()(input_ids=input_ids, past_key_values=past, use_cache=False).last_hidden_state
    wanted = labels[:, 1:] != IGNORED
    scores = inner.get_output_embeddings()(hidden[:, :-1][wanted])
    return nn.functional.cross_entropy(scores.float(), labels[:, 1:][wanted])


class FastSFTTrainer(PlannedTrainer, SFTTrainer):  # type: ignore[misc]
    """TRL's trainer with planned batches and the loss on the labels alone."""

    def __init__(self, *, pad_token_id: int, lower: Lower | None = None, **settings: Any) -> None:
        super().__init__(data_collator=partial(collate, pad_token_id=pad_token_id), **settings)
        self._lower = lower
        self.model_accepts_loss_kwargs = True  # so that the labels of a step's batches are counted together

    def compute_loss(
        self, model: Any, inputs: dict[str, torch.Tensor], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """Return the loss of one batch, as its part of a step's mean over labels where there are several batches in it.

        Raises RunError when it is not a number: such a step would spoil the adapter.
        """
        loss = finite(labels_loss(model, **inputs, lower=self._lower), step=self.state.global_step + 1)
        if num_items_in_batch is not None:
            loss = loss * ((inputs["labels"][:, 1:] != IGNORED).sum() / num_items_in_batch)
        return (loss, None) if return_outputs else loss
