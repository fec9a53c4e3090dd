"""The loss on rows that are held out: measured a few times an epoch, it says when to stop and which weights were best.

It costs little: one pass without gradients over a few dozen rows, with scores for their labels alone. The best weights stay in
memory and in each checkpoint, so that a training that was killed goes on with the same ones.
"""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from feedback.values import fold, without_citations
from feedback.wording import REFUSAL
from training.fast_sft import Row, collate, labelled, labels_loss, plan_batches
from training.upper_layers import Lower

MOST_ROWS = 48
"""More held-out rows than this cost time and tell no more."""

_READINGS, _BEST = "held_loss.json", "best.safetensors"


def hold_rows(examples: Sequence[Mapping[str, Any]], *, share: float, seed: int) -> tuple[list[int], list[int]]:
    """Split a snapshot's rows, as places, into those to train on and those held out, by facts and stable for a seed.

    About `share` of the rows (at most 48) is held out, all rows of a fact together, and never a general one. Where
    that would leave nothing on one side, nothing is held out.
    """
    facts: dict[str, list[int]] = {}
    for place, example in enumerate(examples):
        if example.get("source") != "general":
            facts.setdefault(fact_of(example), []).append(place)
    wanted = min(MOST_ROWS, round(share * sum(map(len, facts.values()))))
    held: list[int] = []
    for fact in sorted(facts, key=lambda fact: hashlib.sha256(f"{seed} {fact}".encode()).digest()):
        if len(held) + len(facts[fact]) <= wanted:
            held += facts[fact]
    kept = sorted(set(range(len(examples))) - set(held))
    return (kept, sorted(held)) if kept else (list(range(len(examples))), [])


def fact_of(example: Mapping[str, Any]) -> str:
    """Name the fact behind a row: the first two parts of an id "company/fact/variant", else its answer or refused question."""
    parts = str(example["id"]).split("/")
    if len(parts) > 1:
        return "/".join(parts[:2])
    answer = fold(without_citations(example["completion"][-1]["content"]))
    return answer if answer != fold(REFUSAL) else fold(example["prompt"][-1]["content"].rpartition("\n")[2])


class HeldLoss:
    """Measures the loss on held-out rows every `every` steps and at the end, and keeps the weights of the best measurement.

    `patience` is how many measurements may pass without a gain (0: any number). `numbers` are the rows' places in the store of
    `lower`, where there is one. Losses are nats a labelled token.
    """

    def __init__(
        self,
        rows: Sequence[Row],
        *,
        every: int,
        pad_token_id: int,
        batch_size: int,
        max_batch_tokens: int,
        patience: int = 0,
        numbers: Sequence[int] | None = None,
        lower: Lower | None = None,
    ) -> None:
        self.rows = len(rows)
        self.readings: list[dict[str, float]] = []
        self.seconds = 0.0
        self._every, self._patience, self._lower = max(1, every), patience, lower
        self._best: dict[str, torch.Tensor] = {}
        batches = plan_batches(
            [row.length for row in rows], batch_size=batch_size, max_batch_tokens=max_batch_tokens, epochs=1.0, seed=0
        )
        places = list(numbers or range(len(rows)))
        self._batches = [
            collate([labelled(rows[row], number=places[row]) for row in batch], pad_token_id=pad_token_id) for batch in batches
        ]

    def due(self, step: int, *, last: bool) -> bool:
        """Say whether to measure after this step."""
        return last or step % self._every == 0

    def measure(self, model: Any, *, step: int, trained_seconds: float) -> float:
        """Measure after `step` and return the loss; `trained_seconds` is noted beside it. The best weights are copied."""
        begun = time.monotonic()
        loss = self.loss(model)
        self.readings.append({"step": step, "loss": loss, "trained_seconds": round(trained_seconds, 3)})
        if self.best is self.readings[-1]:
            self._best = {name: value.detach().clone() for name, value in _trained(model)}
        self.seconds += time.monotonic() - begun
        return loss

    def loss(self, model: Any) -> float:
        """Return the mean loss of the held-out rows' labels."""
        device = next(model.parameters()).device
        training = model.training
        model.eval()
        total = labels = 0.0
        with torch.no_grad():
            for batch in self._batches:
                given = {name: value.to(device) for name, value in batch.items()}
                count = int((given["labels"][:, 1:] >= 0).sum())
                total += labels_loss(model, **given, lower=self._lower).item() * count
                labels += count
        model.train(training)
        return total / labels

    @property
    def best(self) -> dict[str, float]:
        """The reading with the least loss, the first of equal ones; a loss that is no number is the worst."""
        return min(self.readings, key=lambda reading: reading["loss"] if math.isfinite(reading["loss"]) else math.inf)

    @property
    def worn_out(self) -> bool:
        """Whether `patience` measurements brought no gain."""
        if not self._patience or not self.readings:
            return False
        return len(self.readings) - 1 - self.readings.index(self.best) >= self._patience

    def restore(self, model: Any) -> None:
        """Give the model the weights of the best measurement."""
        if self.readings and self.best is not self.readings[-1]:
            for name, value in _trained(model):
                value.data.copy_(self._best[name])

    def figures(self) -> dict[str, Any]:
        """Return what is told of it: rows, seconds, the best step and loss, and every reading."""
        best = self.best if self.readings else {"step": None, "loss": None}
        return {
            "rows": self.rows,
            "seconds": round(self.seconds, 1),
            "best_step": best["step"],
            "best_loss": best["loss"],
            "readings": self.readings,
        }

    def save(self, folder: Path) -> None:
        """Keep readings and best weights in a checkpoint."""
        from safetensors.torch import save_file

        (folder / _READINGS).write_text(json.dumps({"readings": self.readings, "seconds": self.seconds}), "utf-8")
        if self._best:
            save_file({name: value.contiguous() for name, value in self._best.items()}, folder / _BEST)

    def load(self, folder: Path) -> None:
        """Take readings and best weights of a checkpoint."""
        from safetensors.torch import load_file

        kept = json.loads((folder / _READINGS).read_text("utf-8"))
        self.readings, self.seconds = kept["readings"], kept["seconds"]
        self._best = load_file(folder / _BEST) if (folder / _BEST).exists() else {}


def _trained(model: Any) -> list[tuple[str, torch.Tensor]]:
    return [(name, value) for name, value in model.named_parameters() if value.requires_grad]
