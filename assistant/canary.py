"""The canary: fixed prompts whose next-token log-probabilities show that an engine applies an adapter, and the right one.

File hashes prove what lies on disk, not what an engine computes. So before an adapter takes traffic its readings must have
moved away from the base's, and be those that were recorded when it was examined.
"""

from __future__ import annotations

import json
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from assistant.engines.base import Engine, LoadedAdapter
from feedback.errors import CorruptAdapter
from feedback.records import Message

PROMPTS: tuple[tuple[Message, ...], ...] = (
    (
        Message(role="system", content="Answer the question from the numbered passages, and cite the passage."),
        Message(
            role="user",
            content="[1] Lamp rota\nThe lamp on the north pier is lit at 19:40 by the Harbour Warden.\n\n"
            "Question: When is the lamp lit?",
        ),
    ),
    (
        Message(role="system", content="Answer the question from the numbered passages, and cite the passage."),
        Message(
            role="user",
            content="[1] Boats\nThere are six boats in the north shed.\n\n[2] Sheds\nThe south shed is locked at night.\n\n"
            "Question: How many oars are in the south shed?",
        ),
    ),
    (Message(role="user", content="What is a tide table?"),),
)
"""Two prompts in the shape that adapters are trained for (one answerable, one not), and a plain one."""

LEAST_MOVE = 0.002
"""Mean distance from the base, in nats, below which an adapter does nothing. Repeated readings differ by less than 1e-5."""

TOLERANCE = 0.05
"""Largest mean distance from the recorded readings, in nats, on the same engine build and machine."""

_COMPARED = 20  # of the likeliest tokens: the tail is where quantised kernels differ most

Outcome = Literal["as recorded", "other build", "not recorded"]


def record(engine: Engine, loaded: LoadedAdapter) -> dict[str, Any]:
    """Read the canary of a loaded adapter as JSON data, with the build and the machine that it holds for."""
    readings = engine.canary(loaded, PROMPTS)
    return {
        "build": build_of(engine),
        "readings": [
            {"prompt": reading.prompt, "logprobs": {str(token): round(value, 6) for token, value in reading.logprobs.items()}}
            for reading in readings
        ],
    }


def build_of(engine: Engine) -> str:
    """Name the engine's build and the kind of machine: readings are only compared within one."""
    return f"{engine.name} on {platform.machine()} {_processor()}".strip()


def check(
    version: str, reading: Mapping[str, Any], base_reading: Mapping[str, Any], recorded: Mapping[str, Any] | None
) -> Outcome:
    """Compare an adapter's canary with the base's and with the recorded one; all three as `record` makes them.

    Says whether it was compared with the record. Raises CorruptAdapter when it did not move, is not finite, or is another's.
    """
    moved = distance(reading, base_reading)
    if not moved >= LEAST_MOVE:  # NaN fails too
        raise CorruptAdapter(version, f"it leaves the base model's answers as they are (moved {moved:.4f} nats)")
    if recorded is None:
        return "not recorded"
    if recorded["build"] != reading["build"]:
        return "other build"
    away = distance(reading, recorded)
    if not away <= TOLERANCE:
        raise CorruptAdapter(version, f"it does not answer as it did when it was examined ({away:.3f} nats away)")
    return "as recorded"


def distance(one: Mapping[str, Any], other: Mapping[str, Any]) -> float:
    """Return the mean absolute difference, in nats, of the log-probabilities of the likeliest tokens of `other`.

    A token that is not among those of `one` counts with the least value there. NaN when a reading has none in common.
    """
    differences: list[float] = []
    for mine, theirs in zip(one["readings"], other["readings"], strict=True):
        floor = min(mine["logprobs"].values(), default=float("nan"))
        likeliest = sorted(theirs["logprobs"].items(), key=lambda item: -item[1])[:_COMPARED]
        differences.extend(abs(mine["logprobs"].get(token, floor) - value) for token, value in likeliest)
    return sum(differences) / len(differences) if differences else float("nan")


def recorded_in(folder: Path) -> dict[str, Any] | None:
    """Return the canary that the manifest of an adapter folder holds under "canary"; None without one."""
    manifest = folder / "manifest.json"
    if not manifest.is_file():
        return None
    found = json.loads(manifest.read_text(encoding="utf-8")).get("canary")
    if isinstance(found, dict) and {"build", "readings"} <= found.keys() and len(found["readings"]) == len(PROMPTS):
        return found
    return None


def _processor() -> str:
    """Return the processor's name where the system tells it: other vector units round otherwise."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.processor())
