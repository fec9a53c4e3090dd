"""Opening the file safely, writing in short transactions, and saying what is wrong with it."""

from __future__ import annotations

import gc
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from sqlite_utils import Database
from sqlite_utils.utils import sqlite3

from feedback.database import MINIMUM_SQLITE, Connections, connect, execute_script, require_safe_sqlite
from feedback.errors import StoreError


@pytest.fixture
def connections(path: Path) -> Connections:
    connections = Connections(path, [], busy_seconds=0.2)
    connections.db.execute("CREATE TABLE notes (text TEXT UNIQUE)")
    return connections


def notes(db: Database) -> list[str]:
    return [row["text"] for row in db.query("SELECT text FROM notes ORDER BY rowid")]


@pytest.mark.parametrize("found", [(3, 40, 1), (3, 51, 2), (3, 7, 0)])
def test_an_unsafe_sqlite_is_refused_by_its_version(found: tuple[int, int, int]) -> None:
    with pytest.raises(StoreError, match=rf"SQLite {'.'.join(map(str, found))}.*pysqlite3.*3\.51\.3"):
        require_safe_sqlite(found)


@pytest.mark.parametrize("found", [(3, 51, 3), (3, 53, 4), (4, 0, 0)])
def test_a_safe_sqlite_is_accepted(found: tuple[int, int, int]) -> None:
    require_safe_sqlite(found)


def test_without_pysqlite3_the_pythons_own_sqlite_is_what_is_judged(
    path: Path, start_python: Callable[..., subprocess.Popen[str]]
) -> None:
    code = (
        "import sys, sqlite3, pathlib; sys.modules['pysqlite3'] = None\n"
        "from feedback.database import connect\n"
        "print(sqlite3.sqlite_version, flush=True)\n"
        "connect(pathlib.Path(sys.argv[1]), [])\n"
    )
    out, err = start_python(code, path).communicate(timeout=60)
    version = out.strip()
    if tuple(map(int, version.split("."))) < MINIMUM_SQLITE:
        assert f"StoreError: This Python uses SQLite {version}" in err
        assert not path.exists()
    else:
        assert err == ""


def test_every_connection_has_the_safe_settings(connections: Connections) -> None:
    seen: list[dict[str, object]] = []

    def look() -> None:
        names = ("journal_mode", "synchronous", "foreign_keys", "secure_delete", "trusted_schema", "busy_timeout")
        seen.append({name: connections.db.execute(f"PRAGMA {name}").fetchone()[0] for name in names})

    look()
    thread = threading.Thread(target=look)
    thread.start()
    thread.join()
    safe = {"journal_mode": "wal", "synchronous": 2, "foreign_keys": 1, "secure_delete": 1, "trusted_schema": 0}
    assert seen == [{**safe, "busy_timeout": 200}] * 2


def test_only_the_owner_can_read_the_files(connections: Connections, path: Path) -> None:
    with connections.write() as db:
        db.execute("INSERT INTO notes VALUES ('x')")
    files = list(path.parent.glob(path.name + "*"))
    assert {file.name for file in files} == {path.name, f"{path.name}-wal", f"{path.name}-shm"}
    assert {file.stat().st_mode & 0o777 for file in files} == {0o600}


def test_a_deleted_text_is_not_left_in_the_file(connections: Connections, path: Path) -> None:
    with connections.write() as db:
        db.execute("INSERT INTO notes VALUES ('remember me not')")
    connections.db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    assert b"remember me not" in path.read_bytes()
    with connections.write() as db:
        db.execute("DELETE FROM notes")
    connections.db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    assert b"remember me not" not in path.read_bytes()


def test_each_thread_has_its_own_connection_and_it_goes_with_the_thread(connections: Connections) -> None:
    others: list[int] = []
    thread = threading.Thread(target=lambda: others.append(id(connections.db.conn)))
    thread.start()
    thread.join()
    assert others != [id(connections.db.conn)]
    gc.collect()
    assert len(connections._open) == 1


def test_a_block_that_raises_leaves_nothing_behind(connections: Connections) -> None:
    with pytest.raises(KeyError), connections.write() as db:
        db.execute("INSERT INTO notes VALUES ('half')")
        raise KeyError("stop")
    assert notes(connections.db) == []
    with connections.write() as db:
        db.execute("INSERT INTO notes VALUES ('whole')")
    assert notes(connections.db) == ["whole"]


def test_a_write_inside_a_write_belongs_to_the_outer_one(connections: Connections) -> None:
    with pytest.raises(KeyError), connections.write() as db:
        with connections.write():
            db.execute("INSERT INTO notes VALUES ('inner')")
        raise KeyError("stop")
    assert notes(connections.db) == []
    with connections.write() as db:
        db.execute("INSERT INTO notes VALUES ('outer')")
        with pytest.raises(KeyError), connections.write():
            db.execute("INSERT INTO notes VALUES ('inner')")
            raise KeyError("stop")
    assert notes(connections.db) == ["outer"]


def test_faults_of_the_caller_pass_unchanged(connections: Connections) -> None:
    with pytest.raises(FileNotFoundError), connections.write():
        Path("no such file").read_text()
    with pytest.raises(sqlite3.OperationalError, match="no such table"), connections.write() as db:
        db.execute("INSERT INTO missing VALUES (1)")
    with pytest.raises(sqlite3.IntegrityError), connections.write() as db:
        db.execute("INSERT INTO notes VALUES ('a'), ('a')")
    assert not connections.db.conn.in_transaction


def test_a_database_that_stays_locked_is_one_sentence(connections: Connections, path: Path) -> None:
    other = connect(path, [])
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(StoreError, match="kept locked by another program"), connections.write() as db:
        db.execute("INSERT INTO notes VALUES ('late')")
    other.execute("ROLLBACK")
    with connections.write() as db:
        db.execute("INSERT INTO notes VALUES ('in time')")
    assert notes(connections.db) == ["in time"]


def test_a_full_disk_is_one_sentence_and_loses_nothing(connections: Connections) -> None:
    with connections.write() as db:
        db.execute("INSERT INTO notes VALUES ('before')")
    pages = connections.db.execute("PRAGMA page_count").fetchone()[0]
    connections.db.execute(f"PRAGMA max_page_count={pages}").fetchall()
    with pytest.raises(StoreError, match=r"cannot grow .*: free some disk space"), connections.write() as db:
        db.execute("INSERT INTO notes VALUES ('small')")
        db.execute("INSERT INTO notes VALUES (?)", ["x" * 100_000])
    assert notes(connections.db) == ["before"]
    connections.db.execute(f"PRAGMA max_page_count={pages + 1000}").fetchall()
    with connections.write() as db:
        db.execute("INSERT INTO notes VALUES ('after')")
    assert notes(connections.db) == ["before", "after"]


def test_a_file_that_is_no_database_is_named_and_left_as_it_is(path: Path) -> None:
    path.write_text("minutes of the meeting\n" * 100)
    with pytest.raises(StoreError, match=r"nightschool\.db is not a database .*: restore it"):
        connect(path, [])
    assert path.read_text() == "minutes of the meeting\n" * 100


def test_a_damaged_database_is_one_sentence(connections: Connections, path: Path) -> None:
    with connections.write() as db:
        db.execute("INSERT INTO notes VALUES (?)", ["x" * 50_000])
    connections.db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    connections.close()
    content = path.read_bytes()
    path.write_bytes(content[:8192] + b"\xff" * (len(content) - 8192))
    with pytest.raises(StoreError, match="is damaged"), connections.write() as db:
        db.execute("DELETE FROM notes")


def test_reading_a_database_that_is_damaged_in_the_middle_is_one_sentence(connections: Connections, path: Path) -> None:
    with connections.write() as db:
        db.conn.executemany("INSERT INTO notes VALUES (?)", [(f"{number} " + "x" * 900,) for number in range(100)])
    connections.db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    connections.close()
    content = path.read_bytes()
    path.write_bytes(content[:40_960] + b"\xff" * 16_384 + content[57_344:])
    sql = "SELECT text FROM notes NOT INDEXED"
    for read in (
        lambda: list(connections.db.query(sql)),
        lambda: connections.db.execute(sql).fetchall(),
        lambda: list(connections.db.execute(sql)),
        lambda: connections.db.execute(f"{sql} ORDER BY length(text)").fetchone(),
    ):
        with pytest.raises(StoreError, match=r"nightschool\.db is damaged .*: restore it from a backup"):
            read()
    assert len(connections.db.execute(f"{sql} LIMIT 5").fetchall()) == 5  # the rest can still be read


def test_a_folder_that_cannot_be_made_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(StoreError, match=r"file/nightschool\.db cannot be opened"):
        connect(tmp_path / "file" / "nightschool.db", [])


def test_closing_closes_all_threads_and_the_next_use_opens_anew(connections: Connections) -> None:
    old = connections.db
    connections.close()
    with pytest.raises(sqlite3.ProgrammingError, match="closed"):
        old.execute("SELECT 1")
    assert notes(connections.db) == []


def test_a_script_runs_inside_the_open_transaction_triggers_too(connections: Connections) -> None:
    script = """
    -- a comment; with a semicolon
    CREATE TABLE counts (n INTEGER);
    CREATE TRIGGER count_notes AFTER INSERT ON notes
    BEGIN
        INSERT INTO counts VALUES (1);
        INSERT INTO counts VALUES (2);
    END;
    """
    with pytest.raises(KeyError), connections.write() as db:
        execute_script(db, script)
        raise KeyError("stop")
    assert connections.db.table_names() == ["notes"]
    with connections.write() as db:
        execute_script(db, script)
        db.execute("INSERT INTO notes VALUES ('x')")
    assert connections.db["counts"].count == 2
    with pytest.raises(ValueError, match="inside a statement"):
        execute_script(connections.db, "CREATE TABLE half (n")
