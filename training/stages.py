"""The stages of a training: which there are, their rows as token ids, what is held out of them, and their planned batches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from feedback.errors import RunError
from training.dataset import read_snapshot
from training.fast_sft import Row, encode, plan_batches, refuse_long
from training.held_loss import hold_rows
from training.methods import stages_of
from training.planned import Plan, first_batches
from training.preferences import length_of, plan, read_rows, too_few
from training.recipe import Recipe


@dataclass(frozen=True, kw_only=True)
class StageRows:
    """What one stage (sft, dpo or kto) trains on, as token ids, and the rows that are held out of it (of sft alone)."""

    name: str
    rows: Sequence[Any]
    held: Sequence[Row] = ()
    places: Sequence[int] = ()  # of `rows` in the snapshot

    @property
    def prompt(self) -> Sequence[int]:
        """The first row's prompt."""
        first = self.rows[0]
        return first.prompt if isinstance(first, Row) else first["prompt_ids"]

    @property
    def longest(self) -> int:
        """Tokens of the longest row."""
        return max(row.length if isinstance(row, Row) else length_of(row) for row in (*self.rows, *self.held))

    @property
    def answer(self) -> int:
        """Labelled tokens of the longest answer whose scores are computed at once; TRL computes a preference's in pieces."""
        return max((len(row.completion) for row in (*self.rows, *self.held) if isinstance(row, Row)), default=0)

    @property
    def copies(self) -> int:
        """How many sequences go through the model for each row: a preference row is two."""
        return 1 if self.name == "sft" else 2


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One stage, planned."""

    data: StageRows
    plan: Plan

    @property
    def name(self) -> str:
        """The stage's name."""
        return self.data.name


def read_stages(run: Path, tokenizer: Any, recipe: Recipe) -> tuple[list[StageRows], dict[str, str]]:
    """Return the rows of each stage to train, and why others of the objective are skipped. Raises RunError when none is left."""
    stages: list[StageRows] = []
    skipped: dict[str, str] = {}
    for name in stages_of(recipe.objective):
        if name == "sft":
            stages.append(_examples(run, tokenizer, recipe))
            continue
        rows = read_rows(name, run / "dataset", tokenizer, recipe)
        reason = too_few(name, rows)
        if reason is None:
            stages.append(StageRows(name=name, rows=rows))
        else:
            skipped[name] = reason
    if not stages:
        raise RunError(f"{' '.join(skipped.values())} Collect more of them, or choose objective = 'sft'.")
    return stages, skipped


def _examples(run: Path, tokenizer: Any, recipe: Recipe) -> StageRows:
    examples = read_snapshot(run / "dataset")
    if not examples:
        raise RunError(f"The dataset of {run.name} is empty: there is nothing to train on.")
    rows = [encode(example, tokenizer) for example in examples]
    refuse_long(rows, max_length=recipe.max_length)
    trained, held = hold_rows(examples, share=recipe.evaluation_share, seed=recipe.seed)
    return StageRows(name="sft", rows=[rows[place] for place in trained], held=[rows[place] for place in held], places=trained)


def plan_stage(data: StageRows, recipe: Recipe) -> Stage:
    """Plan the batches of a stage."""
    if data.name != "sft":
        return Stage(data=data, plan=plan(data.name, data.rows, recipe))
    lengths = [row.length for row in data.rows]
    batches = plan_batches(
        lengths, batch_size=recipe.batch_size, max_batch_tokens=recipe.max_batch_tokens, epochs=recipe.epochs, seed=recipe.seed
    )
    batches = first_batches(batches, recipe)
    tokens = [sum(lengths[row] for row in batch) for batch in batches]
    return Stage(
        data=data, plan=Plan(stage="sft", rows=len(data.rows), batches=batches, tokens=tokens, accumulation=recipe.accumulation)
    )
