"""The starter adapter that ships with Nightschool: put into a home that has no adapter yet, so that it serves out of the box."""

from __future__ import annotations

import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

from assistant.models import BaseModel
from feedback.errors import AdapterError
from training.lora_gguf import convert
from training.registry import AdapterRegistry

STARTER = Path(__file__).resolve().parent.parent / "data" / "adapters" / "starter"
"""The folder of the starter adapter, beside the packages."""
AGAIN = "install Nightschool again, or set engine.starter to false."
ORIGIN = "starter"
"""What the manifest of an installed starter adapter names as its origin."""
REASON = "the starter adapter that ships with Nightschool: a home without adapters begins with it"


def install_starter(registry: AdapterRegistry, base: BaseModel, *, folder: Path = STARTER) -> str | None:
    """Publish and promote the starter adapter in a home that has never had an adapter; returns its version.

    None where there is nothing to do: other adapters are there, or what ships was not trained on this base model. The GGUF is
    made here, in a second. Raises AdapterError for a damaged folder.
    """
    if registry.list() or not is_for(base, folder=folder):
        return None
    card = _card(folder)
    with tempfile.TemporaryDirectory() as scratch:
        candidate = laid_out_starter(base, Path(scratch), folder=folder)
        version = registry.publish(candidate, {**card, "origin": ORIGIN}, "candidate", None)
    registry.promote(version, by="nightschool", reason=REASON, overruled=False)
    return version


def is_for(base: BaseModel, *, folder: Path = STARTER) -> bool:
    """Say whether the starter adapter that ships was trained on this base model. Raises AdapterError for a damaged card."""
    return (folder / "card.json").is_file() and _card(folder).get("base_hash") == base.sha256


def _card(folder: Path) -> dict[str, Any]:
    try:
        return dict(json.loads((folder / "card.json").read_text("utf-8")))
    except (ValueError, TypeError) as error:
        raise AdapterError(f"The starter adapter's card.json cannot be read ({error!r}): {AGAIN}") from error


def laid_out_starter(base: BaseModel, target: Path, *, folder: Path = STARTER) -> Path:
    """Copy the starter adapter to `target` and make its GGUF there; returns `target`. Raises AdapterError for a missing file."""
    target.mkdir(parents=True, exist_ok=True)
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        if not (folder / name).is_file():
            raise AdapterError(f"The starter adapter has no {name}: {AGAIN}")
        shutil.copyfile(folder / name, target / name)
    convert(target, base.hf_dir, target / "adapter.gguf")
    return target


def starter_version(registry: AdapterRegistry, *, method: str, rank: int, upper_layers: int | None = None) -> str | None:
    """Return the installed starter adapter from which a training of this shape can begin; None without one."""
    for row in registry.list():
        recipe = row.manifest.get("recipe") or {}
        shape = (recipe.get("method"), recipe.get("rank"), recipe.get("upper_layers"))
        if row.manifest.get("origin") == ORIGIN and shape == (method, rank, upper_layers):
            return row.version
    return None
