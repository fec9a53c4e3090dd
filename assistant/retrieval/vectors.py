"""Search by meaning: the chunks' vectors in memory, and the nearest ones to a question by one matrix product.

Exact search: 10,000 vectors of 384 take 4 ms on two cores (docs/LOG.md).
"""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from assistant.retrieval.encoder import Vectors

REST_FROM, REST_FACTOR = 0.1, 10
"""A follow that took longer than this many seconds is repeated after ten times as long at the earliest."""


class VectorIndex:
    """The vectors of one encoder, kept in step with the store by its generation. Safe to share between threads.

    Those of a collection lie together, so that a search of it multiplies no others.
    """

    def __init__(self, encoder: str) -> None:
        self._encoder = encoder
        self._lock = threading.Lock()
        self._generation = -1
        self._rests = 0.0  # until when it does not follow
        self._ids: npt.NDArray[np.int64] = np.zeros(0, np.int64)
        self._by_id: npt.NDArray[np.int64] = np.zeros(0, np.int64)  # places in the order of the ids
        self._parts: dict[str, slice] = {}  # places of each collection
        self._vectors: Vectors = np.zeros((0, 0), np.float32)

    def follow(self, db: Any, generation: int) -> None:
        """Take over what changed since the last call: vectors already here are not read again.

        In a large index that changes all the time a follow costs, so it rests: what is new is found a little later.
        """
        with self._lock:
            started = time.monotonic()
            if generation <= self._generation or started < self._rests:
                return
            rows = db.execute(
                "select v.chunk_id, d.collection from vectors v join chunks c on c.id = v.chunk_id "
                "join documents d on d.id = c.document_id where v.encoder = ? order by d.collection, v.chunk_id",
                [self._encoder],
            ).fetchall()
            ids = np.array([row[0] for row in rows], np.int64)
            if not np.array_equal(ids, self._ids):
                here = np.isin(ids, self._ids, assume_unique=True)
                loaded = dict(_read(db, ids[~here].tolist()))
                there = here | np.array([chunk_id in loaded for chunk_id in ids.tolist()], bool)
                ids, here = ids[there], here[there]  # another process may have removed some since
                width = len(next(iter(loaded.values()))) if loaded else self._vectors.shape[1]
                vectors = np.zeros((len(ids), width), np.float32)
                if here.any():
                    vectors[here] = self._vectors[self._places(ids[here])]
                for place in np.flatnonzero(~here):
                    vectors[place] = loaded[int(ids[place])]
                self._ids, self._by_id, self._vectors = ids, np.argsort(ids), vectors
                rows = [row for row, kept in zip(rows, there, strict=True) if kept]
            self._parts = _parts([row[1] for row in rows])
            self._generation = generation
            took = time.monotonic() - started
            self._rests = started + REST_FACTOR * took if took > REST_FROM else 0.0

    def search(self, query: Vectors, *, limit: int, collection: str) -> dict[int, float]:
        """Return the `limit` nearest chunks with their cosine, nearest first."""
        with self._lock:
            part = self._parts.get(collection, slice(0)) if collection else slice(None)
            ids, vectors = self._ids[part], self._vectors[part]
        if not len(ids):
            return {}
        scores = vectors @ query
        most = min(limit, len(ids))
        best = np.argpartition(-scores, most - 1)[:most]
        best = best[np.argsort(-scores[best], kind="stable")]
        return {int(ids[place]): float(scores[place]) for place in best}

    def cosines(self, query: Vectors, chunk_ids: Iterable[int]) -> dict[int, float]:
        """Return the cosine of each of these chunks; those without a vector are left out."""
        with self._lock:
            wanted = np.array(sorted(chunk_ids), np.int64)
            places = self._places(wanted)
            there = self._ids[places] == wanted if len(self._ids) else np.zeros(len(wanted), bool)
            scores = self._vectors[places[there]] @ query if len(self._ids) else np.zeros(0)
        return {int(chunk_id): float(score) for chunk_id, score in zip(wanted[there], scores, strict=True)}

    def _places(self, ids: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """Return the place of each of these chunks; any place for one that is not here."""
        if not len(self._ids):
            return np.zeros(len(ids), np.int64)
        found = np.searchsorted(self._ids, ids, sorter=self._by_id)
        return self._by_id[np.minimum(found, len(self._ids) - 1)]


def _parts(collections: Sequence[str]) -> dict[str, slice]:
    """Return where each collection begins and ends in a list where equal ones stand together."""
    parts: dict[str, slice] = {}
    begin = 0
    for name, group in itertools.groupby(collections):
        end = begin + sum(1 for _ in group)
        parts[name] = slice(begin, end)
        begin = end
    return parts


def _read(db: Any, chunk_ids: list[int]) -> Iterable[tuple[int, Vectors]]:
    for begin in range(0, len(chunk_ids), 500):
        part = chunk_ids[begin : begin + 500]
        rows = db.execute(f"select chunk_id, vector from vectors where chunk_id in ({','.join('?' * len(part))})", part)
        for chunk_id, blob in rows.fetchall():
            yield int(chunk_id), np.frombuffer(blob, "<f2").astype(np.float32)
