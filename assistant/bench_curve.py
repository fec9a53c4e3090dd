"""`nightschool bench curve`: what a night brings by the number of examples that it has, as a table and a picture.

Each point trains on so many practice answers of the sample company (or of another) and answers the same sealed questions. A point
is kept in the work folder once it is measured, and a training that was stopped goes on from its checkpoint.
"""

from __future__ import annotations

import hashlib
import json
import math
import shutil
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from assistant.bench_training import lessons
from assistant.config import Settings
from assistant.demo import in_turns
from assistant.engines.base import BASE_VERSION, Engine
from assistant.examiner import Contestant, examine_contestant
from assistant.hardware import cores
from assistant.home import Home
from assistant.models import BaseModel
from assistant.prompt import Prepared
from assistant.services import engine_context, open_engine, open_prompts
from assistant.shipped import laid_out_starter
from feedback.errors import RunError
from training.bench import in_own_process, write_rows
from training.durable import sha256
from training.heldout import sample_by_fact
from training.interval import paired_bootstrap
from training.measures import by_fact
from training.questions import QuestionRow, load_questions
from training.recipe import Recipe
from training.results import scored_of
from training.trainer import write_flushed

Pair = tuple[QuestionRow, Prepared]


def bench_curve(
    home: Home,
    settings: Settings,
    *,
    documents: Path,
    practice: Path,
    sealed: Path,
    points: Sequence[int],
    work: Path,
    limit: int = 60,
    minutes: float = 60.0,
    from_starter: bool = False,
    tell: Callable[[str], None] = lambda _: None,
) -> dict[str, Any]:
    """Measure the gain over what it starts from after training on each number of examples in `points`.

    The trainings begin from the starter adapter that ships, or from the bare base, with a night's epochs and seed; `limit` is the
    most sealed questions. After `minutes` no further point is begun, and another call with `work` goes on. Returns {"start",
    "epochs", "seed", "questions", "facts", "points": [{"examples", "minutes", "score", "accuracy", "cited", "refusal_precision",
    "refusal_recall", "gain", "low", "high"}], "not_begun"}; the first point has 0 examples, and the minutes of each are the
    trainer's own, over all its starts. Raises RunError when a training fails, or `work` holds a curve of other settings.
    """
    until = time.monotonic() + 60 * minutes
    base, engine = open_engine(home, settings)
    results: dict[int, dict[str, Any]] = {}
    not_begun: list[int] = []
    try:
        start = laid_out_starter(base, work / "starter") if from_starter else None
        rows = sample_by_fact(load_questions(sealed), limit=limit, seed=settings.night.seed)
        asked, taught = _laid_out(settings, base, engine, documents=documents, rows=rows, practice=load_questions(practice))
        recipe = _recipe(base, settings, start)
        _claim(work, _told(base, engine, settings, recipe, limit=limit, asked=asked, taught=taught))
        for count in sorted({0, *points}):
            kept = work / str(count) / "examined.json"
            if count and not kept.exists() and time.monotonic() >= until:
                not_begun.append(count)
                continue
            if not kept.exists():
                trained = _train(kept.parent, taught[:count], recipe) if count else (start, 0.0)
                _examine(kept, engine, asked, len(taught[:count]), *trained, max_tokens=settings.chat.max_tokens)
            results[count] = json.loads(kept.read_text("utf-8"))
            tell(f"{count} examples: score {results[count]['summary']['score']:.3f}")
    finally:
        engine.close()
    if not_begun:
        left = ", ".join(map(str, not_begun))
        tell(f"The {minutes:g} minutes are over, before {left} examples: the same command with {work} goes on.")
    return {
        "start": "base" if start is None else start.name,
        "epochs": recipe.epochs,
        "seed": recipe.seed,
        "questions": len(rows),
        "facts": len({row.fact for row in rows}),
        "points": [_point(results[0], result) for result in results.values()],
        "not_begun": not_begun,
    }


def _laid_out(
    settings: Settings,
    base: BaseModel,
    engine: Engine,
    *,
    documents: Path,
    rows: Sequence[QuestionRow],
    practice: Sequence[QuestionRow],
) -> tuple[list[Pair], list[dict[str, Any]]]:
    """Return the sealed questions with their prompts, and the practice rows as what corrections of them would teach."""
    with tempfile.TemporaryDirectory() as scratch:
        library, prompts = open_prompts(Home(Path(scratch)), settings, base, engine)
        library.add_folder(documents)
        asked = [(row, prompts.prepare(row.question)) for row in rows]
        return asked, list(lessons((row, prompts.prepare(row.question)) for row in in_turns(practice)))


def _recipe(base: BaseModel, settings: Settings, start: Path | None) -> Recipe:
    return Recipe(
        base=str(base.hf_dir),
        base_name=base.name,
        epochs=settings.night.epochs,
        seed=settings.night.seed,
        start=None if start is None else str(start),
        max_length=engine_context(settings),
        threads=cores(),
        nice=0,
    )


def _told(
    base: BaseModel,
    engine: Engine,
    settings: Settings,
    recipe: Recipe,
    *,
    limit: int,
    asked: Sequence[Pair],
    taught: Sequence[Mapping[str, Any]],
) -> dict[str, Any]:
    """Return what the points of one curve have in common, each under the name that a person would know it by."""
    questions = [[row.id, row.values, [message.as_dict() for message in prepared.messages]] for row, prepared in asked]
    return {
        "start": "base" if recipe.start is None else f"starter {sha256(Path(recipe.start) / 'adapter_model.safetensors')[:8]}",
        "limit": limit,
        "epochs": recipe.epochs,
        "seed": recipe.seed,
        "base model": f"{base.name} {base.sha256[:8]}",
        "engine": engine.name,
        "chat.max_tokens": settings.chat.max_tokens,
        "longest row": recipe.max_length,
        "questions": _mark(questions),
        "lessons": _mark(taught),
    }


def _mark(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:8]


def _claim(work: Path, told: Mapping[str, Any]) -> None:
    """Say in the work folder whose points it holds. Raises RunError where they are another curve's."""
    file = work / "curve.json"
    if not file.exists() and not (work / "0").exists():  # an earlier release left points and said nothing
        work.mkdir(parents=True, exist_ok=True)
        write_flushed(file, json.dumps(told, indent=2))
    held = json.loads(file.read_text("utf-8")) if file.exists() else {}
    other = [f"{name} {held.get(name, 'unknown')}, here {value}" for name, value in told.items() if held.get(name) != value]
    if other:
        raise RunError(f"{work} holds a curve of other settings ({'; '.join(other)}): name another folder, or delete it.")


def _examine(
    kept: Path, engine: Engine, asked: Sequence[Pair], examples: int, folder: Path | None, minutes: float, *, max_tokens: int
) -> None:
    """Keep the answers of what a training on `examples` left in `folder` (None: the bare base), with the minutes that it took."""
    version = f"after-{examples}" if folder else BASE_VERSION
    contestant = Contestant(name=version, version=version, folder=folder)
    found = examine_contestant(engine, asked, contestant, max_tokens=max_tokens, tick=lambda: None)
    kept.parent.mkdir(parents=True, exist_ok=True)
    write_flushed(kept, json.dumps({**found, "minutes": minutes, "examples": examples}))


def _train(folder: Path, rows: Sequence[Mapping[str, Any]], recipe: Recipe) -> tuple[Path, float]:
    """Train on the rows in a run folder, where that is not done yet; returns the adapter's folder and the minutes it took."""
    if not (folder / "config.json").exists():  # else it was stopped, and goes on
        shutil.rmtree(folder, ignore_errors=True)
        folder.parent.mkdir(parents=True, exist_ok=True)
        write_rows(folder, rows, recipe)
    if _seconds(folder) is None:
        in_own_process(f"The training on {len(rows)} examples", "training.trainer", str(folder))
    return folder / "adapter", (_seconds(folder) or 0.0) / 60


def _seconds(folder: Path) -> float | None:
    """Return how long the training of a run folder took, starts before an interruption included; None while it is not done."""
    try:
        result = json.loads((folder / "result.json").read_text("utf-8"))
    except (OSError, ValueError):
        return None
    return float(result["seconds"]) if result["outcome"] == "done" and (folder / "adapter").is_dir() else None


def _point(before: dict[str, Any], result: dict[str, Any]) -> dict[str, Any]:
    mean, low, high = paired_bootstrap(by_fact(scored_of(before)), by_fact(scored_of(result)))
    measures = ("score", "accuracy", "cited", "refusal_precision", "refusal_recall")
    return {
        "examples": result["examples"],
        "minutes": round(result["minutes"], 1),
        **{name: result["summary"][name] for name in measures},
        "gain": round(mean, 4),
        "low": round(low, 4),
        "high": round(high, 4),
    }


def picture(points: Sequence[dict[str, Any]]) -> str:
    """Draw the gain with its interval against the number of examples, as an SVG that reads in light and dark."""
    width, height, left, bottom = 560, 300, 52, 44
    most = max((point["examples"] for point in points), default=1) or 1
    least, best = min(0.0, *(point["low"] for point in points)), max(0.1, *(point["high"] for point in points))
    apart = 0.05 if best - least <= 0.4 else 0.2
    first, last = math.floor(least / apart + 1e-9), math.ceil(best / apart - 1e-9)
    low, high = first * apart, last * apart

    def across(examples: float) -> float:
        return left + (width - left - 20) * examples / most

    def up(gain: float) -> float:
        return float(20 + (height - 20 - bottom) * (high - gain) / (high - low))

    ticks = [step * apart for step in range(first, last + 1)]
    parts = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" font-family="sans-serif" font-size="12">']
    parts.append(f'<rect width="{width}" height="{height}" fill="white"/>')
    for tick in ticks:
        y, colour, said = up(tick), *(("#ddd", f"{tick:+.2f}") if round(tick, 2) else ("#888", "0"))
        parts.append(f'<line x1="{left}" x2="{width - 20}" y1="{y:.1f}" y2="{y:.1f}" stroke="{colour}"/>')
        parts.append(f'<text x="{left - 6}" y="{y + 4:.1f}" text-anchor="end" fill="#444">{said}</text>')
    for point in points:
        x = across(point["examples"])
        parts.append(
            f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{up(point["low"]):.1f}" y2="{up(point["high"]):.1f}" stroke="#2563eb"/>'
        )
        parts.append(f'<circle cx="{x:.1f}" cy="{up(point["gain"]):.1f}" r="4" fill="#2563eb"/>')
        parts.append(f'<text x="{x:.1f}" y="{height - bottom + 18}" text-anchor="middle" fill="#444">{point["examples"]}</text>')
    line = " ".join(f"{across(point['examples']):.1f},{up(point['gain']):.1f}" for point in points)
    parts.append(f'<polyline points="{line}" fill="none" stroke="#2563eb" stroke-width="2"/>')
    middle = (left + width - 20) / 2
    parts.append(f'<text x="{middle}" y="{height - 8}" text-anchor="middle" fill="#222">examples learnt from</text>')
    parts.append(f'<text x="{left}" y="13" fill="#222">gain of the score on sealed questions (95 % interval)</text></svg>')
    return "\n".join(parts) + "\n"
