"""The documents and their index: SQLite with FTS5; everything in it can be built anew from the files.

Retrieval ranks by BM25 over an OR of the quoted terms, the title weighted. The score of a passage is the share of the
question's terms, weighted by their rarity, that its chunk holds: it lies in [0, 1] and means the same for every corpus,
which a raw BM25 value does not. The weight asked for is capped, so that a long question is not refused for its asides.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from sqlite_utils import Database, Migrations

from assistant.documents.chunks import page_title, split_page
from feedback.database import Connections, execute_script
from feedback.errors import DocumentError

SUFFIXES = {".md", ".markdown", ".txt"}
TITLE_WEIGHT = 2.0
MAX_TERMS = 48
FULL_WEIGHT = 25.0
"""Rarity (in nats, summed over terms) that is enough for a score of 1: six to eight rare words."""
_WORD = re.compile(r"[^\W_]+(?:[.,][^\W_]+)*", re.UNICODE)
_STOPWORD_TEXT = """
a about after again all also am an and any are as at be been before being but by can could did do does doing for from get
give had has have how i if in into is it its itself just know let like may me might mine must my need no not now of off on
one or our out please say should so some tell than that the their them then there these they this those to us want was we
were what when where which who whom whose why will with would you your yours
"""
_STOPWORDS = frozenset(_STOPWORD_TEXT.split())


def _m0001_documents(db: Database) -> None:
    """Pages with their chunks; the FTS table indexes the chunks' text and titles with English stemming."""
    execute_script(
        db,
        """
        create table documents (
            id integer primary key,
            path text not null unique,      -- below the folder it was added from, forward slashes
            title text not null,
            text text not null,             -- the page as it was read: passages open at their offsets in it
            sha256 text not null,           -- of the file: an unchanged file is skipped
            version integer not null,       -- counts from 1; a turn names the version that it saw
            added_at text not null default (strftime('%Y-%m-%dT%H:%M:%fZ', 'now'))
        );
        create table chunks (
            id integer primary key,
            document_id integer not null references documents(id) on delete cascade,
            ordinal integer not null,       -- position in the page, from 0
            title text not null,
            text text not null,
            start integer not null,         -- offsets in documents.text
            end integer not null
        );
        create index chunks_by_document on chunks(document_id, ordinal);
        create virtual table chunks_fts using fts5(
            title, text, content='chunks', content_rowid='id', tokenize='porter unicode61'
        );
        create trigger chunks_added after insert on chunks begin
            insert into chunks_fts(rowid, title, text) values (new.id, new.title, new.text);
        end;
        create trigger chunks_removed after delete on chunks begin
            insert into chunks_fts(chunks_fts, rowid, title, text) values ('delete', old.id, old.title, old.text);
        end;
        """,
    )


document_migrations = Migrations("documents")
document_migrations(name="0001_documents")(_m0001_documents)


@dataclass(frozen=True, kw_only=True)
class Hit:
    """A chunk that a search found. `score` is in [0, 1]; `bm25` is FTS5's (smaller is better)."""

    chunk_id: int
    document: str
    document_version: int
    title: str
    text: str
    score: float
    bm25: float


@dataclass(frozen=True, kw_only=True)
class AddReport:
    """What an indexing did; `unread` has a sentence for each file that could not be read."""

    added: int = 0
    changed: int = 0
    unchanged: int = 0
    removed: int = 0
    unread: tuple[str, ...] = field(default=())


def query_terms(question: str) -> list[str]:
    """Return the terms of a question that carry meaning, lower-cased, each once (all of its words when none does)."""
    words = list(dict.fromkeys(word.casefold() for word in _WORD.findall(question)))
    return [word for word in words if word not in _STOPWORDS][:MAX_TERMS] or words[:MAX_TERMS]


def _quoted(term: str) -> str:
    return '"' + term.replace('"', '""') + '"'


def _read(file: Path) -> tuple[str, str]:
    """Return a file's text and hash. Raises DocumentError."""
    try:
        data = file.read_bytes()
    except OSError as error:
        raise DocumentError(f"{file} cannot be read: {error.strerror or error}.") from error
    if b"\0" in data:
        raise DocumentError(f"{file} is not a text file: save it as UTF-8 Markdown or text.")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DocumentError(f"{file} is not UTF-8 (byte {error.start}): save it as UTF-8.") from error
    return text.replace("\r\n", "\n"), hashlib.sha256(data).hexdigest()


class DocumentStore:
    """The documents of one home, and search over them."""

    def __init__(self, path: Path, *, chunk_chars: int = 560) -> None:
        self._connections = Connections(path, [document_migrations])
        self._chunk_chars = chunk_chars

    def add_folder(self, folder: Path) -> AddReport:
        """Make the index hold exactly the readable pages of `folder`; unchanged files are skipped by their hash.

        A file that cannot be read is reported and what was indexed of it before stays. Raises DocumentError for a missing folder.
        """
        if not folder.is_dir():
            raise DocumentError(f"There is no documents folder {folder}: name one with Markdown or text files.")
        files = sorted(file for file in folder.rglob("*") if file.suffix.lower() in SUFFIXES and file.is_file())
        counts = {"added": 0, "changed": 0, "unchanged": 0}
        unread: list[str] = []
        seen: set[str] = set()
        for file in files:
            path = file.relative_to(folder).as_posix()
            seen.add(path)
            try:
                text, digest = _read(file)
            except DocumentError as error:
                unread.append(str(error))
                continue
            counts[self._put(path, text, digest)] += 1
        removed = self.remove(path for path in self.paths() if path not in seen)
        return AddReport(**counts, removed=removed, unread=tuple(unread))

    def _put(self, path: str, text: str, digest: str) -> str:
        with self._connections.write() as db:
            known = db.execute("select id, sha256, version from documents where path = ?", [path]).fetchone()
            if known and known[1] == digest:
                return "unchanged"
            title = page_title(text, Path(path).stem)
            if known:
                db.execute("delete from chunks where document_id = ?", [known[0]])
                db.execute(
                    "update documents set title = ?, text = ?, sha256 = ?, version = version + 1 where id = ?",
                    [title, text, digest, known[0]],
                )
                document_id = known[0]
            else:
                document_id = db.execute(
                    "insert into documents (path, title, text, sha256, version) values (?, ?, ?, ?, 1)",
                    [path, title, text, digest],
                ).lastrowid
            chunks = split_page(text, fallback_title=Path(path).stem, max_chars=self._chunk_chars)
            for ordinal, chunk in enumerate(chunks):
                db.execute(
                    "insert into chunks (document_id, ordinal, title, text, start, end) values (?, ?, ?, ?, ?, ?)",
                    [document_id, ordinal, chunk.title, chunk.text, chunk.start, chunk.end],
                )
            return "changed" if known else "added"

    def remove(self, paths: Iterable[str]) -> int:
        """Remove documents from the index at once; returns how many there were."""
        count = 0
        for path in list(paths):
            with self._connections.write() as db:
                db.execute("delete from chunks where document_id = (select id from documents where path = ?)", [path])
                count += db.execute("delete from documents where path = ?", [path]).rowcount
        return count

    def paths(self) -> list[str]:
        """Return the paths of all documents, sorted."""
        return [row[0] for row in self._connections.db.execute("select path from documents order by path").fetchall()]

    def describe(self) -> list[dict[str, object]]:
        """Return one row a document: path, title, version, chunks, added_at."""
        rows = self._connections.db.execute(
            "select path, title, version, (select count(*) from chunks where document_id = documents.id), added_at "
            "from documents order by path"
        )
        return [dict(zip(("path", "title", "version", "chunks", "added_at"), row, strict=True)) for row in rows.fetchall()]

    def page(self, path: str) -> tuple[str, str, int]:
        """Return title, text and version of a document. Raises DocumentError."""
        row = self._connections.db.execute("select title, text, version from documents where path = ?", [path]).fetchone()
        if row is None:
            raise DocumentError(f"There is no document {path!r}: see `nightschool documents list`.")
        return row[0], row[1], row[2]

    def index_hash(self) -> str:
        """Return a hash of everything that a search can see."""
        digest = hashlib.sha256()
        for row in self._connections.db.execute("select path, sha256, version from documents order by path").fetchall():
            digest.update(repr(tuple(row)).encode())
        return digest.hexdigest()

    def search(self, question: str, *, limit: int, following: int = 0) -> list[Hit]:
        """Return the `limit` best chunks for a question, best first, each joined by `following` chunks of its section."""
        terms = query_terms(question)
        if not terms:
            return []
        db = self._connections.db
        rows = db.execute(
            "select c.id, d.path, d.version, c.title, c.text, bm25(chunks_fts, ?, 1.0) as rank, d.id, c.ordinal "
            "from chunks_fts join chunks c on c.id = chunks_fts.rowid join documents d on d.id = c.document_id "
            "where chunks_fts match ? order by rank limit ?",
            [TITLE_WEIGHT, " OR ".join(_quoted(term) for term in terms), limit],
        ).fetchall()
        scores = self._coverage(terms, [row[0] for row in rows])
        return [
            Hit(
                chunk_id=row[0],
                document=row[1],
                document_version=row[2],
                title=row[3],
                text=self._joined(row[6], row[7], row[3], row[4], following),
                score=round(scores[row[0]], 4),
                bm25=row[5],
            )
            for row in rows
        ]

    def _coverage(self, terms: list[str], chunk_ids: list[int]) -> dict[int, float]:
        """Weigh each term by its rarity and return, for each chunk, the share of the weight asked for that it holds."""
        db = self._connections.db
        total = db.execute("select count(*) from chunks").fetchone()[0]
        held = dict.fromkeys(chunk_ids, 0.0)
        whole = 0.0
        marks = ",".join("?" * len(chunk_ids))
        for term in terms:
            known = db.execute("select count(*) from chunks_fts where chunks_fts match ?", [_quoted(term)]).fetchone()[0]
            weight = math.log(1 + (total - known + 0.5) / (known + 0.5))
            whole += weight
            if known and chunk_ids:
                having = db.execute(
                    f"select rowid from chunks_fts where chunks_fts match ? and rowid in ({marks})", [_quoted(term), *chunk_ids]
                )
                for (chunk_id,) in having.fetchall():
                    held[chunk_id] += weight
        enough = min(whole, FULL_WEIGHT)
        return {chunk_id: min(1.0, value / enough) if enough else 0.0 for chunk_id, value in held.items()}

    def _joined(self, document_id: int, ordinal: int, title: str, text: str, following: int) -> str:
        if not following:
            return text
        rows = self._connections.db.execute(
            "select title, text from chunks where document_id = ? and ordinal > ? and ordinal <= ? order by ordinal",
            [document_id, ordinal, ordinal + following],
        ).fetchall()
        pieces = [text]
        for next_title, next_text in rows:
            if next_title != title:
                break
            pieces.append(next_text)
        return "\n\n".join(pieces)
