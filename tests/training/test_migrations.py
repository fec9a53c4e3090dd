from __future__ import annotations

from pathlib import Path

import pytest
from sqlite_utils import Database, Migrations
from sqlite_utils.utils import sqlite3

from feedback.database import connect
from feedback.migrations import feedback_migrations
from training.migrations import training_migrations
from training.registry import AdapterRegistry
from training.runs import RunLedger

SETS = [feedback_migrations, training_migrations]
TABLES = {"runs", "schedules", "examples", "refusals", "adapters", "promotions", "examinations", "kept_answers"}


def test_a_blank_file_gets_the_whole_schema_and_a_second_opening_changes_nothing(tmp_path: Path) -> None:
    first = connect(tmp_path / "nightschool.db", SETS)
    assert set(first.table_names()) >= TABLES
    before = first.schema
    first.close()
    second = connect(tmp_path / "nightschool.db", SETS)
    assert second.schema == before
    assert training_migrations.pending(second) == []
    second.close()


def test_rows_of_the_first_schema_are_read_through_the_newest(tmp_path: Path) -> None:
    path = tmp_path / "nightschool.db"
    oldest = Database(sqlite3.connect(str(path)))
    training_migrations.apply(oldest, stop_before="m0002_curation")
    oldest.conn.execute(
        "INSERT INTO runs (slot, state, outcome, verdict, reason, requested_by, created_at, finished_at, heartbeat_at, "
        "step, step_at) "
        "VALUES ('2026-11-20T01:00:00+00:00', 'done', 'succeeded', 'HOLD', 'too few', 'schedule', 'a', 'b', 'b', 9, 'b')"
    )
    oldest.conn.commit()
    oldest.close()
    ledger = RunLedger(path, tmp_path / "runs")
    run = ledger.run("r0001")
    assert (run.verdict, run.reason, run.step, run.candidate) == ("HOLD", "too few", 9, None)
    assert AdapterRegistry(path, tmp_path / "adapters").current() == "base"


def test_a_migration_that_fails_half_way_leaves_the_file_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "nightschool.db"
    RunLedger(path, tmp_path / "runs").start("", "ada")
    grown = Migrations("training")
    for migration in training_migrations._migrations:
        grown(name=migration.name)(migration.fn)

    @grown(name="m9999_fails")
    def fails(db: Database) -> None:
        db.conn.execute("ALTER TABLE runs ADD COLUMN shine TEXT")
        raise RuntimeError("the power fails")

    with pytest.raises(RuntimeError, match="power"):
        connect(path, [feedback_migrations, grown])
    db = connect(path, SETS)
    assert "shine" not in {column.name for column in db["runs"].columns}
    assert [row["slot"][:7] for row in db.query("SELECT slot FROM runs")] == ["manual-"]
    db.close()


def test_two_unfinished_runs_are_refused_by_the_database_itself(tmp_path: Path) -> None:
    db = connect(tmp_path / "nightschool.db", SETS)
    insert = (
        "INSERT INTO runs (slot, state, reason, requested_by, created_at, heartbeat_at, step, step_at) "
        "VALUES (?, 'curating', '', 'x', 'a', 'a', 0, 'a')"
    )
    db.execute(insert, ["one"])
    with pytest.raises(sqlite3.IntegrityError, match="UNIQUE"):
        db.execute(insert, ["two"])
    db.close()
