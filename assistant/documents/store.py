"""The documents of one home with their versions and chunks, in one SQLite file; everything in it can be built anew.

What a search reads of it is in `assistant.retrieval`. Every change of what a search can see counts `generation` on, so that
what is kept in memory knows when to look again.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from sqlite_utils import Database

from assistant.documents.chunks import Split, Splitter, page_title
from assistant.documents.schema import document_migrations
from feedback.database import Connections
from feedback.errors import DocumentError
from feedback.part import storable, timestamp, utc_now

MAIN = "main"
"""The collection of documents that were added without naming one."""
DEFAULT_TOKENS = 140


@dataclass(frozen=True, kw_only=True)
class Known:
    """What is known of a document: the hash of its file, its version, and the folder that it was added from.

    `file` is the whole path of one that was added by itself; "" for the others, and where it was not kept.
    """

    sha256: str
    version: int
    root: str
    file: str = ""


@dataclass(frozen=True, kw_only=True)
class Document:
    """One version of a document. `pages` are the offsets in `text` at which page 1, 2, ... begins; `current`: the newest."""

    collection: str
    name: str
    title: str
    text: str
    version: int
    current: bool
    pages: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class WatchedFolder:
    """A folder that is looked at again by schedule."""

    root: str
    collection: str = MAIN
    under: str = ""
    by_setting: bool = False  # it is documents.folder, not one that a person added


def _now() -> str:
    return timestamp(utc_now())


class DocumentStore:
    """The documents of one home. `split` cuts them into chunks; `chunking` names how, so that a change of it is noticed."""

    def __init__(self, path: Path, *, split: Split | None = None, chunking: str = "") -> None:
        if split is None:
            split = splitter = Splitter(DEFAULT_TOKENS)
            chunking = splitter.name
        self.connections = Connections(path, [document_migrations])
        self._split = split
        self._chunking = chunking

    def known(self, collection: str = MAIN) -> dict[str, Known]:
        """Return what is known of each document of a collection, by name."""
        rows = self.connections.db.execute(
            "select name, sha256, version, root, file from documents where collection = ?", [collection]
        ).fetchall()
        return {row[0]: Known(sha256=row[1], version=row[2], root=row[3], file=row[4]) for row in rows}

    def put(
        self,
        *,
        collection: str = MAIN,
        name: str,
        root: str = "",
        file: str = "",
        text: str,
        pages: Sequence[int] = (),
        sha256: str,
    ) -> Literal["added", "changed"]:
        """Take in a document, or its next version, in one transaction; `file` is the path of one without a folder (`root`).

        Raises DocumentError when a document of another folder has this name, and is still there.
        """
        text = storable(text)
        title = page_title(text, Path(name).stem)
        chunks = self._split(text, fallback_title=Path(name).stem, pages=pages)
        now = _now()
        with self.connections.write() as db:
            row = db.execute(
                "select id, version, root, sha256 from documents where collection = ? and name = ?", [collection, name]
            ).fetchone()
            if row and row[2] and root and row[2] != root and _is_below(row[2], name):
                raise DocumentError(
                    f"{name} is in the collection {collection!r} already, from {row[2]}: add this one with --under FOLDER, "
                    "or to another --collection."
                )
            if row:
                document_id, version = row[0], row[1] + (row[3] != sha256)
                db.execute("delete from chunks where document_id = ?", [document_id])
                root = root or row[2]
                db.execute(
                    "update documents set title = ?, sha256 = ?, chunking = ?, version = ?, root = ?, file = ?, added_at = ? "
                    "where id = ?",
                    [title, sha256, self._chunking, version, root, "" if root else file, now, document_id],
                )
            else:
                gone = db.execute("select version from gone where collection = ? and name = ?", [collection, name]).fetchone()
                version = gone[0] + 1 if gone else 1
                document_id = db.execute(
                    "insert into documents (collection, name, root, file, title, sha256, chunking, version, added_at) "
                    "values (?, ?, ?, ?, ?, ?, ?, ?, ?)",
                    [collection, name, root, "" if root else file, title, sha256, self._chunking, version, now],
                ).lastrowid
            db.execute(
                "insert or replace into versions (document_id, version, title, text, pages, added_at) values (?, ?, ?, ?, ?, ?)",
                [document_id, version, title, text, json.dumps(list(pages)), now],
            )
            _insert_chunks(db, document_id, chunks)
            _changed(db)
        return "changed" if row else "added"

    def recut(self) -> int:
        """Cut the documents anew that were cut in another way, from their kept text; returns how many there were."""
        rows = self.connections.db.execute(
            "select id, name, version from documents where chunking <> ?", [self._chunking]
        ).fetchall()
        return sum(self._recut(*row) for row in rows)

    def _recut(self, document_id: int, name: str, version: int) -> bool:
        """Cut one document anew, unless another process has changed or removed it meanwhile."""
        row = self.connections.db.execute(
            "select text, pages from versions where document_id = ? and version = ?", [document_id, version]
        ).fetchone()
        if row is None:
            return False
        chunks = self._split(row[0], fallback_title=Path(name).stem, pages=json.loads(row[1]))
        with self.connections.write() as db:
            still = db.execute("select 1 from documents where id = ? and version = ?", [document_id, version]).fetchone()
            if still is None:
                return False
            db.execute("delete from chunks where document_id = ?", [document_id])
            _insert_chunks(db, document_id, chunks)
            db.execute("update documents set chunking = ? where id = ?", [self._chunking, document_id])
            _changed(db)
        return True

    def remove(self, names: Iterable[str], *, collection: str = MAIN) -> int:
        """Remove documents with all their versions from the index at once; returns how many there were."""
        count = 0
        for name in list(names):
            with self.connections.write() as db:
                row = db.execute(
                    "select id, version from documents where collection = ? and name = ?", [collection, name]
                ).fetchone()
                if row is None:
                    continue
                # chunks first and by themselves: a cascade would not fire the trigger that keeps the words in step
                db.execute("delete from chunks where document_id = ?", [row[0]])
                db.execute("delete from documents where id = ?", [row[0]])
                db.execute("insert or replace into gone (collection, name, version) values (?, ?, ?)", [collection, name, row[1]])
                _changed(db)
                count += 1
        return count

    def paths(self, collection: str = "") -> list[str]:
        """Return the names of all documents (of a collection, when one is named), sorted."""
        rows = self.connections.db.execute(
            "select name from documents where ? in ('', collection) order by name", [collection]
        ).fetchall()
        return [row[0] for row in rows]

    def collections(self) -> dict[str, int]:
        """Return the number of documents of each collection, by name."""
        rows = self.connections.db.execute("select collection, count(*) from documents group by collection order by collection")
        return dict(rows.fetchall())

    def describe(self, collection: str = "") -> list[dict[str, object]]:
        """Return one row a document: collection, path, title, version, chunks, added_at."""
        rows = self.connections.db.execute(
            "select collection, name, title, version, (select count(*) from chunks where document_id = documents.id), added_at "
            "from documents where ? in ('', collection) order by collection, name",
            [collection],
        )
        names = ("collection", "path", "title", "version", "chunks", "added_at")
        return [dict(zip(names, row, strict=True)) for row in rows.fetchall()]

    def document(self, name: str, *, collection: str = MAIN, version: int | None = None) -> Document:
        """Return a document in its current version, or in `version` where that is kept. Raises DocumentError."""
        row = self.connections.db.execute(
            "select d.collection, d.name, v.title, v.text, v.version, v.version = d.version, v.pages from documents d "
            "join versions v on v.document_id = d.id and v.version in (?, d.version) where d.collection = ? and d.name = ? "
            "order by v.version = ? desc limit 1",
            [version, collection, name, version],
        ).fetchone()
        if row is None:
            raise DocumentError(
                f"There is no document {name!r} in the collection {collection!r}: see `nightschool documents list`."
            )
        return Document(
            collection=row[0],
            name=row[1],
            title=row[2],
            text=row[3],
            version=row[4],
            current=bool(row[5]),
            pages=tuple(json.loads(row[6])),
        )

    def current_text(self, collection: str, name: str) -> str | None:
        """Return the text of a document as it stands now, None when there is none."""
        row = self.connections.db.execute(
            "select v.text from documents d join versions v on v.document_id = d.id and v.version = d.version "
            "where d.collection = ? and d.name = ?",
            [collection, name],
        ).fetchone()
        return None if row is None else str(row[0])

    def watch(self, folder: WatchedFolder) -> None:
        """Remember to look at a folder again by schedule."""
        with self.connections.write() as db:
            db.execute(
                "insert or replace into folders (root, collection, under, by_setting, added_at) values (?, ?, ?, ?, ?)",
                [folder.root, folder.collection, folder.under, int(folder.by_setting), _now()],
            )

    def unwatch(self, root: str) -> bool:
        """Forget a watched folder; its documents stay. Says whether it was watched."""
        with self.connections.write() as db:
            return bool(db.execute("delete from folders where root = ?", [root]).rowcount)

    def watched(self) -> list[WatchedFolder]:
        """Return the watched folders."""
        rows = self.connections.db.execute(
            "select root, collection, under, by_setting from folders order by root, collection"
        ).fetchall()
        return [WatchedFolder(root=row[0], collection=row[1], under=row[2], by_setting=bool(row[3])) for row in rows]

    def generation(self) -> int:
        """Return a number that grows with every change of what a search can see."""
        return int(self.connections.db.execute("select value from state where key = 'generation'").fetchone()[0])

    def size(self) -> int:
        """Return the size of the index on disk, in bytes."""
        pages, page_size = (self.connections.db.execute(f"pragma {name}").fetchone()[0] for name in ("page_count", "page_size"))
        return int(pages) * int(page_size)

    def index_hash(self) -> str:
        """Return a hash of everything that a search can see."""
        digest = hashlib.sha256()
        rows = self.connections.db.execute(
            "select collection, name, sha256, version, chunking from documents order by collection, name"
        )
        for row in rows.fetchall():
            digest.update(repr(tuple(row)).encode())
        digest.update(
            repr(self.connections.db.execute("select encoder, count(*) from vectors group by encoder").fetchall()).encode()
        )
        return digest.hexdigest()


def _is_below(root: str, name: str) -> bool:
    """Say whether a folder still holds the file of a document; what `--under` put before its name is not in the folder."""
    parts = name.split("/")
    try:
        return any(Path(root, *parts[at:]).exists() for at in range(len(parts)))
    except OSError:  # what is not to be seen is not gone
        return True


def _insert_chunks(db: Database, document_id: int, chunks: Sequence[Any]) -> None:
    for ordinal, chunk in enumerate(chunks):
        db.execute(
            "insert into chunks (document_id, ordinal, title, text, start, end, page) values (?, ?, ?, ?, ?, ?, ?)",
            [document_id, ordinal, chunk.title, chunk.text, chunk.start, chunk.end, chunk.page],
        )


def _changed(db: Database) -> None:
    db.execute("update state set value = value + 1 where key = 'generation'")
