"""The library of a home: documents go in, are cut and encoded, and passages come out."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from urllib.parse import unquote

from assistant.documents.chunks import Splitter
from assistant.documents.intake import AddReport, Progress, add
from assistant.documents.reading import Reader, ReadLimits
from assistant.documents.store import DEFAULT_TOKENS, MAIN, DocumentStore, WatchedFolder
from assistant.retrieval.encoder import fitting, load_tokenizer, measure_of, open_encoder
from assistant.retrieval.index import embed_pending, pending
from assistant.retrieval.lines import Excerpt, LineReader
from assistant.retrieval.reranker import LATE, open_reranker
from assistant.retrieval.search import Retriever
from feedback.errors import DocumentError, ModelError
from feedback.records import Passage


class Library:
    """The documents of one home, and search over them. Opening one loads no model."""

    def __init__(
        self,
        path: Path,
        *,
        encoder: str,
        reranker: str = LATE,
        chunk_tokens: int = DEFAULT_TOKENS,
        limits: ReadLimits | None = None,
    ) -> None:
        tokenizer = load_tokenizer(encoder)
        splitter = Splitter(fitting(encoder, chunk_tokens), tokenizer, measure_of(encoder, tokenizer))
        self.store = DocumentStore(path, split=splitter, chunking=splitter.name)
        self.encoder = open_encoder(encoder)
        self.search = Retriever(self.store, self.encoder, open_reranker(reranker), late=reranker == LATE).search
        self._line_reader = LineReader(self.encoder) if self.encoder else None
        self._limits = limits or ReadLimits()
        self._indexing = threading.Lock()
        self._failed: dict[tuple[str, str], str] = {}  # files that could not be read, by path and hash: not tried again
        self.unread: tuple[str, ...] = ()  # sentences of the last look at the watched folders

    def add(
        self,
        paths: Sequence[str | Path],
        *,
        collection: str = MAIN,
        under: str = "",
        progress: Progress | None = None,
        failed: dict[tuple[str, str], str] | None = None,
    ) -> AddReport:
        """Bring the documents up to date with files, folders and globs; they can be found by their words at once.

        `failed` remembers what could not be read, by path and hash, so that the next call with it does not try again.
        Raises DocumentError for a bad name of a collection, or a bad `under`.
        """
        if not collection.strip() or not collection.isprintable() or len(collection) > 80:
            raise DocumentError(f"{collection!r} cannot name a collection: use up to 80 plain characters.")
        with Reader(self._limits) as reader:
            return add(self.store, reader, paths, collection=collection, under=under, progress=progress, failed=failed)

    def add_folder(self, folder: Path, *, collection: str = MAIN) -> AddReport:
        """Bring the documents up to date with one folder, and encode them. Raises DocumentError for a missing folder."""
        if not folder.is_dir():
            raise DocumentError(f"There is no documents folder {folder}: name one that holds documents.")
        report = self.add([folder], collection=collection)
        self.index()
        return report

    def follow_setting(self, folder: Path) -> AddReport:
        """Bring the documents up to date with the folder that the settings name; those of the one named before go.

        Raises DocumentError for a missing folder.
        """
        self.name_setting(folder)
        return self.add([folder.expanduser().resolve()])

    def name_setting(self, folder: Path) -> None:
        """Watch the folder that the settings name; the documents of the one named before go. Nothing is read yet.

        Raises DocumentError for a missing folder.
        """
        if not folder.expanduser().is_dir():
            raise DocumentError(f"There is no documents folder {folder}: set documents.folder to one that holds documents.")
        root = str(folder.expanduser().resolve())
        for before in self.store.watched():
            if before.by_setting and before.root != root:
                gone = [name for name, known in self.store.known(before.collection).items() if known.root == before.root]
                self.store.remove(gone, collection=before.collection)
                self.store.unwatch(before.root)
        self.store.watch(WatchedFolder(root=root, by_setting=True))

    def forget_setting(self) -> None:
        """Stop watching the folder that the settings named before; its documents stay."""
        for before in self.store.watched():
            if before.by_setting:
                self.store.unwatch(before.root)

    def check_collection(self, name: str) -> None:
        """Raise DocumentError for a collection to search that holds nothing; "" is all of them."""
        known = self.store.collections()
        if name and name not in known:
            raise DocumentError(f"There is no collection {name!r}: choose from {', '.join(known) or 'none yet'}.")

    def refresh(self, uploads: Path | None = None) -> AddReport:
        """Look again at the watched folders and the uploads; a folder that is not there now keeps its documents, and is said.

        `uploads` holds a folder for each collection, named as the collection quoted for a file system.
        """
        reports = [
            self.add([folder.root], collection=folder.collection, under=folder.under, failed=self._failed)
            for folder in self.store.watched()
        ]
        for kept in sorted(uploads.glob("*/")) if uploads else []:
            reports.append(self.add([kept], collection=unquote(kept.name), failed=self._failed))
        report = AddReport(
            added=sum(each.added for each in reports),
            changed=sum(each.changed for each in reports),
            unchanged=sum(each.unchanged for each in reports),
            removed=sum(each.removed for each in reports),
            unread=tuple(sentence for each in reports for sentence in each.unread),
            doubts=tuple(sentence for each in reports for sentence in each.doubts),
        )
        self.unread = report.unread
        return report

    def index(self, *, progress: Callable[[int, int], None] | None = None, stopped: Callable[[], bool] | None = None) -> int:
        """Cut anew what was cut in another way, and encode what has no vector; returns how many chunks were encoded.

        Raises ModelError when the encoder cannot be loaded.
        """
        with self._indexing:
            self.store.recut()
            return embed_pending(self.store, self.encoder, progress=progress, stopped=stopped) if self.encoder else 0

    def focused(self, passages: Sequence[Passage], question: str, lines: int) -> tuple[Passage, ...]:
        """Return the passages that hold the `lines` lines closest to the question, best line first, with these as their excerpts.

        They are numbered anew. How close each one's best line comes is added to its scores ("line"). 0 lines, no encoder, and
        passages that were found without one (it cannot be loaded, or has not come to them yet) leave all passages, whole.
        """
        if lines and self._line_reader is not None and any("dense" in each.scores for each in passages):
            parts = [(each.title, each.text, each.score) for each in passages]
            with contextlib.suppress(ModelError):
                read = self._line_reader.closest(question, parts, most=lines)
                kept = [(each, excerpt) for each, excerpt in zip(passages, read, strict=True) if excerpt is not None]
                kept.sort(key=lambda pair: -pair[1].rank)
                return tuple(_excerpted(number, *pair) for number, pair in enumerate(kept, start=1))
        return tuple(passages)

    def waiting(self) -> int:
        """Return how many chunks have no vector yet: they are found by their words alone."""
        return len(pending(self.store, self.encoder.name)) if self.encoder else 0

    def warm(self) -> str:
        """Load the encoder, so that the first question does not wait for it; returns a sentence when it cannot be loaded."""
        try:
            if self.encoder is not None:
                self.encoder.encode(["warm"], telling=False)
        except ModelError as error:
            return str(error)
        return ""


def _excerpted(number: int, passage: Passage, excerpt: Excerpt) -> Passage:
    """Return a passage with what is read of it; "" stands for the whole."""
    scores = {**passage.scores, "line": round(excerpt.near, 4)}
    return replace(passage, number=number, excerpt=excerpt.text if excerpt.text != passage.text else "", scores=scores)
