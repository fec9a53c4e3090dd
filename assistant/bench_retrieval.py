"""`nightschool bench retrieval`: what each stage of the search finds of the documents that answer, and what it costs.

A document is ranked by its best passage. Several sources of one question each count, one that is not below the folder as not
found. Questions that the documents do not answer are left out; a question with a history is searched as the chat would search
it, among all the documents, whatever collection its row names.
"""

from __future__ import annotations

import math
import resource
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from assistant.library import Library
from assistant.retrieval.followups import carried_over
from assistant.retrieval.search import Stage
from feedback.errors import DocumentError
from training.questions import QuestionRow, load_questions

STAGES: tuple[Stage, ...] = ("fts", "dense", "hybrid", "rerank")
RANKED = 100
"""Passages that are looked at to find ten documents."""
ASKED = 5
"""Passages of a timed search: as many as a prompt takes."""
NAMED = 20
"""Most missing sources that are named."""


def bench_retrieval(
    documents: Path,
    questions: Path,
    *,
    stages: Sequence[Stage],
    encoder: str,
    reranker: str,
    chunk_tokens: int,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """Index a folder in a throw-away home and search it for every answerable question, stage by stage.

    Returns {"stages": {stage: {"questions", "hit@1", "hit@3", "recall@5", "recall@10", "ndcg@5", "query_p50_ms",
    "query_p99_ms"}}, "documents", "chunks", "index_s", "chunks_s", "index_mb", "peak_mb", "unread", "unchanged_s",
    "missing_sources", "embed_p50_ms"}; times are of a whole search, its encoding of the question included, unchanged_s of a
    second look at the folder, which finds nothing new. Raises DocumentError for a folder or file that cannot be used.
    """
    rows = [row for row in load_questions(questions, answers=False) if row.answerable]
    if not rows:
        raise DocumentError(f"{questions} has no question with sources: name one whose rows say which document answers.")
    with tempfile.TemporaryDirectory() as folder:
        library = Library(Path(folder) / "documents.db", encoder=encoder, reranker=reranker, chunk_tokens=chunk_tokens)
        failed: dict[tuple[str, str], str] = {}
        index = index_folder(library, documents, progress=progress, failed=failed)
        check_sources(rows, library, documents)
        index |= {"unchanged_s": _unchanged(library, documents, failed), "missing_sources": missing_sources(rows, library)}
        figures = {stage: _stage(library, rows, stage) for stage in stages}
        embed = _times(library, rows) if library.encoder else [0.0]
    return {"stages": figures, **index, "embed_p50_ms": round(1000 * statistics.median(embed), 2)}


def index_folder(
    library: Library,
    documents: Path,
    *,
    progress: Callable[[int, int], None] | None = None,
    failed: dict[tuple[str, str], str] | None = None,
) -> dict[str, Any]:
    """Index a folder; returns {"documents", "chunks", "chunks_s", "index_s", "index_mb", "peak_mb", "unread"}.

    peak_mb is that of this process or of the worker that converts files, whichever was the larger; `failed` is as for
    Library.add. Raises DocumentError.
    """
    if not documents.is_dir():
        raise DocumentError(f"There is no documents folder {documents}: name one that holds documents.")
    library.warm()
    started = time.perf_counter()
    report = library.add([documents], failed=failed)
    library.index(progress=progress)
    seconds = time.perf_counter() - started
    rows = library.store.describe()
    chunks = sum(int(str(row["chunks"])) for row in rows)
    return {
        "documents": len(rows),
        "chunks": chunks,
        "index_s": round(seconds, 1),
        "chunks_s": round(chunks / max(seconds, 1e-9), 1),
        "index_mb": round(library.store.size() / 1e6, 1),
        "peak_mb": peak_mb(),
        "unread": list(report.unread),
    }


def peak_mb() -> int:
    """Return the most memory, in MB, that this process has had, or one of its ended children: the larger of the two."""
    return round(max(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)) / 1024)


def _unchanged(library: Library, documents: Path, failed: dict[tuple[str, str], str]) -> float:
    """Return the seconds of a second look at an indexed folder, as a server looks: what could not be read is not tried again."""
    started = time.perf_counter()
    library.add([documents], failed=failed)
    library.index()
    return round(time.perf_counter() - started, 3)


def check_sources(rows: Sequence[QuestionRow], library: Library, documents: Path) -> None:
    """Raise DocumentError when questions name sources, and none of them is a document below the folder."""
    named = {source for row in rows for source in row.sources}
    if named and named.isdisjoint(library.store.paths()):
        raise DocumentError(
            f"None of the {len(named)} sources of the questions is below {documents}, {min(named)!r} for one: name the folder "
            "that they are relative to."
        )


def missing_sources(rows: Sequence[QuestionRow], library: Library) -> list[str]:
    """Return the sources of questions that are no documents of the library, sorted; past NAMED the rest is counted."""
    missing = sorted({source for row in rows for source in row.sources} - set(library.store.paths()))
    return missing if len(missing) <= NAMED else [*missing[:NAMED], f"and {len(missing) - NAMED} more"]


def _stage(library: Library, rows: Sequence[QuestionRow], stage: Stage) -> dict[str, Any]:
    found: list[dict[str, float]] = []
    seconds: list[float] = []
    for row in rows:
        context = carried_over(row.question, row.history)
        hits = library.search(row.question, limit=RANKED, context=context, stage=stage)
        found.append(measures(list(dict.fromkeys(hit.document for hit in hits)), set(row.sources)))
        started = time.perf_counter()
        library.search(row.question, limit=ASKED, context=context, stage=stage)
        seconds.append(time.perf_counter() - started)
    seconds.sort()
    return {
        "questions": len(rows),
        **{name: round(statistics.fmean(each[name] for each in found), 4) for name in found[0]},
        "query_p50_ms": round(1000 * statistics.median(seconds), 2),
        "query_p99_ms": round(1000 * seconds[min(len(seconds) - 1, math.ceil(0.99 * len(seconds)) - 1)], 2),
    }


def measures(ranked: Sequence[str], sources: set[str]) -> dict[str, float]:
    """Return hit@1, hit@3, recall@5, recall@10 and ndcg@5 of documents, best first, against those that answer."""
    gains = [1 / math.log2(place + 2) for place in range(5)]
    return {
        **{f"hit@{most}": float(any(name in sources for name in ranked[:most])) for most in (1, 3)},
        **{f"recall@{most}": len(sources.intersection(ranked[:most])) / len(sources) for most in (5, 10)},
        "ndcg@5": sum(gain for gain, name in zip(gains, ranked, strict=False) if name in sources) / sum(gains[: len(sources)]),
    }


def _times(library: Library, rows: Sequence[QuestionRow]) -> list[float]:
    seconds: list[float] = []
    assert library.encoder is not None
    for row in rows[:200]:
        started = time.perf_counter()
        library.encoder.encode([row.question], telling=False, asked=True)
        seconds.append(time.perf_counter() - started)
    return seconds
