"""Search by meaning: the index in memory is what the store holds, and it is exact."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from assistant.documents.store import DocumentStore
from assistant.retrieval import vectors
from assistant.retrieval.index import embed_pending
from assistant.retrieval.vectors import VectorIndex

Fill = Callable[..., DocumentStore]


def pages(begin: int, end: int) -> dict[str, str]:
    return {f"{number}.md": f"page{number} topic{number % 7} of part{number % 3}" for number in range(begin, end)}


def stored(store: DocumentStore, collection: str = "") -> dict[int, Any]:
    rows = store.connections.db.execute(
        "select v.chunk_id, v.vector from vectors v join chunks c on c.id = v.chunk_id join documents d on d.id = c.document_id "
        "where ? in ('', d.collection)",
        [collection],
    )
    return {row[0]: np.frombuffer(row[1], "<f2").astype(np.float32) for row in rows.fetchall()}


def check(index: VectorIndex, store: DocumentStore, query: Any, *, collection: str = "", limit: int = 10) -> None:
    """The index gives what a comparison with every vector gives."""
    index.follow(store.connections.db, store.generation())
    expected = {chunk_id: float(vector @ query) for chunk_id, vector in stored(store, collection).items()}
    best = sorted(expected.values(), reverse=True)[:limit]
    found = index.search(query, limit=limit, collection=collection)
    assert list(found.values()) == pytest.approx(best, abs=1e-6)
    assert found == pytest.approx({chunk_id: expected[chunk_id] for chunk_id in found}, abs=1e-6)


def test_it_follows_what_comes_and_goes_and_equals_a_comparison_with_all(fill: Fill, word_encoder: Any) -> None:
    encoder = word_encoder()
    index = VectorIndex(encoder.name)
    query = encoder.encode(["topic3 of part1"], telling=False).whole[0]
    store = fill(pages(0, 40))
    check(index, store, query)
    embed_pending(store, encoder)
    check(index, store, query)
    store.remove([f"{number}.md" for number in range(0, 40, 3)])
    check(index, store, query)
    fill({**pages(40, 60), "1.md": "topic3 of part1"}, collection="main")
    fill(pages(0, 5), collection="other")
    check(index, store, query)
    embed_pending(store, encoder)
    check(index, store, query)
    for collection in ("main", "other", "none"):
        check(index, store, query, collection=collection)
    check(index, store, query, limit=1000)
    store.remove(store.paths("main"))
    store.remove(store.paths("other"), collection="other")
    check(index, store, query)


def test_an_empty_index_finds_nothing(store: DocumentStore, word_encoder: Any) -> None:
    index = VectorIndex("words")
    query = word_encoder().encode(["x"], telling=False).whole[0]
    for _ in range(2):
        assert index.search(query, limit=5, collection="") == {}
        assert index.cosines(query, [1, 2]) == {}
        index.follow(store.connections.db, store.generation())


def test_the_cosine_of_each_chunk_is_told_and_of_one_without_a_vector_not(fill: Fill, word_encoder: Any) -> None:
    encoder = word_encoder()
    store = fill(pages(0, 10))
    embed_pending(store, encoder)
    fill({"late.md": "no vector yet"})
    index = VectorIndex(encoder.name)
    index.follow(store.connections.db, store.generation())
    query = encoder.encode(["page3"], telling=False).whole[0]
    expected = {chunk_id: float(stored(store)[chunk_id] @ query) for chunk_id in (9, 2, 5)}
    assert index.cosines(query, [9, 2, 5, 11, 0, 999]) == pytest.approx(expected, abs=1e-6)
    assert index.cosines(query, []) == {}


def test_vectors_of_another_encoder_are_not_seen(fill: Fill, word_encoder: Any) -> None:
    store = fill(pages(0, 4))
    embed_pending(store, word_encoder("one"))
    index = VectorIndex("two")
    query = word_encoder("two").encode(["page1"], telling=False).whole[0]
    index.follow(store.connections.db, store.generation())
    assert index.search(query, limit=5, collection="") == {}


def test_vectors_that_are_here_are_not_read_again(fill: Fill, word_encoder: Any) -> None:
    encoder = word_encoder()
    store = fill(pages(0, 30))
    embed_pending(store, encoder)
    index = VectorIndex(encoder.name)
    index.follow(store.connections.db, store.generation())
    fill({"new.md": "one more"})
    embed_pending(store, encoder)
    read: list[int] = []

    class Watched:
        """A database that notes which vectors are asked for."""

        def execute(self, sql: str, parameters: list[Any]) -> Any:
            if "select chunk_id, vector" in sql:
                read.extend(parameters)
            return store.connections.db.execute(sql, parameters)

    index.follow(Watched(), store.generation())
    assert read == [31]
    index.follow(Watched(), store.generation())
    assert read == [31]


def test_a_chunk_that_is_removed_while_the_index_follows_is_left_out(fill: Fill, word_encoder: Any) -> None:
    encoder = word_encoder()
    store = fill(pages(0, 6))
    embed_pending(store, encoder)

    class Racing:
        """A database from which another process removes a document between two reads."""

        def execute(self, sql: str, parameters: list[Any]) -> Any:
            if "select chunk_id, vector" in sql:
                store.remove(["2.md"])
            return store.connections.db.execute(sql, parameters)

    index = VectorIndex(encoder.name)
    index.follow(Racing(), store.generation())
    query = encoder.encode(["page2"], telling=False).whole[0]
    assert index.search(query, limit=9, collection="").keys() == {1, 2, 4, 5, 6}
    check(index, store, query)


def test_threads_search_while_the_index_follows(fill: Fill, word_encoder: Any) -> None:
    encoder = word_encoder()
    store = fill(pages(0, 60))
    embed_pending(store, encoder)
    index = VectorIndex(encoder.name)
    query = encoder.encode(["topic3"], telling=False).whole[0]
    stop = threading.Event()
    failures: list[BaseException] = []
    searches = [0, 0, 0]

    def search(number: int) -> None:
        try:
            while not stop.is_set() or not searches[number]:
                index.follow(store.connections.db, store.generation())
                found = index.search(query, limit=20, collection="")
                assert len(found) == 20
                assert list(found.values()) == sorted(found.values(), reverse=True)
                index.cosines(query, found)
                searches[number] += 1
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=search, args=[number]) for number in range(3)]
    for thread in threads:
        thread.start()
    for number in range(30, 50):
        store.remove([f"{number}.md"])
        fill({f"again{number}.md": f"page{number} topic3"})
        embed_pending(store, encoder)
    stop.set()
    for thread in threads:
        thread.join(30)
    assert failures == []
    assert min(searches) > 0
    check(index, store, query)


def test_an_older_generation_takes_nothing_back_and_a_slow_follow_rests(
    fill: Fill, word_encoder: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder = word_encoder()
    store = fill(pages(0, 4))
    embed_pending(store, encoder)
    index, query = VectorIndex(encoder.name), encoder.encode(["page1"], telling=False).whole[0]
    check(index, store, query)
    index.follow(store.connections.db, 0)
    check(index, store, query)
    monkeypatch.setattr(vectors, "REST_FROM", -1.0)  # every follow counts as slow
    monkeypatch.setattr(vectors, "REST_FACTOR", 1e6)
    for begin in (4, 6):
        fill(pages(begin, begin + 2))
        embed_pending(store, encoder)
        index.follow(store.connections.db, store.generation())
    assert len(index.search(query, limit=50, collection="")) == 6, "the last ones are found after the rest"


class Counted(np.ndarray):
    """Vectors that note how many of them are multiplied."""

    rows: list[int]

    def __array_finalize__(self, made_from: Any) -> None:
        self.rows = getattr(made_from, "rows", [])

    def __matmul__(self, query: Any) -> Any:
        self.rows.append(len(self))
        return np.asarray(self) @ query


def test_a_search_of_a_collection_multiplies_no_vectors_but_its_own(fill: Fill, word_encoder: Any) -> None:
    encoder = word_encoder()
    store = fill({})
    for begin in range(0, 60, 6):  # in turns, so that their chunks do not stand together in the store
        fill(pages(begin, begin + 5), collection="main")
        fill(pages(begin + 5, begin + 6), collection="branch")
    embed_pending(store, encoder)
    index = VectorIndex(encoder.name)
    query = encoder.encode(["topic3 of part1"], telling=False).whole[0]
    check(index, store, query)
    index._vectors = counted = index._vectors.view(Counted)
    for collection in ("branch", "main", "", "none"):
        check(index, store, query, collection=collection)
    assert counted.rows == [10, 50, 60]
    assert index.cosines(query, range(70)).keys() == stored(store).keys()
