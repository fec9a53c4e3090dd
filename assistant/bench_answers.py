"""`nightschool bench answers`: how good the answers are on a company's documents, as served and without a judge."""

from __future__ import annotations

import itertools
import random
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from assistant.bench_retrieval import check_sources, index_folder, missing_sources
from assistant.config import Settings
from assistant.engines.base import BASE_VERSION
from assistant.examiner import Contestant, examine_contestant
from assistant.home import Home
from assistant.services import open_engine, open_prompts
from training.measures import Scored
from training.questions import QuestionRow, is_said_elsewhere, load_questions, take_pages_away
from training.registry import AdapterRegistry
from training.results import scored_of


def bench_answers(
    home: Home,
    settings: Settings,
    *,
    documents: Path,
    questions: Path,
    adapter: str = "",
    limit: int = 0,
    absent: float = 0.0,
    progress: Callable[[int, int, str], None] | None = None,
) -> dict[str, Any]:
    """Index a folder in a throw-away home and answer the questions as the chat does by the fixed plan (without the agent).

    `adapter` is a version of `home`'s registry ("": the base), `limit` the most questions (0: all; drawn with a fixed seed),
    `absent` the share of the facts whose pages are left out. Every question is asked of all the documents, whatever collection
    its row names. Returns {"questions", "answerable", "accuracy", "score", "rouge_l", "citation_precision", "citation_recall",
    "refusal_precision", "refusal_recall", "found", "right_of_found", "missing_sources", "said_elsewhere", "tok_s", "adapter"}; a
    measure without a case is None, a row that has sources but no answer counts for citations and refusals alone, a source that
    is not below the folder as one that was not found. A question whose pages were left out while another page states its
    answer is left out too, and counted as said_elsewhere. Raises DocumentError, AdapterError or ModelError.
    """
    version = adapter or BASE_VERSION
    registry = AdapterRegistry(home.db, home.adapters)
    if version != BASE_VERSION:
        registry.verify(version)
    every = load_questions(questions, answers=False)
    rows, gone = take_pages_away(every, absent) if absent else (every, [])
    if limit and limit < len(rows):
        rows = random.Random(0).sample(rows, limit)
    with tempfile.TemporaryDirectory() as folder:
        own = Home(Path(folder))
        own.models.rmdir()
        own.models.symlink_to(home.models)
        base, engine = open_engine(own, settings)
        try:
            library, prompts = open_prompts(own, settings, base, engine)
            index_folder(library, documents)
            check_sources(every, library, documents)
            missing = missing_sources(rows, library)
            library.store.remove(gone)
            asked = [(row, prompts.prepare(row.question, row.history)) for row in rows]
            prepared = [(row, one) for row, one in asked if not is_said_elsewhere(row, one.passages)]
            rows = [row for row, _ in prepared]
            found = [bool(set(row.sources) & {each.document for each in one.passages}) for row, one in prepared]
            ticks = itertools.count(1)

            def tick() -> None:
                if progress is not None:
                    progress(next(ticks), len(rows), "Answering")

            contestant = Contestant(
                name=version, version=version, folder=None if version == BASE_VERSION else registry.path(version)
            )
            result = examine_contestant(engine, prepared, contestant, max_tokens=settings.chat.max_tokens, tick=tick)
        finally:
            engine.close()
    return {
        **_figures(rows, scored_of(result), found),
        "missing_sources": missing,
        "said_elsewhere": len(asked) - len(prepared),
        "tok_s": result["tokens_s"],
        "adapter": version,
    }


def _figures(rows: Sequence[QuestionRow], scored: Sequence[Scored], found: Sequence[bool]) -> dict[str, Any]:
    told = [each for row, each in zip(rows, scored, strict=True) if row.answer or not row.answerable]  # what to compare with
    answerable = [each for each in scored if each.answerable]
    refused = [each for each in scored if each.refused]
    citations = sum(each.citations for each in scored)
    reached = [each for row, each, there in zip(rows, scored, found, strict=True) if there and row.answer]
    return {
        "questions": len(scored),
        "answerable": len(answerable),
        "accuracy": _share([each.right for each in told if each.answerable]),
        "score": _share([each.score for each in told]),
        "rouge_l": _share([each.rouge_l for each in told]),
        "citation_precision": round(sum(each.right_citations for each in scored) / citations, 4) if citations else None,
        "citation_recall": _share([each.cited for each in answerable]),
        "refusal_precision": _share([not each.answerable for each in refused]),
        "refusal_recall": _share([each.refused for each in scored if not each.answerable]),
        "found": _share([there for each, there in zip(scored, found, strict=True) if each.answerable]),
        "right_of_found": _share([each.score for each in reached]),
    }


def _share(values: list[bool] | list[float]) -> float | None:
    return round(sum(values) / len(values), 4) if values else None
