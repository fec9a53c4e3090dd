"""Learning from what people preferred: DPO on pairs of answers, KTO on single ones with a thumb; on any adapter or whole model.

The reference, from which the model is kept near, is the model as it is when the stage begins: its log-probabilities are
computed once, so it takes no memory afterwards. DPO: Rafailov et al. 2023, arXiv:2305.18290. KTO: Ethayarajh et al. 2024,
arXiv:2402.01306.
"""

from __future__ import annotations

import random
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from datasets import Dataset
from transformers import TrainerCallback
from trl import DPOConfig, DPOTrainer, KTOConfig, KTOTrainer

from training.budget import Budget
from training.dataset import read_pairs, read_thumbs
from training.fast_sft import encode, plan_batches
from training.planned import Keepsake, Plan, PlannedTrainer, arguments, finite, first_batches
from training.recipe import Recipe

LEAST_ROWS = 8
"""Fewer pairs or thumbs than this teach noise: the stage is not trained."""

UNDESIRABLE_MOST = 4 / 3
"""Desirable rows may weigh together at most this much more than undesirable ones, and not less, as the KTO paper advises."""

REFERENCE_COST, STEP_COST = 0.45, {"dpo": 1.0, "kto": 0.6}
"""Time of a token, as a share of what one of supervised training takes: for the reference, and in a step (KTO's second answer
goes forward alone). Measured on a CPU: .42 and, for KTO, .45; see docs/LOG.md."""

TokenRow = dict[str, Any]


def too_few(stage: str, rows: Sequence[TokenRow]) -> str | None:
    """Return the sentence that says why a stage cannot be trained on these rows; None: it can."""
    if stage == "dpo":
        if len(rows) < LEAST_ROWS:
            return f"DPO needs at least {LEAST_ROWS} pairs of a corrected and a right answer; there are {len(rows)}."
        return None
    ups = sum(row["label"] for row in rows)
    if len(rows) < LEAST_ROWS or ups in (0, len(rows)):
        return (
            f"KTO needs at least {LEAST_ROWS} rated answers, good and bad ones; there are {ups} good and "
            f"{len(rows) - ups} bad ones."
        )
    return None


def read_rows(stage: str, snapshot: Path, tokenizer: Any, recipe: Recipe) -> list[TokenRow]:
    """Return the pairs ("dpo") or thumbs ("kto") of a snapshot as token ids, those past `max_length` left out."""
    rows = _pairs(snapshot, tokenizer) if stage == "dpo" else _thumbs(snapshot, tokenizer, seed=recipe.seed)
    return [row for row in rows if length_of(row) <= recipe.max_length]


def _pairs(snapshot: Path, tokenizer: Any) -> list[TokenRow]:
    rows = []
    for pair in read_pairs(snapshot):
        chosen, rejected = (
            encode({"prompt": pair["prompt"], "completion": answer}, tokenizer) for answer in (pair["chosen"], pair["rejected"])
        )
        rows.append(
            {
                "prompt_ids": list(chosen.prompt),
                "chosen_ids": list(chosen.completion),
                "rejected_ids": list(rejected.completion),
            }
        )
    return rows


def _thumbs(snapshot: Path, tokenizer: Any, *, seed: int) -> list[TokenRow]:
    """Return the rated answers, each with the answer to another prompt, from which KTO estimates the drift."""
    found = [(encode(thumb, tokenizer), thumb["label"]) for thumb in read_thumbs(snapshot)]
    random.Random(seed).shuffle(found)
    return [
        {
            "prompt_ids": list(row.prompt),
            "completion_ids": list(row.completion),
            "KL_completion_ids": list(found[place - 1][0].completion),
            "label": label,
        }
        for place, (row, label) in enumerate(found)
    ]


def length_of(row: Mapping[str, Any]) -> int:
    """Return the tokens of a row's prompt and its longest answer."""
    return len(row["prompt_ids"]) + max(len(ids) for name, ids in row.items() if name.endswith("_ids") and name != "prompt_ids")


def plan(stage: str, rows: Sequence[TokenRow], recipe: Recipe) -> Plan:
    """Plan the batches of a preference stage; both answers of a pair count, and KTO's second one."""
    lengths = [2 * length_of(row) for row in rows]
    batches = plan_batches(
        lengths,
        batch_size=recipe.batch_size,
        max_batch_tokens=2 * recipe.max_batch_tokens,
        epochs=recipe.preference_epochs,
        seed=recipe.seed,
    )
    batches = first_batches(batches, recipe)
    tokens = [sum(_tokens(rows[row]) for row in batch) for batch in batches]
    return Plan(stage=stage, rows=len(rows), batches=batches, tokens=tokens, accumulation=recipe.accumulation)


def _tokens(row: Mapping[str, Any]) -> int:
    answers = [len(ids) for name, ids in row.items() if name.endswith("_ids") and name != "prompt_ids"]
    return len(answers) * len(row["prompt_ids"]) + sum(answers)


def affordable(stage: str, rows: Sequence[TokenRow], *, seconds: float, tokens_s: float, epochs: float) -> list[TokenRow]:
    """Return as many rows as can be learned from in `seconds` at the pace of the training before, in their order.

    Without that the reference alone, which no step can cut short, could take longer than the whole budget. Of both kinds of
    thumbs a like share is kept, at least one of each and LEAST_ROWS in all.
    """
    cost = (REFERENCE_COST + epochs * STEP_COST[stage]) / tokens_s
    kinds: dict[Any, list[int]] = {}
    for place, row in enumerate(rows):
        kinds.setdefault(row.get("label"), []).append(place)
    shares = [(at / len(places), place) for places in kinds.values() for at, place in enumerate(places)]
    kept: list[int] = []
    spent = 0.0
    for _, place in sorted(shares):
        spent += cost * _tokens(rows[place])
        if spent > seconds and len(kept) >= LEAST_ROWS:
            break
        kept.append(place)
    return [rows[place] for place in sorted(kept)]


def weights_of(ups: int, downs: int) -> tuple[float, float]:
    """Return KTO's weights of a desirable and of an undesirable row, so that neither kind drowns the other.

    (desirable weight * ups) / (undesirable weight * downs) comes to lie within 1 and 4/3, as the paper advises; the kind
    that is rare is raised, never the common one lowered.
    """
    ratio = ups / downs
    if ratio < 1:
        return 1 / ratio, 1.0
    return 1.0, max(1.0, ratio / UNDESIRABLE_MOST)


class _PlannedDPO(PlannedTrainer, DPOTrainer):  # type: ignore[misc]
    """TRL's DPO with our batches, over rows that are token ids already."""

    def _prepare_dataset(self, dataset: Any, *_: Any) -> Any:
        return dataset

    def compute_loss(self, *given: Any, **named: Any) -> Any:
        return finite(super().compute_loss(*given, **named), step=self.state.global_step + 1)


class _PlannedKTO(PlannedTrainer, KTOTrainer):  # type: ignore[misc]
    """TRL's KTO with our batches, over rows that are token ids already."""

    def _prepare_dataset(self, dataset: Any, *_: Any) -> Any:
        return dataset

    def compute_loss(self, *given: Any, **named: Any) -> Any:
        return finite(super().compute_loss(*given, **named), step=self.state.global_step + 1)


def make_trainer(
    planned: Plan,
    rows: Sequence[TokenRow],
    model: Any,
    tokenizer: Any,
    *,
    recipe: Recipe,
    folder: Path,
    device: str,
    budget: Budget,
    callbacks: Sequence[TrainerCallback],
    keepsakes: Sequence[Keepsake],
) -> Any:
    """Build the trainer of a preference stage; the reference's log-probabilities are computed here, with the model as it is."""
    settings: dict[str, Any] = {
        **arguments(recipe, folder=folder, rate=recipe.preference_rate, device=device),
        "beta": recipe.beta,
        "precompute_ref_log_probs": True,
        "precompute_ref_batch_size": recipe.batch_size,
        "per_device_train_batch_size": max(2, recipe.batch_size),  # KTO refuses 1; the batches are planned
    }
    given: dict[str, Any] = {
        "model": model,
        "train_dataset": Dataset.from_list(list(rows)),
        "processing_class": tokenizer,
        "batches": planned.batches,
        "rate": budget.rate,
        "callbacks": list(callbacks),
        "keepsakes": keepsakes,
    }
    model.train()  # bitsandbytes packs the weights anew for a model that only infers, and has no way back through them then
    with _kept_wide(model), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Adapter name 'ref' should not be contained in the prefix")  # it is deleted
        if planned.stage == "dpo":
            trainer: Any = _PlannedDPO(args=DPOConfig(**settings), **given)
        else:
            ups = sum(row["label"] for row in rows)
            desirable, undesirable = weights_of(ups, len(rows) - ups)
            settings |= {"desirable_weight": desirable, "undesirable_weight": undesirable}
            trainer = _PlannedKTO(args=KTOConfig(**settings), **given)
    if "ref" in getattr(model, "peft_config", {}):
        model.delete_adapter("ref")  # its log-probabilities are all that is needed of it
    return trainer


@contextmanager
def _kept_wide(model: Any) -> Iterator[None]:
    """Keep TRL from casting what was trained to bfloat16, as it does on a packed base: it would lose what it has learned."""
    inner = model.get_base_model() if hasattr(model, "get_base_model") else model
    packed = getattr(inner, "is_loaded_in_4bit", False)
    if packed:
        inner.is_loaded_in_4bit = False
    try:
        yield
    finally:
        if packed:
            inner.is_loaded_in_4bit = True
