"""The index of vectors: what was done stays done, and what cannot be done is left out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from assistant.documents.store import DocumentStore
from assistant.retrieval.index import BATCH, embed_pending, pending, searchable
from feedback.errors import ModelError

Fill = Callable[..., DocumentStore]
MANY = {f"{number}.md": f"# Title {number}\n\npage{number} of many" for number in range(BATCH + 30)}


def vectors(store: DocumentStore) -> dict[int, str]:
    rows = store.connections.db.execute("select chunk_id, encoder from vectors order by chunk_id").fetchall()
    return {row[0]: row[1] for row in rows}


def test_every_chunk_gets_its_vector_once_with_its_title_read(fill: Fill, word_encoder: Any) -> None:
    store, encoder = fill(MANY), word_encoder()
    steps: list[tuple[int, int]] = []
    before = store.generation()
    assert embed_pending(store, encoder, progress=lambda done, total: steps.append((done, total))) == len(MANY)
    assert steps == [(BATCH, len(MANY)), (len(MANY), len(MANY))]
    assert sorted(encoder.encoded) == sorted(searchable(f"Title {n}", f"page{n} of many") for n in range(len(MANY)))
    assert store.generation() > before
    assert embed_pending(store, encoder) == 0
    assert pending(store, encoder.name) == []
    assert len(encoder.encoded) == len(MANY)


def test_a_vector_is_kept_as_it_was_made_and_the_signs_of_its_tokens(fill: Fill, word_encoder: Any) -> None:
    store, encoder = fill({"a.md": "# Hotel\n\nroom price"}), word_encoder()
    embed_pending(store, encoder)
    made = encoder.encode(["Hotel\nroom price"], telling=True)
    row = store.connections.db.execute("select vector, tokens from vectors").fetchone()
    assert np.frombuffer(row[0], "<f2") == pytest.approx(made.whole[0], abs=1e-3)
    signs = np.unpackbits(np.frombuffer(row[1], np.uint8)).reshape(3, -1)
    assert (signs == (made.tokens[0] > 0)).all()


def test_what_was_stopped_goes_on_where_it_was(fill: Fill, word_encoder: Any) -> None:
    store, encoder = fill(MANY), word_encoder()
    answers = iter([False, True])
    assert embed_pending(store, encoder, stopped=lambda: next(answers)) == BATCH
    assert len(vectors(store)) == BATCH

    def fails() -> None:
        raise ModelError("Out of memory.")

    encoder.before = fails
    with pytest.raises(ModelError):
        embed_pending(store, encoder)
    encoder.before = lambda: None
    assert embed_pending(store, encoder) == 30
    assert len(encoder.encoded) == len(vectors(store)) == len(MANY)


def test_a_chunk_that_goes_meanwhile_is_left_out(fill: Fill, word_encoder: Any) -> None:
    store, encoder = fill({"a.md": "stays", "b.md": "goes", "c.md": "changes"}), word_encoder()

    def meanwhile() -> None:
        store.remove(["b.md"])
        fill({"c.md": "changed"})

    encoder.before = meanwhile
    embed_pending(store, encoder)
    assert len(vectors(store)) == 1
    encoder.before = lambda: None
    assert embed_pending(store, encoder) == 1
    assert encoder.encoded[-1] == "c\nchanged"
    assert store.connections.db.execute("pragma foreign_key_check").fetchall() == []


def test_chunks_that_are_gone_before_their_batch_are_passed_over(fill: Fill, word_encoder: Any) -> None:
    store, encoder = fill(MANY), word_encoder()

    def progress(done: int, total: int) -> None:
        store.remove(list(MANY)[BATCH:])

    assert embed_pending(store, encoder, progress=progress) == BATCH
    assert len(vectors(store)) == BATCH


def test_vectors_of_another_encoder_are_made_anew(fill: Fill, word_encoder: Any) -> None:
    store = fill({"a.md": "one", "b.md": "two"})
    embed_pending(store, word_encoder("first"))
    before = store.index_hash()
    assert len(pending(store, "second")) == 2
    assert embed_pending(store, word_encoder("second")) == 2
    assert vectors(store) == {1: "second", 2: "second"}
    assert store.index_hash() != before


def test_a_removed_document_takes_its_vectors_along(fill: Fill, word_encoder: Any) -> None:
    store = fill({"a.md": "one", "b.md": "two"})
    embed_pending(store, word_encoder())
    store.remove(["a.md"])
    assert vectors(store) == {2: "words"}
    fill({"a.md": "one"})
    assert pending(store, "words") == [3]  # a number is never given twice
