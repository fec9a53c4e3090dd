"""Hybrid search: words and meaning fused by reciprocal rank, then weighed by their scores, then looked at token by token."""

from __future__ import annotations

import logging
import time
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from assistant.documents.store import DocumentStore
from assistant.retrieval.encoder import Encoded, Encoder, Vectors
from assistant.retrieval.fusion import evidence, in_one_measure, reciprocal_ranks
from assistant.retrieval.index import searchable
from assistant.retrieval.lexical import LexicalIndex, query_terms
from assistant.retrieval.reranker import Reranker, late_interaction
from assistant.retrieval.vectors import VectorIndex
from feedback.errors import ModelError

_log = logging.getLogger(__name__)

Stage = Literal["fts", "dense", "hybrid", "rerank"]
ENCODER_REST = 60.0
"""Seconds after which an encoder that could not be loaded is tried again."""
DEPTH = 100
"""Candidates of each ranking."""
RERANKED = 30
"""Candidates that are looked at again: each costs a cross-encoder tens of milliseconds on a CPU."""


@dataclass(frozen=True, kw_only=True)
class Hit:
    """A chunk that a search found. `score`, in [0, 1], says how well it answers: the same scale for every corpus.

    With an encoder it is the mean of the cosine and the coverage (share of the question's weighted terms that it holds);
    without one, or before its vector is made, the coverage. `scores` has each stage's own: fts (BM25), dense (cosine), fused,
    evidence, rerank, coverage.
    """

    chunk_id: int
    collection: str
    document: str
    document_version: int
    title: str
    text: str
    score: float
    page: int | None = None
    start: int = 0
    end: int = 0
    scores: dict[str, float] = field(default_factory=dict)


class Retriever:
    """Searches one store. Safe to share between threads."""

    def __init__(
        self, store: DocumentStore, encoder: Encoder | None, reranker: Reranker | None = None, *, late: bool = True
    ) -> None:
        self._store = store
        self._encoder = encoder
        self._reranker = reranker
        self._late = late
        self._encoder_rests = 0.0  # until when one that could not be loaded is not tried again
        self._vectors = VectorIndex(encoder.name) if encoder else None
        self._frequencies: dict[tuple[int, str], int] = {}

    def search(
        self,
        question: str,
        *,
        limit: int,
        following: int = 0,
        collection: str = "",
        context: str = "",
        hidden: Collection[str] = (),
        stage: Stage = "rerank",
    ) -> list[Hit]:
        """Return the `limit` best chunks for a question, best first, each joined by `following` chunks of its section.

        `collection` "" searches all of them. `context` is the question with what it leaves unsaid: it adds
        candidates and evidence. The passages of `hidden` documents are left out, as if these were absent. `stage` ends
        earlier, for measuring. Raises ModelError when a named model cannot be loaded.
        """
        generation = self._store.generation()
        words = LexicalIndex(self._store.connections.db, generation=generation, frequencies=self._frequencies)
        asked = [text for text in (question, context) if text.strip()]
        if not asked:
            return []
        encoded = self._encoded(asked) if stage != "fts" else None
        left_out = self._chunks_of(hidden)
        found = [
            self._rankings(words, text, encoded.whole[at] if encoded else None, generation, collection, stage, left_out)
            for at, text in enumerate(asked)
        ]
        bm25, cosine = found[0]
        fused = reciprocal_ranks(ranking for pair in found for ranking in pair if ranking)
        order: dict[int, float] = bm25 if stage == "fts" else cosine if stage == "dense" else fused
        weighed: dict[int, float] = {}
        if stage == "rerank":
            weighed = order = _added([evidence(*pair, fused) for pair in found])
        rows = self._rows(list(order)[: max(limit, RERANKED)])
        reranked: dict[int, float] = {}
        if stage == "rerank":
            reranked = self._reranked(asked[-1], encoded.tokens[-1] if encoded else None, list(rows)[:RERANKED], rows, weighed)
            order = reranked | {chunk_id: score for chunk_id, score in order.items() if chunk_id not in reranked}
        chosen = [chunk_id for chunk_id in order if chunk_id in rows][:limit]
        if encoded and self._vectors and context and stage == "rerank":  # a follow-up is near what its whole question is near
            nearness = [self._vectors.cosines(query, chosen) for query in encoded.whole]
            cosine = {each: max(near.get(each, -1.0) for near in nearness) for each in chosen if each in nearness[0]}
        covered = [words.coverage(query_terms(text), chosen) for text in asked]
        coverage = {each: max(part[each] for part in covered) for each in chosen}
        stages = {
            "fts": bm25, "dense": cosine, "fused": fused, "evidence": weighed, "rerank": reranked, "coverage": coverage
        }  # fmt: skip
        return [self._hit(rows[chunk_id], following, _scores_of(chunk_id, stages)) for chunk_id in chosen]

    def _encoded(self, asked: Sequence[str]) -> Encoded | None:
        """Encode what is asked; None without an encoder, and while it cannot be loaded: then words alone are searched."""
        if self._encoder is None or time.monotonic() < self._encoder_rests:
            return None
        try:
            return self._encoder.encode(asked, telling=False, asked=True)
        except ModelError as error:
            self._encoder_rests = time.monotonic() + ENCODER_REST
            _log.warning("Words alone are searched for a minute: %s", error)
            return None

    def _rankings(
        self,
        words: LexicalIndex,
        text: str,
        query: Vectors | None,
        generation: int,
        collection: str,
        stage: Stage,
        left_out: frozenset[int],
    ) -> tuple[dict[int, float], dict[int, float]]:
        """Return the candidates by words and by meaning, each with the other's score too, best first by their own."""
        terms = query_terms(text)
        depth = DEPTH + len(left_out)
        by_words = words.search(terms, limit=depth, collection=collection) if stage != "dense" else {}
        by_words = _first(by_words, left_out)
        if query is None or self._vectors is None:
            return by_words, {}
        self._vectors.follow(self._store.connections.db, generation)
        by_meaning = _first(self._vectors.search(query, limit=depth, collection=collection), left_out)
        if stage == "rerank":
            missing = [chunk_id for chunk_id in by_words if chunk_id not in by_meaning]
            by_meaning = by_meaning | self._vectors.cosines(query, missing)
        return by_words, by_meaning

    def _chunks_of(self, documents: Collection[str]) -> frozenset[int]:
        """Return the chunks of these documents, whatever their collection."""
        if not documents:
            return frozenset()
        rows = self._store.connections.db.execute(
            "select c.id from chunks c join documents d on d.id = c.document_id "
            f"where d.name in ({','.join('?' * len(documents))})",
            list(documents),
        )
        return frozenset(row[0] for row in rows.fetchall())

    def _rows(self, chunk_ids: Sequence[int]) -> dict[int, tuple[Any, ...]]:
        rows = self._store.connections.db.execute(
            "select c.id, d.id, d.collection, d.name, d.version, c.title, c.text, c.page, c.start, c.end, c.ordinal "
            f"from chunks c join documents d on d.id = c.document_id where c.id in ({','.join('?' * len(chunk_ids))})",
            list(chunk_ids),
        ).fetchall()
        found = {row[0]: tuple(row) for row in rows}
        return {chunk_id: found[chunk_id] for chunk_id in chunk_ids if chunk_id in found}

    def _reranked(
        self,
        question: str,
        tokens: Vectors | None,
        chunk_ids: Sequence[int],
        rows: dict[int, tuple[Any, ...]],
        weighed: dict[int, float],
    ) -> dict[int, float]:
        """Return the candidates' scores at the second look, best first; none where not all can be looked at."""
        if self._reranker is None:
            if not self._late or tokens is None or self._encoder is None:
                return {}
            kept = self._store.connections.db.execute(
                f"select chunk_id, tokens from vectors where encoder = ? and chunk_id in ({','.join('?' * len(chunk_ids))})",
                [self._encoder.name, *chunk_ids],
            ).fetchall()
            if len(kept) < max(len(chunk_ids), 1):
                return {}
            late = late_interaction(tokens, dict(kept))
            # by itself it is better on some documents and worse on others; with the evidence it is never worse (docs/LOG.md)
            return in_one_measure({chunk_id: weighed[chunk_id] for chunk_id in late}, late)
        scores = self._reranker.score(question, [searchable(str(rows[each][5]), str(rows[each][6])) for each in chunk_ids])
        return dict(sorted(zip(chunk_ids, scores, strict=True), key=lambda item: -item[1]))

    def _hit(self, row: tuple[Any, ...], following: int, scores: dict[str, float]) -> Hit:
        chunk_id, document_id, collection, name, version, title, text, page, start, end, ordinal = row
        if following:
            text, end = self._joined(document_id, ordinal, title, text, end, following)
        coverage = scores.get("coverage", 0.0)
        return Hit(
            chunk_id=chunk_id,
            collection=collection,
            document=name,
            document_version=version,
            title=title,
            text=text,
            score=round((max(scores["dense"], 0.0) + coverage) / 2 if "dense" in scores else coverage, 4),
            page=page,
            start=start,
            end=end,
            scores=scores,
        )

    def _joined(self, document_id: int, ordinal: int, title: str, text: str, end: int, following: int) -> tuple[str, int]:
        """Return a chunk's text and end with the next chunks of its section."""
        rows = self._store.connections.db.execute(
            "select title, text, end from chunks where document_id = ? and ordinal > ? and ordinal <= ? order by ordinal",
            [document_id, ordinal, ordinal + following],
        ).fetchall()
        pieces = [text]
        for next_title, next_text, next_end in rows:
            if next_title != title:
                break
            pieces.append(next_text)
            end = next_end
        return "\n\n".join(pieces), end


def _first(ranking: dict[int, float], left_out: frozenset[int]) -> dict[int, float]:
    """Return the first candidates of a ranking, without those that are left out."""
    return dict([item for item in ranking.items() if item[0] not in left_out][:DEPTH])


def _added(parts: Sequence[dict[int, float]]) -> dict[int, float]:
    """Add the evidence for a question and for what it leaves unsaid; best first."""
    total: defaultdict[int, float] = defaultdict(float)
    for part in parts:
        for chunk_id, score in part.items():
            total[chunk_id] += score
    return dict(sorted(total.items(), key=lambda item: (-item[1], item[0])))


def _scores_of(chunk_id: int, stages: Mapping[str, Mapping[int, float]]) -> dict[str, float]:
    """Return the stages' scores of one chunk, by stage; a stage that did not see it is left out."""
    return {name: round(float(scores[chunk_id]), 4) for name, scores in stages.items() if chunk_id in scores}
