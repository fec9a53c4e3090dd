"""`nightschool bench scale`: how a search's time grows with the number of passages, step by step.

Passages are made up: words drawn by Zipf's law from a vocabulary of made-up words, and random vectors. They go through the
real store, index and search; only the encoder is left out, whose time does not depend on the size.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from assistant.documents.chunks import Chunk
from assistant.documents.store import DocumentStore
from assistant.retrieval.encoder import Encoded, Vectors
from assistant.retrieval.index import embed_pending
from assistant.retrieval.lexical import LexicalIndex, query_terms
from assistant.retrieval.search import DEPTH, Retriever

WORDS, VOCABULARY, TERMS = 60, 60_000, 8
"""Words of a passage, of the vocabulary, and of a question."""
TOKENS, DIMENSIONS = 40, 384
ZIPF = 1.07
IDLE = 100
"""The commonest words, which stand for "the" and "of": a question's are not searched for, so questions are made without them."""
PAGE = 50
"""Passages of a document."""


class _RandomEncoder:
    """Random vectors of length 1 in place of an encoder's."""

    name = "random"
    max_tokens = 256

    def __init__(self) -> None:
        self._random = np.random.default_rng(0)

    def encode(self, texts: Sequence[str], *, telling: bool, asked: bool = False) -> Encoded:
        """Return random vectors."""
        return Encoded(
            whole=self._unit((len(texts), DIMENSIONS)),
            tokens=[self._unit((TOKENS if telling else TERMS, DIMENSIONS)) for _ in texts],
        )

    def _unit(self, shape: tuple[int, int]) -> Vectors:
        drawn = self._random.standard_normal(shape, dtype=np.float32)
        return np.asarray(drawn / np.linalg.norm(drawn, axis=1, keepdims=True), np.float32)


def bench_scale(sizes: Sequence[int], *, queries: int = 60, progress: Callable[[int, int], None] | None = None) -> dict[str, Any]:
    """Measure searches over so many made-up passages, each size in a throw-away index that grows to the next.

    Returns {"sizes": {size: {"query_p50_ms", "query_p99_ms", "fts_p50_ms", "dense_p50_ms", "index_mb", "memory_mb",
    "first_query_s"}}}; fts and dense are the two rankings alone, the query is the whole search without its encoding.
    """
    import psutil

    random = np.random.default_rng(1)
    words = np.array(
        [f"{''.join(random.choice(list('abcdefghiklmnoprstuvw'), 3 + at % 7))}{at % 97}" for at in range(VOCABULARY)]
    )
    figures: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        store = DocumentStore(Path(folder) / "documents.db", split=_cut, chunking="made up")
        encoder = _RandomEncoder()
        made = 0
        for size in sorted(sizes):
            while made < size:
                count = min(PAGE, size - made)
                text = "\n".join(" ".join(words[_zipf(random, WORDS)]) for _ in range(count))
                store.put(name=f"{made}.md", text=text, sha256=str(made))
                made += count
                if progress is not None:
                    progress(made, max(sizes))
            embed_pending(store, encoder)
            asked = [" ".join(words[_zipf(random, TERMS, least=IDLE)]) for _ in range(queries)]
            figures[str(size)] = _measure(store, Retriever(store, encoder), asked)
            figures[str(size)] |= {
                "index_mb": round(store.size() / 1e6),
                "memory_mb": round(psutil.Process().memory_info().rss / 1e6),
            }
    return {"sizes": figures}


def _measure(store: DocumentStore, retriever: Retriever, asked: Sequence[str]) -> dict[str, float]:
    started = time.perf_counter()
    retriever.search(asked[0], limit=5)
    first = time.perf_counter() - started
    whole, dense, fts = [], [], []
    generation = store.generation()
    for question in asked:
        started = time.perf_counter()
        retriever.search(question, limit=5)
        whole.append(time.perf_counter() - started)
        started = time.perf_counter()
        retriever.search(question, limit=5, stage="dense")
        dense.append(time.perf_counter() - started)
        started = time.perf_counter()
        index = LexicalIndex(store.connections.db, generation=generation, frequencies={})
        index.search(query_terms(question), limit=DEPTH, collection="")
        fts.append(time.perf_counter() - started)
    return {
        "query_p50_ms": _p50(whole),
        "query_p99_ms": round(1000 * sorted(whole)[-1 - len(whole) // 100], 2),
        "fts_p50_ms": _p50(fts),
        "dense_p50_ms": _p50(dense),
        "first_query_s": round(first, 2),
    }


def _p50(seconds: Sequence[float]) -> float:
    return round(1000 * statistics.median(seconds), 2)


def _zipf(random: np.random.Generator, count: int, *, least: int = 0) -> npt.NDArray[np.int64]:
    """Draw ranks of words from `least` on; what falls outside the vocabulary is drawn again."""
    drawn: list[int] = []
    while len(drawn) < count:
        drawn.extend(int(rank) for rank in random.zipf(ZIPF, 8 * count) - 1 if least <= rank < VOCABULARY)
    return np.array(drawn[:count], np.int64)


def _cut(text: str, *, fallback_title: str, pages: Sequence[int] = ()) -> list[Chunk]:
    """Cut a made-up document at its lines."""
    chunks, at = [], 0
    for line in text.split("\n"):
        chunks.append(Chunk(title=fallback_title, text=line, start=at, end=at + len(line)))
        at += len(line) + 1
    return chunks
