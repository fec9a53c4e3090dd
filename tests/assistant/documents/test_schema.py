"""The schema of documents.db: blank, from the first schema with rows, twice, and failing half-way."""

from __future__ import annotations

from pathlib import Path

import pytest
from sqlite_utils import Database, Migrations
from sqlite_utils.utils import sqlite3

from assistant.documents.schema import document_migrations
from assistant.documents.store import DocumentStore, Known
from assistant.library import Library
from feedback.database import connect

TABLES = {"documents", "versions", "chunks", "vectors", "gone", "folders", "state"}
PAGE = "# Hotels\n\n## Price limit\n\nA room in Eastmere may cost up to 140 euros.\n"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "documents.db"


@pytest.fixture
def first(path: Path) -> Path:
    """A file of the first schema with two documents, of which one has had a second version, and one has two chunks."""
    db = connect(path, [])
    document_migrations.apply(db, stop_before="0002_collections")
    insert = "insert into documents (id, path, title, text, sha256, version, added_at) values (?, ?, ?, ?, ?, ?, ?)"
    db.execute(insert, [3, "travel/hotels.md", "Hotels", PAGE, "a" * 64, 2, "2026-01-01T00:00:00.000Z"])
    db.execute(
        insert, [7, "it/vpn.md", "VPN", "# VPN\n\nCulvert connects.\n\nCall 4120.\n", "b" * 64, 1, "2026-01-02T00:00:00.000Z"]
    )
    insert = "insert into chunks (id, document_id, ordinal, title, text, start, end) values (?, ?, ?, ?, ?, ?, ?)"
    text = "A room in Eastmere may cost up to 140 euros."
    db.execute(insert, [11, 3, 0, "Hotels > Price limit", text, PAGE.index(text), PAGE.index(text) + len(text)])
    db.execute(insert, [12, 7, 0, "VPN", "Culvert connects.", 7, 24])
    db.execute(insert, [13, 7, 1, "VPN", "Call 4120.", 26, 36])
    db.close()
    return path


def ours(db: Database) -> set[str]:
    return {name for name in db.table_names() if not name.startswith(("sqlite_", "_sqlite", "chunks_fts"))}


def contents(db: Database) -> list[tuple[str, list[tuple[object, ...]]]]:
    names = sorted(name for name in db.table_names() if not name.startswith("_sqlite"))
    return [(name, [tuple(row) for row in db.execute(f"select * from [{name}]").fetchall()]) for name in names]


def applied(db: Database) -> list[str]:
    return [migration.name for migration in document_migrations.applied(db)]


def test_a_blank_file_gets_every_table(path: Path) -> None:
    db = connect(path, [document_migrations])
    assert ours(db) == TABLES
    assert db.execute("pragma foreign_key_check").fetchall() == []
    assert db.execute("select value from state where key = 'generation'").fetchone()[0] == 1


def test_documents_of_the_first_schema_survive_with_their_chunks_and_are_found(first: Path) -> None:
    store = DocumentStore(first)
    db = store.connections.db
    assert ours(db) == TABLES
    assert db.execute("pragma foreign_key_check").fetchall() == []
    db.execute("insert into chunks_fts(chunks_fts, rank) values ('integrity-check', 1)")
    assert store.known() == {
        "travel/hotels.md": Known(sha256="a" * 64, version=2, root=""),
        "it/vpn.md": Known(sha256="b" * 64, version=1, root=""),
    }
    page = store.document("travel/hotels.md")
    assert (page.text, page.title, page.version, page.current, page.pages) == (PAGE, "Hotels", 2, True, ())
    rows = db.execute("select id, document_id, ordinal, title, text, start, end, page from chunks order by id").fetchall()
    assert [tuple(row) for row in rows[1:]] == [
        (12, 7, 0, "VPN", "Culvert connects.", 7, 24, None),
        (13, 7, 1, "VPN", "Call 4120.", 26, 36, None),
    ]
    (hit, *_) = Library(first, encoder="none").search("What may a room in Eastmere cost?", limit=3)
    assert (hit.chunk_id, hit.document, hit.document_version) == (11, "travel/hotels.md", 2)
    assert PAGE[hit.start : hit.end] == hit.text


def test_what_follows_on_the_first_schema_goes_on_counting(first: Path) -> None:
    store = DocumentStore(first)
    assert store.put(name="travel/hotels.md", text="# Hotels\n\nA room may cost 155 euros.\n", sha256="c" * 64) == "changed"
    assert store.document("travel/hotels.md").version == 3
    assert store.document("travel/hotels.md", version=2).text == PAGE
    newest = store.connections.db.execute("select min(id) from chunks where text like '%155%'").fetchone()[0]
    assert newest > 13
    assert store.recut() == 1
    assert store.connections.db.execute("select count(*) from chunks where document_id = 7").fetchone()[0] == 1


def test_opening_twice_changes_nothing(first: Path) -> None:
    db = connect(first, [document_migrations])
    before = db.schema, applied(db), contents(db)
    again = connect(first, [document_migrations])
    assert (again.schema, applied(again), contents(again)) == before
    assert applied(again) == ["0001_documents", "0002_collections", "0003_files"]


def test_a_migration_that_fails_half_way_leaves_the_file_as_it_was(first: Path) -> None:
    db = connect(first, [])
    before = db.schema, contents(db)
    # the second migration makes this table last but one: all that it does before must be undone, and the third must not run
    db.execute("create table folders (id integer)")
    spoilt = db.schema, contents(db)
    with pytest.raises(sqlite3.OperationalError, match="folders already exists"):
        connect(first, [document_migrations])
    assert (db.schema, contents(db)) == spoilt
    db.execute("drop table folders")
    assert (db.schema, contents(db)) == before
    assert DocumentStore(first).paths() == ["it/vpn.md", "travel/hotels.md"]


def test_a_failure_after_it_undoes_the_whole_migration(first: Path) -> None:
    db = connect(first, [])
    before = db.schema, contents(db)
    broken = Migrations("documents")
    for migration in document_migrations._migrations:
        broken(name=migration.name)(migration.fn)

    def breaks(db: Database) -> None:
        raise RuntimeError("half-way")

    broken(name="0004_breaks")(breaks)
    with pytest.raises(RuntimeError, match="half-way"):
        connect(first, [broken])
    assert (db.schema, contents(db)) == before
