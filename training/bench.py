"""How fast the night trains, beside a plain `SFTTrainer` on the same rows: tokens a second and peak memory of each.

Both sides run in processes of their own, one after the other, in alternating order, so that neither the other's memory nor
a machine that warms up or is busy for a while decides. Tokens that are padding do not count, nor do the first steps.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from feedback.errors import RunError
from feedback.records import Message
from training.recipe import Recipe

Side = Literal["ours", "plain"]
BATCH = 4
WARM_STEPS = 2


@dataclass(frozen=True, kw_only=True)
class Reading:
    """What one process measured: non-padding tokens, the seconds of their steps, and the process's peak memory."""

    tokens: int
    seconds: float
    peak_mb: int


def bench_training(
    base: Path,
    rows: Sequence[Mapping[str, Any]],
    *,
    steps: int = 5,
    rounds: int = 2,
    tell: Callable[[str], None] = lambda _: None,
) -> dict[str, Any]:
    """Train a few steps on `rows` our way and the plain way, and return speeds (tokens/s), their ratio, and peaks (MB).

    `base` is the dense model folder; a row is `{"prompt": [messages], "completion": [message]}`. `steps` are counted,
    after a few that are not. Raises RunError when there are too few rows or a side fails.
    """
    needed = BATCH * (steps + WARM_STEPS)
    if len(rows) < needed:
        raise RunError(f"The benchmark has {len(rows)} rows: {steps} counted steps need {needed}.")
    readings: dict[Side, list[Reading]] = {"ours": [], "plain": []}
    with tempfile.TemporaryDirectory(prefix="nightschool-bench-") as scratch:
        for turn in range(rounds):
            order: tuple[Side, Side] = ("ours", "plain") if turn % 2 == 0 else ("plain", "ours")
            for side in order:
                folder = Path(scratch) / f"{side}-{turn}"
                write_rows(folder, rows[:needed], Recipe(base=str(base), batch_size=BATCH, epochs=1.0, nice=0))
                readings[side].append(_measure(side, folder))
                tell(f"{side}: {_speed(readings[side][-1:]):.0f} tokens/s, {readings[side][-1].peak_mb} MB")
    ours, plain = _speed(readings["ours"]), _speed(readings["plain"])
    return {
        "ours_tok_s": round(ours, 1),
        "plain_tok_s": round(plain, 1),
        "ratio": round(ours / plain, 2),
        "ours_peak_mb": max(reading.peak_mb for reading in readings["ours"]),
        "plain_peak_mb": max(reading.peak_mb for reading in readings["plain"]),
        "rounds": rounds,
        "tokens": sum(reading.tokens for reading in readings["ours"]),
    }


def _speed(readings: Sequence[Reading]) -> float:
    return sum(reading.tokens for reading in readings) / sum(reading.seconds for reading in readings)


def write_rows(folder: Path, rows: Sequence[Mapping[str, Any]], recipe: Recipe) -> None:
    """Make a run folder of these rows and this recipe."""
    from training.curation import Example
    from training.dataset import write_snapshot

    folder.mkdir()
    examples = [
        Example(
            id=f"e{index}",
            prompt=tuple(Message(role=message["role"], content=message["content"]) for message in row["prompt"]),
            completion=row["completion"][0]["content"],
            source="correction",
            turn_id=f"t{index}",
            user_id="bench",
            weight=1.0,
        )
        for index, row in enumerate(rows)
    ]
    write_snapshot(examples, folder / "dataset")
    (folder / "config.json").write_text(recipe.to_json(), "utf-8")


def in_own_process(what: str, module: str, *given: str) -> str:
    """Run a module to its end in a process of its own; returns its output. Raises RunError, which says `what` failed."""
    done = subprocess.run([sys.executable, "-m", module, *given], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RunError(f"{what} failed: {(done.stderr.strip().splitlines() or ['it said nothing'])[-1]}")
    return done.stdout


def _measure(side: Side, folder: Path) -> Reading:
    said = in_own_process(f"The {side} side of the training benchmark", "training.bench", side, str(folder))
    return Reading(**json.loads(said.strip().splitlines()[-1]))


def _run_ours(folder: Path) -> None:
    """Train as a night does, through the trainer's own entry, and read the progress lines."""
    from training.trainer import main, told_reason

    if main([str(folder)]) != 0:
        raise RunError(told_reason(folder))


def _run_plain(folder: Path) -> None:
    from training.dataset import read_snapshot

    recipe = Recipe.from_json((folder / "config.json").read_text("utf-8"))
    plain_trainer(folder, read_snapshot(folder / "dataset"), recipe, callback=_stamp_lines(folder)).train()


def plain_trainer(folder: Path, examples: Sequence[Mapping[str, Any]], recipe: Recipe, *, callback: Any) -> Any:
    """Build TRL's trainer as its documentation shows it: nf4, float32, batch 4, unpacked, no gradient checkpointing.

    Rate, warm-up, epochs, seed and rank are the recipe's.
    """
    import torch
    from datasets import Dataset
    from peft import LoraConfig
    from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig
    from trl import SFTConfig, SFTTrainer

    from training.base_model import cast_adapter, stay_trainable

    packing = BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype=torch.float32
    )
    model = AutoModelForCausalLM.from_pretrained(recipe.base, dtype=torch.float32, quantization_config=packing)
    rows = [{"prompt": row["prompt"], "completion": row["completion"]} for row in examples]
    steps = recipe.epochs * len(rows) / recipe.batch_size
    trainer = SFTTrainer(
        model=model,
        args=SFTConfig(
            output_dir=str(folder / "out"),
            per_device_train_batch_size=recipe.batch_size,
            num_train_epochs=recipe.epochs,
            learning_rate=recipe.learning_rate,
            warmup_steps=max(1, round(recipe.warmup * steps)),
            seed=recipe.seed,
            gradient_checkpointing=False,
            use_cpu=not torch.cuda.is_available(),
            bf16=False,
            max_length=None,
            logging_steps=1,
            save_strategy="no",
            report_to=[],
            disable_tqdm=True,
            dataloader_pin_memory=False,
        ),
        train_dataset=Dataset.from_list(rows),
        processing_class=AutoTokenizer.from_pretrained(recipe.base),
        peft_config=LoraConfig(r=recipe.rank, lora_alpha=recipe.alpha, target_modules="all-linear", task_type="CAUSAL_LM"),
    )
    # TRL's bfloat16 adapter is emulated on processors without those instructions: in float32 the plain side is at its best
    cast_adapter(trainer.model)
    stay_trainable(trainer.model)  # its loss is measured between its steps, which would end its learning
    trainer.add_callback(callback)
    return trainer


def _stamp_lines(folder: Path) -> Any:
    """Return a callback that writes the plain side's progress in our shape: step, tokens so far, time."""
    import time

    from transformers import TrainerCallback

    class Stamps(TrainerCallback):  # type: ignore[misc]
        """Writes one line a step."""

        def on_log(self, _args: Any, state: Any, _control: Any, logs: Mapping[str, Any] | None = None, **_: Any) -> None:
            """Stamp the step; the end of the training logs too, without a loss of its own."""
            if logs and "loss" in logs:
                line = {"step": state.global_step, "tokens": int(logs["num_tokens"]), "at": time.time()}
                with (folder / "progress.jsonl").open("a", encoding="utf-8") as file:
                    file.write(json.dumps(line) + "\n")

    return Stamps()


def _reading(folder: Path) -> Reading:
    import resource

    lines = [json.loads(line) for line in (folder / "progress.jsonl").read_text("utf-8").splitlines()]
    first, last = lines[WARM_STEPS - 1], lines[-1]
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    return Reading(tokens=last["tokens"] - first["tokens"], seconds=last["at"] - first["at"], peak_mb=peak)


def main(side: str, folder: Path) -> None:
    """Run one side on a prepared folder and print its reading as JSON on the last line."""
    os.environ.update(HF_HUB_OFFLINE="1", TRANSFORMERS_OFFLINE="1", TOKENIZERS_PARALLELISM="false")
    (_run_ours if side == "ours" else _run_plain)(folder)
    reading = _reading(folder)
    print(json.dumps({"tokens": reading.tokens, "seconds": reading.seconds, "peak_mb": reading.peak_mb}))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
