"""Trainings killed at random moments, also during a save: what each goes on to, beside one that was let alone.

A tiny random model is trained twice, as a night trains: once undisturbed, once killed (SIGKILL) again and again and started
anew. Both must end with the same weights. Trainers are forked from a process that has loaded the libraries already.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import time
from collections.abc import Callable, Mapping
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from feedback.errors import RunError
from training.bench import write_rows
from training.checkpoints import MARKER, newest
from training.recipe import Recipe
from training.trainer import told_reason

STEPS_EACH = 24
"""Steps planned for each kill, so that the training is not over before the last one."""
FURTHEST = 12
"""A start is killed after at most so many steps more, and what a random wait brings."""
PATIENCE = 300.0
"""Seconds after which a trainer that reaches nothing is given up."""
_ROWS = 24


def bench_kills(
    folder: Path, *, kills: int, seed: int = 0, settings: Mapping[str, Any] | None = None, tell: Callable[[str], None] = print
) -> dict[str, Any]:
    """Train in `folder` and return how many kills and resumes there were, and how far the weights ended apart.

    `resumes` are starts that went on from a checkpoint; `during_save` are kills that left a checkpoint half written;
    `largest_difference` is the largest one of any weight. `settings` are recipe settings. Raises RunError when a trainer fails
    or is done before it could be killed.
    """
    from training.tiny_model import build_tiny

    base = build_tiny(folder / "base")
    runs = [folder / "undisturbed", folder / "disturbed"]
    for run in runs:
        _prepare(run, base, steps=kills * STEPS_EACH, settings=settings or {})
    rng = random.Random(seed)
    resumes = during_save = 0
    _finish(forked(run_trainer, str(runs[0])), runs[0])
    tell(f"undisturbed: {kills * STEPS_EACH} steps")
    for number in range(kills):
        resumes += newest(runs[1] / "checkpoints") is not None
        during_save += _kill_one(forked(run_trainer, str(runs[1])), runs[1], rng, in_save=number % 2 == 0)
        tell(f"kill {number + 1} of {kills}: {_steps(runs[1])} steps, {during_save} kills during a save")
    resumes += newest(runs[1] / "checkpoints") is not None
    _finish(forked(run_trainer, str(runs[1])), runs[1])
    return {
        "kills": kills,
        "resumes": resumes,
        "during_save": during_save,
        "largest_difference": _difference(*runs),
        "steps": json.loads((runs[1] / "result.json").read_text("utf-8"))["steps"],
    }


def _prepare(run: Path, base: Path, *, steps: int, settings: Mapping[str, Any]) -> None:
    asked = [f"[1] Room {number} holds {7 * number} chairs.{' Quiet.' * (number % 5)}\n\nHow many?" for number in range(_ROWS)]
    rows = [
        {
            "prompt": [{"role": "user", "content": question}],
            "completion": [{"role": "assistant", "content": f"{7 * number} chairs [1]"}],
        }
        for number, question in enumerate(asked)
    ]
    usual: dict[str, Any] = {"compute_dtype": "float32", "dequantised": "keep", "threads": 1, "nice": 0, "rank": 4}
    recipe = Recipe(base=str(base), epochs=float(steps), max_steps=steps, checkpoint_seconds=0.1, **{**usual, **settings})
    write_rows(run, rows, recipe)


def forked(target: Callable[..., None], *given: Any) -> BaseProcess:
    """Start a process in which the trainer's libraries are loaded already; without a GPU, which a forked one could not use."""
    os.environ["CUDA_VISIBLE_DEVICES"] = ""
    os.environ["PYTHONWARNINGS"] = "ignore:resource_tracker"  # which counts what killed ones left behind
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["training.session"])
    process = context.Process(target=target, args=given, daemon=True)
    process.start()
    return process


def run_trainer(run: str) -> None:
    """Train the run folder `run` and exit with the trainer's code."""
    from training.trainer import main

    raise SystemExit(main([run]))


def _finish(process: BaseProcess, run: Path) -> None:
    process.join(2 * PATIENCE)
    if process.exitcode != 0:
        process.kill()
        raise RunError(f"The training {run.name} ended with {process.exitcode}: {told_reason(run)}")


def _kill_one(process: BaseProcess, run: Path, rng: random.Random, *, in_save: bool) -> bool:
    """Kill a trainer after a checkpoint of its own and a random number of steps; return whether a save was cut in two.

    With `in_save` the moment is sought while a checkpoint is being written.
    """
    checkpoints = run / "checkpoints"
    wanted = _steps(run) + rng.randint(1, FURTHEST)
    _wait(process, run, lambda: _steps(run) >= wanted)
    if in_save:
        _wait(process, run, lambda: bool(_half(checkpoints)))
        time.sleep(rng.uniform(0, 0.003))
    else:
        time.sleep(rng.uniform(0, 0.1))
    process.kill()
    process.join()
    if (run / "adapter").exists():
        raise RunError("The training was over before it could be killed: this machine is too fast, plan more steps.")
    return bool(_half(checkpoints))


def _wait(process: BaseProcess, run: Path, reached: Callable[[], bool]) -> None:
    end = time.monotonic() + PATIENCE
    while not reached():
        if not process.is_alive() or time.monotonic() > end:
            process.kill()
            raise RunError(f"The training {run.name} ended ({process.exitcode}) before it could be killed: {told_reason(run)}")
        time.sleep(0.001)


def _half(checkpoints: Path) -> list[Path]:
    """Return the checkpoints that are being written: those past the newest complete one (older ones are being deleted)."""
    found = newest(checkpoints)
    written = [path for path in checkpoints.glob("checkpoint-*") if not (path / MARKER).exists()]
    return [path for path in written if int(path.name.rpartition("-")[2]) > (found.step if found else 0)]


def _steps(run: Path) -> int:
    found = newest(run / "checkpoints")
    return found.step if found else 0


def _difference(one: Path, other: Path) -> float:
    import numpy as np
    from safetensors.numpy import load_file

    first, second = (load_file(run / "adapter" / "adapter_model.safetensors") for run in (one, other))
    if first.keys() != second.keys():
        raise RunError("The two adapters do not hold the same tensors: the trainer is broken.")
    return max(float(np.abs(first[name] - second[name]).max()) for name in first)
