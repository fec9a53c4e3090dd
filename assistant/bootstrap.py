"""`nightschool bootstrap --starter`: the adapter that ships, made from organisations that exist for it alone.

One command that goes on where it was stopped, and gives the same adapter on the same machine. Without --starter a night learns
from a company's own documents: `assistant.night`.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from importlib.metadata import version as library_version
from pathlib import Path
from typing import Any

from assistant.config import Settings
from assistant.examination import LIBRARIES
from assistant.hardware import cores
from assistant.home import Home
from assistant.models import BaseModel, open_base
from assistant.night_watch import Show, training_progress
from assistant.progress import Progress
from assistant.services import engine_context
from assistant.starter import LIMITS, ORGANISATIONS, starter_rows
from feedback.errors import AdapterError, RunError
from training.dataset import open_snapshot, write_snapshot
from training.durable import sync
from training.general import general_examples
from training.recipe import Recipe
from training.trainer import told_reason

LARGEST_MB = 10
"""The starter adapter may not be larger than this: it ships with the project."""
EPOCHS, LEARNING_RATE, RANK = 1.0, 5e-4, 16


def make_starter(home: Home, settings: Settings, *, work: Path, out: Path, show: Show) -> dict[str, Any]:
    """Train the starter adapter on the organisations' questions and write it to `out`; returns its card.

    `work` is the run folder: a second call with it goes on from the rows and the checkpoint that are there. Raises RunError
    when the training fails, AdapterError when the result is too large.
    """
    base = open_base(home.models, settings.engine.base_model)
    work.mkdir(parents=True, exist_ok=True)
    if not (work / "dataset" / "card.json").exists():
        started = time.monotonic()

        def tell(done: int, total: int) -> None:
            left = (time.monotonic() - started) / max(done, 1) * (total - done)
            show(Progress(stage="Searching", share=done / total, detail=f"{done}/{total} questions", eta_s=left))

        rows = starter_rows(ORGANISATIONS, home, settings, tell=tell)
        write_snapshot([*rows, *general_examples()], work / "dataset", notes={"limits": str(LIMITS)})
    recipe = starter_recipe(base, settings)
    (work / "config.json").write_text(recipe.to_json(), "utf-8")
    if not (work / "adapter").is_dir():
        _train(work, show)
    return pack(work, base, recipe, out)


def starter_recipe(base: BaseModel, settings: Settings) -> Recipe:
    """Return how the starter adapter is trained: by steps, not by minutes, so that it comes out the same."""
    return Recipe(
        base=str(base.hf_dir),
        base_name=base.name,
        rank=RANK,
        alpha=2 * RANK,
        learning_rate=LEARNING_RATE,
        epochs=EPOCHS,
        max_length=engine_context(settings),
        threads=cores(),
        nice=0,
    )


def _train(work: Path, show: Show) -> None:
    """Run the trainer in a process of its own and show its steps."""
    with (work / "trainer.log").open("ab") as log:
        process = subprocess.Popen([sys.executable, "-m", "training.trainer", str(work)], stdout=log, stderr=log)
        try:
            while process.poll() is None:
                time.sleep(1)
                if (step := training_progress(work)) is not None:
                    show(step)
        finally:
            process.terminate()
            process.wait()
    if not (work / "adapter").is_dir():
        raise RunError(
            f"The training in {work} did not end ({told_reason(work)}): run the command again, it goes on from its checkpoint."
        )


def pack(work: Path, base: BaseModel, recipe: Recipe, out: Path) -> dict[str, Any]:
    """Write the trained adapter to `out` as float16 with its card.json; returns the card. Raises AdapterError when too large."""
    import numpy as np
    from safetensors.numpy import load_file, save_file

    out.mkdir(parents=True, exist_ok=True)
    tensors = load_file(work / "adapter" / "adapter_model.safetensors")
    target = out / "adapter_model.safetensors"
    save_file({name: value.astype(np.float16) for name, value in tensors.items()}, target, metadata={"format": "pt"})
    size = target.stat().st_size
    if size > LARGEST_MB * 1_000_000:
        raise AdapterError(f"The starter adapter has {size / 1e6:.1f} MB, more than {LARGEST_MB}: train it with a lower rank.")
    (out / "adapter_config.json").write_bytes((work / "adapter" / "adapter_config.json").read_bytes())
    snapshot = open_snapshot(work / "dataset")
    figures = json.loads((work / "result.json").read_text("utf-8"))
    shown = ("rank", "alpha", "learning_rate", "batch_size", "epochs", "warmup", "clip", "seed", "method", "max_length")
    card = {
        "name": "starter",
        "base_model": base.name,
        "base_hash": base.sha256,
        "dataset_hash": snapshot.sha256,
        "rows": snapshot.counts,
        "recipe": {name: getattr(recipe, name) for name in shown},
        "training": {name: figures[name] for name in ("steps", "tokens", "loss", "compute_dtype", "dequantised")},
        "libraries": {name: library_version(name) for name in LIBRARIES},
    }
    (out / "card.json").write_text(json.dumps(card, indent=2, sort_keys=True) + "\n", "utf-8")
    for file in out.iterdir():
        file.chmod(0o644)  # safetensors writes for its owner alone
        sync(file)
    return card
