"""Documents in: what is new or changed below some paths is read and put into the store, what is gone leaves it."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import tempfile
import unicodedata
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from assistant.documents.leaving import leaving
from assistant.documents.reading import SUFFIXES, Converted, Reader, ReadLimits, unread_reason
from assistant.documents.text import Unsettled
from assistant.documents.walking import Source, find_files
from feedback.errors import DocumentError

if TYPE_CHECKING:
    from assistant.documents.store import DocumentStore, Known

MAX_NAME_BYTES = 200
_UNSAFE = re.compile(r'[<>:"|?*\x00-\x1f\x7f-\x9f\u200b-\u200f\u202a-\u202e\u2066-\u2069\ufeff\ud800-\udfff]')
_RESERVED = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE)

Progress = Callable[[int, int, str], None]
"""Called for each file with how many are done, of how many, and its name."""


@dataclass(frozen=True, kw_only=True)
class AddReport:
    """What an addition did; `unread` has a sentence for each file that was not read, and for each path without files.

    `doubts` has one for each file that was read now, and perhaps not as it was meant.
    """

    added: int = 0
    changed: int = 0
    unchanged: int = 0
    removed: int = 0
    unread: tuple[str, ...] = ()
    doubts: tuple[str, ...] = ()


def add(
    store: DocumentStore,
    reader: Reader,
    paths: Sequence[str | Path],
    *,
    collection: str = "main",
    under: str = "",
    progress: Progress | None = None,
    failed: dict[tuple[str, str], str] | None = None,
) -> AddReport:
    """Bring the documents of a collection up to date with files, folders and globs.

    A file is known by its hash, so one that did not change is not converted; each of the others is a transaction of its own,
    so a second call goes on where the first was ended. Of a file that cannot be read now, what was indexed before stays.
    Documents whose files are gone from what is named are removed (see `leaving`). `under` is put before the names. Raises
    DocumentError for a bad `under`. `failed` remembers what could not be read, by path and hash: it is said, and not tried again.
    """
    prefix = _prefix(under)
    found = find_files(paths)
    known = store.known(collection)
    counts: Counter[str] = Counter()
    unread: list[str] = []
    doubts: list[str] = []
    taken: dict[str, Source] = {}
    for done, source in enumerate(found.sources, 1):
        name = prefix + source.name
        try:
            _take(taken, name, source)
            done_as, doubt = _put(store, _Remembering(reader, failed), source, known, collection=collection, name=name)
            counts[done_as] += 1
            doubts += [doubt] if doubt else []
        except DocumentError as error:
            unread.append(str(error))
        if progress:
            progress(done, len(found.sources), name)
    gone = leaving(found, known, taken, prefix=prefix)
    unread = [*(sentence for sentence in found.sentences if sentence not in gone.settled), *unread, *gone.kept]
    removed = store.remove(gone.names, collection=collection) if gone.names else 0
    return AddReport(
        added=counts["added"],
        changed=counts["changed"],
        unchanged=counts["unchanged"],
        removed=removed,
        unread=tuple(unread),
        doubts=tuple(doubts),
    )


def _prefix(under: str) -> str:
    parts = [part for part in under.replace("\\", "/").split("/") if part]
    if any(part in {".", ".."} or _UNSAFE.search(part) for part in parts):
        raise DocumentError(f"{under!r} cannot stand before the names of documents: use plain words and slashes.")
    return "".join(f"{part}/" for part in parts)


def _take(taken: dict[str, Source], name: str, source: Source) -> None:
    first = taken.setdefault(name, source)
    if first is not source:
        raise DocumentError(f"{source.file} has the name {name} that {first.file} has too: add it under another with --under.")


class _Remembering:
    """A reader that does not try again what it is known to fail on."""

    def __init__(self, reader: Reader, failed: dict[tuple[str, str], str] | None) -> None:
        self.reader = reader
        self._failed = failed

    def read(self, file: Path, *, name: str) -> Converted:
        if self._failed is None:
            return self.reader.read(file, name=name)
        key = (str(file), self.reader.digest(file, name=name))
        if key in self._failed:
            raise DocumentError(self._failed[key])
        try:
            return self.reader.read(file, name=name)
        except DocumentError as error:
            if not isinstance(error.__cause__, OSError | Unsettled):  # these may be otherwise at the next look
                self._failed[key] = str(error)
            raise


def _put(
    store: DocumentStore, remembering: _Remembering, source: Source, known: Mapping[str, Known], *, collection: str, name: str
) -> tuple[str, str]:
    """Take in one file; returns what was done, and a doubt about how it was read."""
    before, reader = known.get(name), remembering.reader
    if (
        before
        and before.root
        and source.root is None
        and Path(before.root, name) != source.file
        and Path(before.root, name).exists()
    ):
        raise DocumentError(
            f"{name} is in the collection {collection!r} already, from {before.root}: add {source.file} with --under FOLDER, "
            "or to another --collection."
        )
    # it was added by itself and is of a folder now, or its path is another, or was not kept when it was added
    moved = before and not before.root and (source.root or before.file != source.named)
    if before and not moved and before.sha256 == reader.digest(source.file, name=name):
        return "unchanged", ""
    page = remembering.read(source.file, name=name)
    done = store.put(
        collection=collection,
        name=name,
        root=str(source.root or ""),
        file=source.named,
        text=page.text,
        pages=page.pages,
        sha256=page.sha256,
    )
    return "unchanged" if before and before.sha256 == page.sha256 else done, page.doubt


def save_upload(folder: Path, name: str, data: Path, *, max_bytes: int = ReadLimits.max_bytes) -> Path:
    """Keep an uploaded file in `folder` under a safe name and return where; a file of the same name is replaced at once.

    Raises DocumentError for a name that nothing is left of, a suffix that is not read, a file that is too large, and a
    folder that takes none.
    """
    safe = _safe_name(name)
    try:
        size = data.stat().st_size
        if size > max_bytes:
            sizes = f"{size / 1e6:,.1f} MB, more than the {max_bytes / 1e6:,.1f} MB"
            raise DocumentError(f"{safe} is {sizes} that are read: split it.")
        folder.mkdir(parents=True, exist_ok=True)
        _replace(folder / safe, data)
    except OSError as error:
        raise DocumentError(f"{safe} cannot be kept: {error.strerror or error}.") from error
    return folder / safe


def _replace(target: Path, data: Path) -> None:
    """Copy `data` into the place of `target`, whole or not at all, and onto the disk."""
    handle, temporary = tempfile.mkstemp(prefix=".upload-", dir=target.parent)
    try:
        with os.fdopen(handle, "wb") as sink, data.open("rb") as source:
            shutil.copyfileobj(source, sink)
            sink.flush()
            os.fsync(sink.fileno())
        Path(temporary).replace(target)
    except BaseException:
        with contextlib.suppress(OSError):
            Path(temporary).unlink()
        raise
    entry = os.open(target.parent, os.O_RDONLY)
    try:
        os.fsync(entry)
    finally:
        os.close(entry)


def _safe_name(name: str) -> str:
    """Return the last part of a name without what no file system, shell or page should meet."""
    last = re.split(r"[/\\]", unicodedata.normalize("NFC", name))[-1]
    plain = " ".join(_UNSAFE.sub("", last).split()).lstrip(". ~$").rstrip(". ")
    stem, dot, suffix = plain.rpartition(".")
    if not stem or f"{dot}{suffix}".lower() not in SUFFIXES:
        raise DocumentError(f"{plain or repr(name)} {unread_reason(f'{dot}{suffix}'.lower() if stem else '')}.")
    if _RESERVED.fullmatch(plain):
        stem = f"_{stem}"
    room = MAX_NAME_BYTES - len(f".{suffix}".encode())
    return f"{stem.encode()[:room].decode(errors='ignore').rstrip()}.{suffix}"
