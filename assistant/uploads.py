"""Files that admins upload: each is kept below the home, so that its document can be read again, and leaves with it."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import threading
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from urllib.parse import quote

from assistant.documents.intake import AddReport, Progress, save_upload
from assistant.library import Library
from feedback.errors import DocumentError

MAX_FOLDER_BYTES = 240
"""The longest name of a folder; most file systems allow 255 bytes."""


class Uploads:
    """The uploaded files of one home, a folder for each collection below `root`. Safe to share between threads."""

    def __init__(self, root: Path, library: Library, *, max_bytes: int) -> None:
        self._root = Path(os.path.realpath(root))
        self._library = library
        self._max_bytes = max_bytes
        self._lock = threading.Lock()

    def recover(self) -> None:
        """Undo what a dead server left half done; for the one server of a home, before it takes in anything."""
        for folder in self._root.glob("*/"):
            _put_back(folder)

    def add(self, files: Sequence[Path], *, collection: str, progress: Progress | None = None) -> AddReport:
        """Keep the files and take them in as documents; the report has a sentence for each that was not.

        A file that cannot be read is not kept, and the one that it was to replace stays. Raises DocumentError for a bad
        name of a collection.
        """
        self._library.add([], collection=collection)  # refuses a bad name before anything is kept
        folder = self._root / folder_name(collection)
        with self._lock, self._settled(folder, collection) as kept:
            unread = self._keep(files, folder, collection, kept)
            report = self._library.add([folder], collection=collection, progress=progress) if kept else AddReport()
        return replace(report, unread=(*unread, *report.unread))

    def removable(self) -> list[tuple[str, str]]:
        """Return the collection and name of each document that is not in a watched folder, where it would come back from."""
        store = self._library.store
        watched = {folder.root for folder in store.watched()}
        return [
            (collection, name)
            for collection in store.collections()
            for name, document in sorted(store.known(collection).items())
            if document.root not in watched
        ]

    def remove(self, name: str, *, collection: str) -> None:
        """Remove a document from the index at once, with its file where it was uploaded. Raises DocumentError."""
        store = self._library.store
        with self._lock:
            document = store.known(collection).get(name)
            if document is None:
                raise DocumentError(f"There is no document {name!r} in the collection {collection!r} any more: reload the page.")
            if document.root in {folder.root for folder in store.watched()}:
                raise DocumentError(f"{name} is in the watched folder {document.root}: delete its file there.")
            folder = self._root / folder_name(collection)
            if document.root in ("", str(folder)):  # "": added by itself before, and uploaded without a change
                try:
                    (folder / name).unlink(missing_ok=True)
                except OSError as error:
                    raise DocumentError(f"The file of {name} cannot be deleted: {error.strerror or error}.") from error
            store.remove([name], collection=collection)

    def _keep(self, files: Sequence[Path], folder: Path, collection: str, kept: set[str]) -> list[str]:
        """Put the files into `folder`, the ones before them aside, and their names into `kept`; returns why others are not."""
        known = self._library.store.known(collection)
        unread: list[str] = []
        for file in files:
            try:
                staged = save_upload(folder / _INCOMING, file.name, file, max_bytes=self._max_bytes)
                name = staged.name
                if name in kept:
                    raise DocumentError(f"{name} was chosen twice: the first one was taken, rename the other.")
                root = known[name].root if name in known else ""
                if root not in ("", str(folder)) and (Path(root) / name).exists():
                    raise DocumentError(
                        f"{name} is in the collection {collection!r} already, from {root}: rename it, or choose another one."
                    )
                if (folder / name).exists():
                    (folder / _BEFORE).mkdir(exist_ok=True)
                    (folder / name).replace(folder / _BEFORE / name)
                kept.add(name)
                save_upload(folder, name, staged, max_bytes=self._max_bytes)
            except DocumentError as error:
                unread.append(str(error))
        return unread

    @contextlib.contextmanager
    def _settled(self, folder: Path, collection: str) -> Iterator[set[str]]:
        """Collect the names of new files; at the end, those that did not become documents go, and what they replaced returns."""
        kept: set[str] = set()
        try:
            yield kept
        finally:
            known = self._library.store.known(collection) if kept else {}
            for name in kept:
                if (folder / name).exists() and name in known and known[name].sha256 == _sha256(folder / name):
                    continue
                (folder / name).unlink(missing_ok=True)
                if (folder / _BEFORE / name).exists():
                    (folder / _BEFORE / name).replace(folder / name)
            for hidden in (_INCOMING, _BEFORE):
                shutil.rmtree(folder / hidden, ignore_errors=True)


def _put_back(folder: Path) -> None:
    """Undo an upload that a dying server left half done: what it was to replace stands again."""
    for file in (folder / _BEFORE).glob("*"):
        file.replace(folder / file.name)
    for hidden in (_INCOMING, _BEFORE):
        shutil.rmtree(folder / hidden, ignore_errors=True)


_INCOMING, _BEFORE = ".incoming", ".before"  # hidden: no document is looked for there


def folder_name(collection: str) -> str:
    """Return the name of a collection as that of a folder; no two collections share one. Raises DocumentError for a long one."""
    name = "".join(mark if mark.isalnum() or mark in "-_ " else quote(mark, safe="").replace(".", "%2E") for mark in collection)
    if len(name.encode()) > MAX_FOLDER_BYTES:
        raise DocumentError(f"The name of the collection {collection!r} is too long for a folder: choose a shorter one.")
    return name


def _sha256(file: Path) -> str:
    with file.open("rb") as source:
        return hashlib.file_digest(source, "sha256").hexdigest()
