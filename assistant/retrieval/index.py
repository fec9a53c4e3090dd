"""Gives every chunk its vector, batch by batch: what was done stays done, whatever stops it."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from assistant.documents.store import DocumentStore
from assistant.retrieval.encoder import Encoded, Encoder

BATCH = 128


def pending(store: DocumentStore, encoder: str) -> list[int]:
    """Return the chunks that have no vector of this encoder."""
    rows = store.connections.db.execute(
        "select c.id from chunks c left join vectors v on v.chunk_id = c.id and v.encoder = ? "
        "where v.chunk_id is null order by c.id",
        [encoder],
    )
    return [row[0] for row in rows.fetchall()]


def embed_pending(
    store: DocumentStore,
    encoder: Encoder,
    *,
    progress: Callable[[int, int], None] | None = None,
    stopped: Callable[[], bool] | None = None,
) -> int:
    """Encode the chunks that have no vector, in transactions of some seconds; returns how many were encoded.

    Several processes may do so at once: the same work twice is harmless. A chunk that goes away meanwhile is left out.
    """
    waiting = pending(store, encoder.name)
    done = 0
    for begin in range(0, len(waiting), BATCH):
        if stopped is not None and stopped():
            break
        part = waiting[begin : begin + BATCH]
        rows = store.connections.db.execute(
            f"select id, title, text from chunks where id in ({','.join('?' * len(part))})", part
        ).fetchall()
        encoded = encoder.encode([searchable(title, text) for _, title, text in rows], telling=True)
        _write(store, encoder.name, [row[0] for row in rows], encoded)
        done += len(rows)
        if progress is not None:
            progress(min(begin + BATCH, len(waiting)), len(waiting))
    return done


def searchable(title: str, text: str) -> str:
    """Return what is encoded of a chunk: its heading path stands for what the text takes for granted."""
    return f"{title}\n{text}"


def _write(store: DocumentStore, encoder: str, chunk_ids: Sequence[int], encoded: Encoded) -> None:
    with store.connections.write() as db:
        for chunk_id, vector, tokens in zip(chunk_ids, encoded.whole, encoded.tokens, strict=True):
            db.execute(
                "insert or replace into vectors (chunk_id, encoder, vector, tokens) select id, ?, ?, ? from chunks where id = ?",
                [encoder, np.asarray(vector, "<f2").tobytes(), np.packbits(tokens > 0, axis=1).tobytes(), chunk_id],
            )
        db.execute("update state set value = value + 1 where key = 'generation'")
