"""How long the night takes to a given loss, beside a plain `SFTTrainer` on the same rows, and with adapters on the upper third.

Every side trains the same steps in a process of its own and measures the same held-out rows at the same steps. Its time is
that of its training steps alone: loading, measuring and saving are left out, for all sides alike. The loss to reach is the
plain side's at its end, one percent more allowed. A side that is finished is kept in the work folder.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Literal

from feedback.errors import RunError
from training.bench import BATCH, in_own_process, plain_trainer, write_rows
from training.recipe import ComputeDtype, Recipe

Side = Literal["plain", "ours", "upper", "upper_kept"]
SIDES: Final[dict[Side, dict[str, Any]]] = {
    "plain": {},
    "ours": {},
    "upper": {"upper_layers": 3},
    "upper_kept": {"upper_layers": 3, "keep_activations": True},
}
"""What each side changes in the recipe; `upper_layers` is the part of the layers, here a third."""

EPOCHS, EVALUATIONS, HELD_ROWS = 3, 3, 16
ALLOWED = 1.01
PLAIN_SHARE = 0.34
"""The plain side's share of the minutes: the other sides, measuring and loading take the rest."""
_FILE = "side.json"


def rows_within(minutes: float, *, plain_tok_s: float, row_tokens: float) -> int:
    """Return how many rows the plain side trains on, three times each, in its share of the minutes."""
    return max(8 * BATCH, int(minutes * 60 * PLAIN_SHARE * plain_tok_s / (EPOCHS * row_tokens)))


def bench_time_to_loss(
    base: Path,
    rows: Sequence[Mapping[str, Any]],
    *,
    work: Path,
    tell: Callable[[str], None] = lambda _: None,
    run: Callable[[Side, Path], None] | None = None,
) -> dict[str, Any]:
    """Train every side on `rows` in `work`, where finished ones are kept; return their times to the plain side's last loss.

    {"time_to_loss_ratio", "target_loss", "ours", "plain", "upper", "upper_kept"}; of each side final_loss (nats a label),
    time_to_loss_s and seconds (of its steps), tok_s, peak_mb, steps. A ratio is the plain side's time by ours; None where a side
    does not get there. `run` runs one side on its folder, by default in a process of its own. Raises RunError when a side
    fails, or the work folder holds another benchmark.
    """
    work.mkdir(parents=True, exist_ok=True)
    _claim(work, base, rows)
    for side in SIDES:
        if not (work / side / _FILE).exists():
            _prepare(side, work / side, base, rows, compute_dtype=_compute_dtype(work))
            (run or _own_process)(side, work / side)
        found = _read(work / side)
        tell(f"{side}: loss {found['readings'][-1]['loss']:.4f} after {found['readings'][-1]['trained_seconds']:.0f} s of steps")
    sides = {side: _read(work / side) for side in SIDES}
    return compare({side: found.pop("readings") for side, found in sides.items()}, sides)


def compare(readings: Mapping[Side, Sequence[Mapping[str, float]]], figures: Mapping[Side, Mapping[str, Any]]) -> dict[str, Any]:
    """Return the result of `bench_time_to_loss` from each side's readings and its other figures."""
    target = ALLOWED * readings["plain"][-1]["loss"]
    times = {side: time_to(target, each) for side, each in readings.items()}
    ours, plain = times["ours"], times["plain"]
    return {
        "time_to_loss_ratio": None if ours is None or plain is None else round(plain / ours, 2),
        "target_loss": round(target, 4),
        **{
            side: {
                "final_loss": round(each[-1]["loss"], 4),
                "time_to_loss_s": None if times[side] is None else round(times[side] or 0.0, 1),
                "seconds": round(each[-1]["trained_seconds"], 1),
                **figures[side],
            }
            for side, each in readings.items()
        },
    }


def time_to(target: float, readings: Sequence[Mapping[str, float]]) -> float | None:
    """Return the seconds at which the loss first came down to `target`, on the line between two readings; None: never."""
    before: Mapping[str, float] | None = None
    for reading in readings:
        if reading["loss"] <= target:
            if before is None:
                return reading["trained_seconds"]
            way = (before["loss"] - target) / (before["loss"] - reading["loss"])
            return before["trained_seconds"] + way * (reading["trained_seconds"] - before["trained_seconds"])
        before = reading
    return None


def _claim(work: Path, base: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    told = json.dumps([base.parent.name, list(rows), SIDES, EPOCHS, EVALUATIONS], sort_keys=True)
    mark, file = hashlib.sha256(told.encode()).hexdigest(), work / "rows.sha256"
    if file.exists() and file.read_text("utf-8") != mark:
        raise RunError(f"{work} holds a benchmark of other rows or another base: name another folder, or delete it.")
    file.write_text(mark, "utf-8")


def _compute_dtype(work: Path) -> ComputeDtype:
    """Return the dtype that our sides compute in: found out once, by timing, since the sides must not differ in it."""
    file = work / "compute_dtype"
    if not file.exists():
        from training.base_model import faster_dtype

        file.write_text(faster_dtype(), "utf-8")
    return "bfloat16" if file.read_text("utf-8") == "bfloat16" else "float32"


def _prepare(side: Side, folder: Path, base: Path, rows: Sequence[Mapping[str, Any]], *, compute_dtype: ComputeDtype) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    layers = json.loads((base / "config.json").read_text("utf-8"))["num_hidden_layers"]
    changed = dict(SIDES[side])
    if "upper_layers" in changed:
        changed["upper_layers"] = max(1, layers // changed["upper_layers"])
    recipe = Recipe(
        base=str(base),
        batch_size=BATCH,
        compute_dtype=compute_dtype,
        epochs=float(EPOCHS),
        nice=0,
        checkpoint_seconds=1e9,  # a side is finished or begun anew
        evaluation_share=min(0.5, HELD_ROWS / len(rows)),
        evaluations=EVALUATIONS,
        **changed,
    )
    write_rows(folder, rows, recipe)


def _own_process(side: Side, folder: Path) -> None:
    in_own_process(f"The {side} side of the training benchmark", "training.bench_loss", side, str(folder))


def _read(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / _FILE).read_text("utf-8"))
    return found


def _run_ours(folder: Path) -> dict[str, Any]:
    from training.trainer import main, told_reason

    if main([str(folder)]) != 0:
        raise RunError(told_reason(folder))
    result = json.loads((folder / "result.json").read_text("utf-8"))
    return {"readings": result["held_out"]["readings"], "tokens": result["tokens"], "steps": result["steps"]}


def _run_plain(folder: Path) -> dict[str, Any]:
    """Train the plain side on the rows that ours trains on, and measure the rows that ours holds out, at the same steps."""
    from transformers import TrainerCallback

    from training.base_model import load_tokenizer
    from training.dataset import read_snapshot
    from training.held_loss import HeldLoss
    from training.stages import plan_stage, read_stages

    recipe = Recipe.from_json((folder / "config.json").read_text("utf-8"))
    tokenizer = load_tokenizer(Path(recipe.base))
    (data,), _ = read_stages(folder, tokenizer, recipe)
    stage = plan_stage(data, recipe)
    every = round(stage.plan.steps / EPOCHS / EVALUATIONS)
    held = HeldLoss(
        data.held,
        every=every,
        pad_token_id=tokenizer.pad_token_id,
        batch_size=BATCH,
        max_batch_tokens=recipe.max_batch_tokens,
    )

    class Measured(TrainerCallback):  # type: ignore[misc]
        """Keeps the time of the steps, and measures between them."""

        begun = trained = 0.0

        def on_step_begin(self, *_: Any, **__: Any) -> None:
            """Start the step's clock."""
            self.begun = time.monotonic()

        def on_step_end(self, _args: Any, state: Any, _control: Any, model: Any = None, **_: Any) -> None:
            """Stop it, and measure when it is time to."""
            self.trained += time.monotonic() - self.begun
            if held.due(state.global_step, last=state.global_step >= state.max_steps):
                held.measure(model, step=state.global_step, trained_seconds=self.trained)

    examples = read_snapshot(folder / "dataset")
    trained = [examples[place] for place in data.places]
    trainer = plain_trainer(folder, trained, recipe, callback=Measured())
    done = trainer.train()
    return {"readings": held.readings, "tokens": sum(row.length for row in data.rows) * EPOCHS, "steps": done.global_step}


def main(side: Side, folder: Path) -> None:
    """Run one side on a prepared folder and write its figures there."""
    import resource

    os.environ.update(HF_HUB_OFFLINE="1", TRANSFORMERS_OFFLINE="1", TOKENIZERS_PARALLELISM="false")
    found = (_run_plain if side == "plain" else _run_ours)(folder)
    tokens = found.pop("tokens")
    found["tok_s"] = round(tokens / found["readings"][-1]["trained_seconds"], 1)
    found["peak_mb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    (folder / _FILE).write_text(json.dumps(found), "utf-8")


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))  # type: ignore[arg-type]
