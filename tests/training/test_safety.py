"""What keeps a training safe: the effective batch, a full disk, little memory, and weights that stay usable."""

from __future__ import annotations

import json
import resource
import signal
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file
from transformers import TrainerControl, TrainerState, TrainingArguments

from feedback.errors import RunError
from training.budget import Budget
from training.checkpoints import newest
from training.disk import Room
from training.memory import LOW
from training.recipe import Recipe
from training.watch import Watch

MakeRun = Callable[..., Path]


def train_here(run: Path) -> dict[str, Any]:
    from training.session import train

    recipe = Recipe.from_json((run / "config.json").read_text("utf-8"))
    figures = train(run, recipe, stop=SimpleNamespace(asked=False, training=False), started=time.monotonic())
    assert figures is not None
    return figures


def weights(folder: Path) -> dict[str, np.ndarray]:
    return dict(load_file(folder / "adapter_model.safetensors"))


def furthest(one: dict[str, np.ndarray], other: dict[str, np.ndarray]) -> float:
    assert one.keys() == other.keys()
    return max(float(np.abs(one[name] - other[name]).max()) for name in one)


def test_smaller_batches_with_accumulation_take_the_same_steps(make_run: MakeRun) -> None:
    whole = make_run(name="r0001", count=5, batch_size=5, epochs=3.0)
    parts = make_run(name="r0002", count=5, batch_size=2, accumulation=3, epochs=3.0)
    assert train_here(whole)["steps"] == train_here(parts)["steps"] == 3
    tokens = [json.loads((run / "progress.jsonl").read_text("utf-8").splitlines()[-1])["tokens"] for run in (whole, parts)]
    assert tokens[0] == tokens[1]
    # Adam's first steps are as long as the rate, whatever the gradient: an unequal one would differ by 1e-4 and more
    assert furthest(weights(whole / "adapter"), weights(parts / "adapter")) < 1e-6


def test_weight_decay_pulls_the_weights_towards_nothing(make_run: MakeRun) -> None:
    runs = [make_run(name=f"r000{place}", max_steps=2, weight_decay=decay) for place, decay in enumerate((0.0, 50.0))]
    for run in runs:
        train_here(run)
    plain, decayed = (np.concatenate([value.ravel() for value in weights(run / "adapter").values()]) for run in runs)
    assert np.abs(decayed).sum() < 0.97 * np.abs(plain).sum()


def test_gradients_that_are_no_numbers_end_the_training_and_leave_its_checkpoint_usable(make_run: MakeRun) -> None:
    run = make_run(max_steps=9, checkpoint_seconds=0.0, learning_rate=1e20, clip=1e30, weight_decay=0.0)
    with pytest.raises(RunError, match="lower"):
        train_here(run)
    assert not (run / "adapter").exists() and not (run / "adapter.reserve").exists()
    found = newest(run / "checkpoints")
    assert found is not None and all(np.isfinite(value).all() for value in weights(found.path).values())


def test_a_checkpoint_that_the_disk_does_not_take_is_left_out_and_the_adapter_is_there(make_run: MakeRun) -> None:
    run = make_run(max_steps=3, checkpoint_seconds=0.0, rank=256, method="dora")
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    # no file may grow past this: the optimizer's does, those of the adapter and its reserve do not
    resource.setrlimit(resource.RLIMIT_FSIZE, (3 * 2**20, limits[1]))
    try:
        figures = train_here(run)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, before)
    assert figures["steps"] == 3 and (run / "adapter" / "adapter_model.safetensors").stat().st_size > 2**21
    assert newest(run / "checkpoints") is None and not list((run / "checkpoints").glob("checkpoint-*"))
    assert any("went on without new checkpoints" in note for note in figures["notes"])


def test_a_training_short_of_memory_saves_what_it_has_and_says_so(tmp_path: Path) -> None:
    left = iter([LOW + 1, LOW - 1, LOW - 1])
    watch = Watch(
        tmp_path,
        Budget(steps=10, minutes=None, started=0.0, warmup=0.1),
        SimpleNamespace(asked=False, training=True),
        tokens=[100] * 10,
        recipe=Recipe(base="b", checkpoint_seconds=1e6),
        room=Room(tmp_path, adapter=1, checkpoint=1),
        free_memory=lambda: next(left),
    )
    arguments = TrainingArguments(output_dir=str(tmp_path), use_cpu=True)
    state, control = TrainerState(global_step=1), TrainerControl()
    watch.on_step_end(arguments, state, control)
    assert not control.should_training_stop and not control.should_save and watch.note == ""
    state.global_step = 2
    watch.on_step_end(arguments, state, control)
    assert control.should_training_stop and control.should_save and watch.ended == "memory"
    assert (
        watch.note == "Less than 160 MB of memory were left while training: it ended after step 2 of 10 with what it had learned."
    )


def test_a_second_start_keeps_the_batches_of_the_first_whatever_is_free(make_run: MakeRun) -> None:
    from training.base_model import load_tokenizer
    from training.checkpoints import mark_complete
    from training.fitting import fit_training
    from training.stages import read_stages

    run = make_run()
    recipe = Recipe.from_json((run / "config.json").read_text("utf-8"))
    stages, _ = read_stages(run, load_tokenizer(Path(recipe.base)), recipe)
    assert fit_training(run, recipe, stages).recipe == recipe
    reduced = {"batches": {"batch_size": 1, "max_batch_tokens": 1024, "accumulation": 4}, "dtype": "float32"}
    (run / "plan.json").write_text(json.dumps(reduced), "utf-8")
    assert fit_training(run, recipe, stages).recipe.batch_size == 4  # nothing was trained by it
    (run / "plan.json").write_text(json.dumps(reduced), "utf-8")
    (run / "checkpoints" / "checkpoint-1").mkdir(parents=True)
    mark_complete(run / "checkpoints" / "checkpoint-1", step=1, seconds=1.0)
    again = fit_training(run, recipe, stages).recipe
    assert (again.batch_size, again.max_batch_tokens, again.accumulation) == (1, 1024, 4)
