"""Supervised fine-tuning for long prompts and short completions: rows, batches, and the loss on the labels alone.

A row's prompt is some 350 tokens and its completion some 15. So batches hold rows of like length (little padding),
padding stands on the right and needs no mask (no token looks to its right), and the vocabulary's scores, the largest
product of a small model, are computed for the labelled positions only.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.utils.data import DataLoader
from trl import SFTTrainer

from feedback.errors import RunError

IGNORED = -100
"""The label of a position that carries no loss."""

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


def _pack(lengths: Sequence[int], batch_size: int, max_tokens: int, rng: random.Random) -> list[list[int]]:
    order = sorted(range(len(lengths)), key=lambda row: -lengths[row] * (1 + JITTER * (rng.random() - 0.5)))
    packed: list[list[int]] = []
    longest = 0
    for row in order:
        longest = max(longest, lengths[row]) if packed else lengths[row]
        if packed and len(packed[-1]) < batch_size and longest * (len(packed[-1]) + 1) <= max_tokens:
            packed[-1].append(row)
        else:
            packed.append([row])
            longest = lengths[row]
    return packed


def collate(rows: Sequence[Mapping[str, Sequence[int]]], *, pad_token_id: int) -> dict[str, torch.Tensor]:
    """Pad `{"input_ids", "labels"}` rows on the right into two (rows, longest) tensors; no mask is needed, see above."""
    longest = max(len(row["input_ids"]) for row in rows)
    batch = {"input_ids": pad_token_id, "labels": IGNORED}
    return {
        key: torch.tensor([[*row[key], *[filler] * (longest - len(row[key]))] for row in rows]) for key, filler in batch.items()
    }


def labels_loss(model: Any, input_ids: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Return the mean cross-entropy of the labelled tokens, scoring only their positions; the model may be a PeftModel."""
    inner = model.get_base_model() if hasattr(model, "get_base_model") else model
    hidden = inner.get_decoder()(input_ids=input_ids, use_cache=False).last_hidden_state
    wanted = labels[:, 1:] != IGNORED
    scores = inner.get_output_embeddings()(hidden[:, :-1][wanted])
    return nn.functional.cross_entropy(scores.float(), labels[:, 1:][wanted])


class FixedBatches:
    """A batch sampler over batches that were planned before."""

    def __init__(self, batches: Sequence[list[int]]) -> None:
        self._batches = batches

    def __iter__(self) -> Iterator[list[int]]:
        """Yield each batch's row indices."""
        return iter(self._batches)

    def __len__(self) -> int:
        """Count the batches."""
        return len(self._batches)


class FastSFTTrainer(SFTTrainer):  # type: ignore[misc]
    """TRL's trainer with planned batches, the loss on the labels alone, and a rate that follows a changing number of steps."""

    def __init__(self, *, batches: Sequence[list[int]], rate: Any, pad_token_id: int, **settings: Any) -> None:
        self._planned = FixedBatches(batches)
        self._rate = rate  # step -> factor of the learning rate
        self._pad_token_id = pad_token_id
        super().__init__(data_collator=self._collate, **settings)

    def _collate(self, rows: Sequence[Mapping[str, Sequence[int]]]) -> dict[str, torch.Tensor]:
        return collate(rows, pad_token_id=self._pad_token_id)

    def get_train_dataloader(self) -> Any:
        """Return the planned batches, all epochs in one pass."""
        return DataLoader(self.train_dataset, batch_sampler=self._planned, collate_fn=self._collate)

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:
        """Make the schedule from the rate that was given; `num_training_steps` is ignored, the rate knows better."""
        if getattr(self, "lr_scheduler", None) is None:
            self.lr_scheduler: Any = torch.optim.lr_scheduler.LambdaLR(optimizer or self.optimizer, self._rate)
            self._created_lr_scheduler = True
        return self.lr_scheduler

    def compute_loss(
        self, model: Any, inputs: dict[str, torch.Tensor], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """Return the loss of one batch. Raises RunError when it is not a number: such a step would spoil the adapter."""
        loss = labels_loss(model, inputs["input_ids"], inputs["labels"])
        if not torch.isfinite(loss):
            raise RunError(f"The loss of step {self.state.global_step + 1} is {loss.item()}: lower the learning rate.")
        return (loss, None) if return_outputs else loss

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        # TRL's own writes a model card as well, which a checkpoint does not need
        super(SFTTrainer, self)._save_checkpoint(model, trial)
