"""Opening the one SQLite file that feedback and training share: a safe version, safe settings, migrations, transactions.

Each package brings its own set of migrations for the same file. A set is a `sqlite_utils.Migrations`, made of functions
that take the open database; they are numbered, append-only and applied on open, all pending ones in one transaction, so
that a failure half-way leaves the file as it was.

    connections = Connections(home / "nightschool.db", [feedback_migrations, training_migrations])
    rows = list(connections.db.query("SELECT ..."))
    with connections.write() as db:            # BEGIN IMMEDIATE .. COMMIT, or ROLLBACK when the block raises
        db.execute("INSERT ...", [...])
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn

from sqlite_utils import Database, Migrations
from sqlite_utils.utils import sqlite3

from feedback.errors import StoreError

MINIMUM_SQLITE = (3, 51, 3)
"""The first SQLite without the WAL-reset bug, by which two writing processes can corrupt the file (https://sqlite.org/wal.html)."""

BUSY_SECONDS = 10.0
"""How long a writer waits for another one. Transactions here take milliseconds; a longer wait is a hang."""


def require_safe_sqlite(found: tuple[int, ...]) -> None:
    """Raise StoreError unless the SQLite version `found`, as (3, 51, 3), is safe for two processes writing in WAL mode."""
    if found < MINIMUM_SQLITE:
        have, need = (".".join(map(str, version)) for version in (found, MINIMUM_SQLITE))
        raise StoreError(
            f"This Python uses SQLite {have}, which can corrupt a database that two processes write: "
            f"install pysqlite3, or a Python with SQLite {need} or newer."
        )


def connect(path: Path, migrations: Sequence[Migrations], *, busy_seconds: float = BUSY_SECONDS) -> Database:
    """Open (or make) the database at `path`, bring its schema up to date, and return it in autocommit mode.

    Several processes may open a new file at once: one applies the migrations, the others wait. The file is readable by
    its owner alone. Raises StoreError for an unsafe SQLite, a file that is no database or cannot be opened, a schema
    from a newer Nightschool, and a file that stays locked for `busy_seconds`.
    """
    require_safe_sqlite(tuple(sqlite3.sqlite_version_info))
    _make_file(path)
    with _as_store_error(path):
        connection = sqlite3.connect(
            str(path), timeout=busy_seconds, isolation_level=None, check_same_thread=False, factory=_Connection
        )
        try:
            db = Database(connection, execute_plugins=False)
            _set_pragmas(db, busy_seconds=busy_seconds)
            _migrate(db, path, migrations)
        except BaseException:
            connection.close()
            raise
    connection.file = path
    return db


class Connections:
    """One connection a thread to one database file, and short write transactions.

    Safe to share between threads. The file is opened, and its schema brought up to date, when the object is made.
    Raises StoreError as `connect` does; every statement, a read too, raises it for a fault of the file or the disk.
    """

    def __init__(self, path: Path, migrations: Sequence[Migrations], *, busy_seconds: float = BUSY_SECONDS) -> None:
        self.path = path
        self._migrations = tuple(migrations)
        self._busy_seconds = busy_seconds
        self._local = threading.local()
        # weak: the connection of a thread that ended is closed when the thread's locals are freed
        self._open: weakref.WeakSet[Database] = weakref.WeakSet()
        self._lock = threading.Lock()
        _ = self.db

    @property
    def db(self) -> Database:
        """The calling thread's connection, for reading. Fetch all rows: a half-read cursor keeps the WAL from shrinking."""
        db = getattr(self._local, "db", None)
        if db is None:
            db = connect(self.path, self._migrations, busy_seconds=self._busy_seconds)
            with self._lock:
                self._open.add(db)
            self._local.db = db
        return db

    @contextlib.contextmanager
    def write(self) -> Iterator[Database]:
        """Yield the connection inside BEGIN IMMEDIATE .. COMMIT; roll back when the block raises.

        Inside another `write` of the same thread it is a savepoint of that transaction. Raises StoreError when the
        database is locked for too long, or cannot be written (full disk, read-only file).
        """
        db = self.db
        with _as_store_error(self.path):
            if db.conn.in_transaction:
                with db.atomic():
                    yield db
                return
            with immediate(db):
                yield db

    def close(self) -> None:
        """Close the connections of all threads; no other thread may be using one. The next use opens anew."""
        with self._lock:
            for db in list(self._open):
                db.close()
            self._open.clear()
            self._local = threading.local()


@contextlib.contextmanager
def immediate(db: Database) -> Iterator[None]:
    """Run the block in one transaction that takes the write lock at once, as a read that turns into a write cannot wait."""
    db.conn.execute("BEGIN IMMEDIATE")
    try:
        yield
        db.conn.execute("COMMIT")
    except BaseException:
        if db.conn.in_transaction:  # some errors (a full disk) have rolled back by themselves
            db.conn.execute("ROLLBACK")
        raise


def execute_script(db: Database, script: str) -> None:
    """Execute several statements (triggers too) inside the transaction that is open; `executescript` would commit it first."""
    statement = ""
    for line in script.splitlines(keepends=True):
        statement += line
        if sqlite3.complete_statement(statement):
            db.conn.execute(statement)
            statement = ""
    if statement.strip():
        raise ValueError(f"The script ends inside a statement: {statement.strip()!r}")


def _set_pragmas(db: Database, *, busy_seconds: float) -> None:
    """Set what every connection needs. WAL is kept in the file; the rest holds for this connection alone."""
    deadline = time.monotonic() + busy_seconds
    while True:
        try:
            db.conn.execute("PRAGMA journal_mode=WAL").fetchall()
            break
        except sqlite3.OperationalError as error:
            # two processes opening a new file at once: the change of mode does not wait by itself
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                raise
            time.sleep(0.02)
    for pragma in ("synchronous=FULL", "foreign_keys=ON", "secure_delete=ON", "trusted_schema=OFF"):
        db.conn.execute(f"PRAGMA {pragma}").fetchall()


def _migrate(db: Database, path: Path, migrations: Sequence[Migrations]) -> None:
    """Apply what is pending, all or nothing; refuse a schema that this program does not know."""
    _refuse_newer(db, path, migrations)
    if not any(migration_set.pending(db) for migration_set in migrations):
        return
    with immediate(db):
        for migration_set in migrations:  # asks again what is pending: another process may have been first
            migration_set.apply(db)


def _refuse_newer(db: Database, path: Path, migrations: Sequence[Migrations]) -> None:
    """Raise StoreError when the file holds a migration of one of our sets that this program does not have."""
    for migration_set in migrations:
        applied = [migration.name for migration in migration_set.applied(db)]
        known = {migration.name for migration in migration_set._migrations}
        unknown = [name for name in applied if name not in known]
        if unknown:
            raise StoreError(
                f"The database {path} was written by a newer Nightschool (it holds {migration_set.name} {unknown[-1]}): "
                "upgrade this program, or use another NIGHTSCHOOL_HOME."
            )


_FILE_FAULTS = {
    sqlite3.SQLITE_NOTADB: "is not a database ({text}): restore it from a backup, or use another NIGHTSCHOOL_HOME.",
    sqlite3.SQLITE_CORRUPT: "is damaged ({text}): restore it from a backup.",
    sqlite3.SQLITE_BUSY: "is kept locked by another program ({text}): close that program and try again.",
    sqlite3.SQLITE_FULL: "cannot grow ({text}): free some disk space and try again.",
    sqlite3.SQLITE_READONLY: "cannot be written ({text}): check the permissions of the file and its folder.",
    sqlite3.SQLITE_CANTOPEN: "cannot be opened ({text}): check the permissions of the file and its folder.",
    sqlite3.SQLITE_IOERR: "cannot be read or written ({text}): check the disk.",
}
"""What can be wrong with the file or the disk, by primary result code (https://sqlite.org/rescode.html)."""


@contextlib.contextmanager
def _as_store_error(path: Path) -> Iterator[None]:
    """Turn an SQLite error about the file or the disk into one sentence; let faults of the caller pass."""
    try:
        yield
    except sqlite3.DatabaseError as error:
        _raise_translated(path, error)


def _raise_translated(path: Path | None, error: sqlite3.DatabaseError) -> NoReturn:
    sentence = _FILE_FAULTS.get(getattr(error, "sqlite_errorcode", 0) & 0xFF)
    if path is None or sentence is None:
        raise error
    raise StoreError(f"The database {path} {sentence.format(text=error)}") from error


class _Connection(sqlite3.Connection):  # type: ignore[misc]
    """A connection whose statements, and the fetching of their rows, raise StoreError for a fault of the file or the disk.

    `file` is None while it is opened: what opens it waits for a locked file by itself.
    """

    file: Path | None = None

    def cursor(self) -> _Cursor:
        return _Cursor(self)


class _Cursor(sqlite3.Cursor):  # type: ignore[misc]
    def execute(self, *arguments: Any) -> Any:
        return self._translated(super().execute, *arguments)

    def executemany(self, *arguments: Any) -> Any:
        return self._translated(super().executemany, *arguments)

    def fetchone(self) -> Any:
        return self._translated(super().fetchone)

    def fetchall(self) -> Any:
        return self._translated(super().fetchall)

    def __next__(self) -> Any:
        return self._translated(super().__next__)

    def _translated(self, method: Callable[..., Any], *arguments: Any) -> Any:
        try:
            return method(*arguments)
        except sqlite3.DatabaseError as error:
            _raise_translated(self.connection.file, error)


def _make_file(path: Path) -> None:
    """Make the file and its folder when they are missing; SQLite gives the -wal and -shm files the same permissions."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
    except OSError as error:
        raise StoreError(
            f"The database {path} cannot be opened ({error.strerror}): check the permissions of the file and its folder."
        ) from error
