"""The schema: from nothing, from its first form with rows in it, again, and when a step fails half-way."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from sqlite_utils import Database, Migrations
from sqlite_utils.utils import sqlite3

from feedback.database import connect
from feedback.errors import StoreError
from feedback.migrations import feedback_migrations
from feedback.records import User
from feedback.store import FeedbackStore

TABLES = {"users", "sessions", "conversations", "turns", "answers", "ratings", "corrections", "audit", "open_questions"}


@pytest.fixture
def db(path: Path) -> Iterator[Database]:
    db = connect(path, [feedback_migrations])
    yield db
    db.close()


def ours(db: Database) -> set[str]:
    return {name for name in db.table_names() if not name.startswith(("sqlite_", "_sqlite"))}


def test_a_blank_file_gets_every_table(db: Database) -> None:
    assert ours(db) == TABLES
    assert all(db[name].strict for name in TABLES)
    assert db.execute("PRAGMA foreign_key_check").fetchall() == []


def test_rows_of_the_first_schema_survive(path: Path) -> None:
    db = connect(path, [])
    feedback_migrations.apply(db, stop_before="m0002_turns")
    assert ours(db) == {"users", "sessions"}
    db.execute("INSERT INTO users VALUES ('u1', 'Ada', 'ada', 'admin', 'hash', '2026-01-01T00:00:00.000000+00:00')")
    db.close()
    store = FeedbackStore(path)
    assert ours(store._connections.db) == TABLES
    assert store.users() == [User(id="u1", name="Ada", role="admin", created_at="2026-01-01T00:00:00.000000+00:00")]
    assert store.start_conversation("u1", history=True)


def test_whoever_could_log_in_before_there_were_one_time_passwords_still_can(path: Path) -> None:
    db = connect(path, [])
    feedback_migrations.apply(db, stop_before="m0005_one_time_passwords")
    db.execute("INSERT INTO users VALUES ('u1', 'Ada', 'ada', 'admin', 'hash', '2026-01-01T00:00:00.000000+00:00')")
    db.close()
    store = FeedbackStore(path)
    assert store.user("u1").must_change_password is False
    with pytest.raises(sqlite3.IntegrityError, match="CHECK"):
        store._connections.db.execute("UPDATE users SET must_change_password = 2")


def test_opening_twice_changes_nothing(path: Path, db: Database) -> None:
    before = db.schema, [migration.name for migration in feedback_migrations.applied(db)]
    again = connect(path, [feedback_migrations])
    assert (again.schema, [migration.name for migration in feedback_migrations.applied(again)]) == before


def test_a_migration_that_fails_half_way_leaves_the_file_as_it_was(path: Path, db: Database) -> None:
    schema = db.schema
    broken = Migrations("training")

    def m0001_fine(db: Database) -> None:
        db.execute("CREATE TABLE runs (id TEXT)")

    def m0002_breaks(db: Database) -> None:
        db.execute("CREATE TABLE adapters (id TEXT)")
        db.execute("INSERT INTO users VALUES ('u1', 'Ada', 'ada', 'admin', 'hash', 'now', 0)")
        raise RuntimeError("half-way")

    broken()(m0001_fine)
    broken()(m0002_breaks)
    with pytest.raises(RuntimeError, match="half-way"):
        connect(path, [feedback_migrations, broken])
    assert db.schema == schema
    assert db["users"].count == 0

    mended = Migrations("training")
    mended()(m0001_fine)
    after = connect(path, [feedback_migrations, mended])
    assert ours(after) == TABLES | {"runs"}


def test_a_file_of_a_newer_program_is_refused_by_name(path: Path, db: Database) -> None:
    newer = Migrations("feedback")
    newer(name="m9999_later")(lambda db: db.execute("CREATE TABLE later (id TEXT)"))
    newer.apply(db)
    with pytest.raises(StoreError, match=r"newer Nightschool .*feedback m9999_later.*upgrade"):
        FeedbackStore(path)


def test_processes_that_open_a_new_file_at_once_all_get_the_whole_schema(
    path: Path, start_python: Callable[..., subprocess.Popen[str]]
) -> None:
    code = (
        "import sys, pathlib; from feedback.store import FeedbackStore\n"
        "print('ready', flush=True); sys.stdin.readline()\n"
        "store = FeedbackStore(pathlib.Path(sys.argv[1])); store.audit('test', 'opened', {}); print('done')\n"
    )
    processes = [start_python(code, path) for _ in range(4)]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    results = [process.communicate(timeout=60) for process in processes]
    assert results == [("done\n", "")] * 4
    db = connect(path, [feedback_migrations])
    assert ours(db) == TABLES
    assert len(feedback_migrations.applied(db)) == 6
    assert db["audit"].count == 4


@pytest.mark.parametrize("table", ["turns", "answers", "ratings", "corrections", "audit"])
def test_what_was_said_and_done_cannot_be_updated(
    store: FeedbackStore, ada: User, answered: Callable[..., str], table: str
) -> None:
    turn_id = answered(ada)
    store.rate(turn_id, ada.id, "up")
    store.correct(turn_id, ada.id, "€150")
    store.audit("ada", "tested", {})
    column = "at" if table == "audit" else "created_at"
    with pytest.raises(sqlite3.IntegrityError, match="never changes"):
        store._connections.db.execute(f"UPDATE {table} SET {column} = 'yesterday'")


def test_the_audit_cannot_be_deleted(store: FeedbackStore) -> None:
    store.audit("ada", "tested", {})
    with pytest.raises(sqlite3.IntegrityError, match="never forgets"):
        store._connections.db.execute("DELETE FROM audit")


def test_deleting_a_user_takes_all_that_he_said_with_him(
    store: FeedbackStore, ada: User, ben: User, answered: Callable[..., str]
) -> None:
    for user in (ada, ben):
        turn_id = answered(user)
        store.rate(turn_id, user.id, "up", comment="well said")
        store.correct(turn_id, user.id, "€150")
        store.open_session(user.id)
        with store._connections.write() as db:
            db.execute(
                "INSERT INTO open_questions (turn_id, user_id, note, sent_at) VALUES (?, ?, '', 'now')", [turn_id, user.id]
            )
    with store._connections.write() as db:
        db.execute("DELETE FROM users WHERE id = ?", [ada.id])
    tables = sorted(TABLES - {"audit"})
    assert {name: store._connections.db[name].count for name in tables} == dict.fromkeys(tables, 1)
    assert [rated.user_name for rated in store.rated_turns()] == ["Ben"]
