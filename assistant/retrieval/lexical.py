"""Search by words: BM25 of SQLite's FTS5 over an OR of the question's quoted terms, and how much of a question a chunk holds."""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Sequence
from typing import Any

TITLE_WEIGHT = 2.0
MAX_TERMS = 48
COMMON_SHARE = 0.2
"""In a large index, a term that more than this share of the chunks holds is not searched for: it costs most and tells least."""
LARGE = 50_000
"""Chunks from which an index is large."""
FULL_WEIGHT = 25.0
"""Rarity (in nats, summed over terms) that is enough for a coverage of 1: six to eight rare words."""
_WORD = re.compile(r"[^\W_]+(?:[.,][^\W_]+)*", re.UNICODE)
_STOPWORD_TEXT = """
a about after again all also am an and any are as at be been before being but by can could did do does doing for from get
give had has have how i if in into is it its itself just know let like may me might mine must my need no not now of off on
one or our out please say should so some tell than that the their them then there these they this those to us want was we
were what when where which who whom whose why will with would you your yours
"""
STOPWORDS = frozenset(_STOPWORD_TEXT.split())


def query_terms(question: str) -> list[str]:
    """Return the terms of a question that carry meaning, lower-cased, each once (all of its words when none does)."""
    words = list(dict.fromkeys(word.casefold() for word in _WORD.findall(question)))
    return [word for word in words if word not in STOPWORDS][:MAX_TERMS] or words[:MAX_TERMS]


def quoted(term: str) -> str:
    """Return a term as FTS5 takes it, whatever is in it."""
    return '"' + term.replace('"', '""') + '"'


class LexicalIndex:
    """The words of one documents.db. Not shared between threads longer than a query: the connection is the thread's own."""

    def __init__(self, db: Any, *, generation: int, frequencies: dict[tuple[int, str], int]) -> None:
        self._db = db
        self._generation = generation
        self._frequencies = frequencies

    def size(self) -> int:
        """Return the number of chunks."""
        return self._count("", "select count(*) from chunks", [])

    def frequency(self, term: str) -> int:
        """Return how many chunks hold a term, in any of its forms."""
        return self._count(term, "select count(*) from chunks_fts where chunks_fts match ?", [quoted(term)])

    def search(self, terms: Sequence[str], *, limit: int, collection: str) -> dict[int, float]:
        """Return the `limit` best chunks with their BM25 (larger is better), best first."""
        wanted = self._telling(terms)
        if not wanted:
            return {}
        only = (
            "and rowid in (select c.id from chunks c join documents d on d.id = c.document_id where d.collection = ?) "
            if collection
            else ""
        )
        rows = self._db.execute(
            f"select rowid, -bm25(chunks_fts, ?, 1.0) as score from chunks_fts where chunks_fts match ? {only}"
            "order by score desc limit ?",
            [TITLE_WEIGHT, " OR ".join(map(quoted, wanted)), *([collection] if collection else []), limit],
        ).fetchall()
        return {row[0]: row[1] for row in rows}

    def coverage(self, terms: Sequence[str], chunk_ids: Collection[int]) -> dict[int, float]:
        """Return the share of the question's weight that each chunk holds, in [0, 1]; a term weighs its rarity.

        It means the same for every corpus, which a raw BM25 value does not. The weight asked for is capped, so that a long
        question is not refused for its asides.
        """
        total = self.size()
        held = dict.fromkeys(chunk_ids, 0.0)
        whole = 0.0
        marks = ",".join("?" * len(chunk_ids))
        for term in terms:
            known = self.frequency(term)
            weight = math.log(1 + (total - known + 0.5) / (known + 0.5))
            whole += weight
            if known and chunk_ids:
                having = self._db.execute(
                    f"select rowid from chunks_fts where chunks_fts match ? and rowid in ({marks})", [quoted(term), *chunk_ids]
                )
                for (chunk_id,) in having.fetchall():
                    held[chunk_id] += weight
        enough = min(whole, FULL_WEIGHT)
        return {chunk_id: min(1.0, value / enough) if enough else 0.0 for chunk_id, value in held.items()}

    def _telling(self, terms: Sequence[str]) -> list[str]:
        total = self.size()
        if total < LARGE:
            return list(terms)
        return [term for term in terms if self.frequency(term) <= COMMON_SHARE * total] or list(terms)

    def _count(self, term: str, sql: str, parameters: list[str]) -> int:
        key = (self._generation, term)
        known = self._frequencies.get(key)
        if known is None:
            if len(self._frequencies) > 20_000:
                self._frequencies.clear()
            self._frequencies[key] = known = int(self._db.execute(sql, parameters).fetchone()[0])
        return known
