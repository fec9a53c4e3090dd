"""The schema of what training remembers: numbered migrations, append-only. Change nothing below that was ever released.

Times are ISO 8601 in UTC ("2026-11-22T01:30:00.000000+00:00"), so that they sort as text. The tables live in the same file
as those of `feedback.migrations`, which come first: promotions write into its audit.
"""

from __future__ import annotations

from sqlite_utils import Database, Migrations

from feedback.database import execute_script


def _m0001_runs(db: Database) -> None:
    execute_script(
        db,
        """
        CREATE TABLE schedules (            -- when a cron expression came into force: no night before that is owed
            seq INTEGER PRIMARY KEY,
            cron TEXT NOT NULL,
            since TEXT NOT NULL
        ) STRICT;

        CREATE TABLE runs (                 -- every night that was started, and every one that was missed
            seq INTEGER PRIMARY KEY AUTOINCREMENT,  -- r0007 is seq 7; a number is never used twice
            slot TEXT NOT NULL UNIQUE,      -- the due time in UTC, or 'manual-<time>': one slot starts one run, ever
            state TEXT NOT NULL CHECK (state IN ('curating', 'training', 'examining', 'deciding', 'done')),
            outcome TEXT CHECK (outcome IN ('succeeded', 'failed', 'cancelled', 'abandoned', 'missed')),  -- NULL: running
            verdict TEXT CHECK (verdict IN ('PROMOTE', 'HOLD', 'REJECT')),  -- NULL: the gate did not decide
            reason TEXT NOT NULL,           -- a sentence for a person; empty while it runs
            requested_by TEXT NOT NULL,     -- a user's name, or 'schedule'
            created_at TEXT NOT NULL,
            finished_at TEXT,               -- NULL: running
            heartbeat_at TEXT NOT NULL,     -- the last sign of life
            step INTEGER NOT NULL,          -- training steps done
            step_at TEXT NOT NULL,          -- when `step` last changed: a process that lives but stands still is a hang
            pid INTEGER,                    -- for people; life is told by the lock in the run folder. NULL: no process (missed)
            cancel_requested_at TEXT,       -- NULL: nobody asked
            CHECK ((outcome IS NULL) = (finished_at IS NULL)),
            CHECK ((outcome IS NULL) = (state <> 'done'))
        ) STRICT;
        -- at most one run is unfinished, whatever a program does
        CREATE UNIQUE INDEX runs_one_running ON runs ((outcome IS NULL)) WHERE outcome IS NULL;
        """,
    )


def _m0002_curation(db: Database) -> None:
    execute_script(
        db,
        """
        -- What became of each rated turn in a run. The text is in the turn and in the run's snapshot. No foreign keys to turns
        -- and users: those tables are feedback's, and erasure deletes here by user_id in the same transaction.
        CREATE TABLE examples (
            run_seq INTEGER NOT NULL REFERENCES runs (seq) ON DELETE CASCADE,
            id TEXT NOT NULL,               -- the example's id in the snapshot
            turn_id TEXT NOT NULL,
            user_id TEXT NOT NULL,          -- who said it
            source TEXT NOT NULL,           -- 'verified', 'correction', 'thumbs_up'
            weight REAL NOT NULL,
            PRIMARY KEY (run_seq, id)
        ) STRICT;
        CREATE INDEX examples_user ON examples (user_id);

        CREATE TABLE refusals (
            seq INTEGER PRIMARY KEY,
            run_seq INTEGER NOT NULL REFERENCES runs (seq) ON DELETE CASCADE,
            turn_id TEXT NOT NULL,
            user_id TEXT NOT NULL,
            reason TEXT NOT NULL            -- a sentence that its rater can read
        ) STRICT;
        CREATE INDEX refusals_run ON refusals (run_seq);
        CREATE INDEX refusals_user ON refusals (user_id);
        """,
    )


def _m0003_adapters(db: Database) -> None:
    execute_script(
        db,
        """
        CREATE TABLE adapters (             -- a row is written last: its folder is whole and on the disk
            seq INTEGER PRIMARY KEY,        -- v0007 is seq 7
            status TEXT NOT NULL CHECK (status IN ('candidate', 'held', 'rejected', 'promoted')),
            run_seq INTEGER REFERENCES runs (seq),  -- NULL: not made by a run here (the starter adapter, an import)
            manifest TEXT NOT NULL,         -- manifest.json byte for byte: the file is compared with it
            created_at TEXT NOT NULL
        ) STRICT;
        CREATE INDEX adapters_run ON adapters (run_seq);

        CREATE TABLE promotions (           -- the newest row names what serves; no row: the base
            seq INTEGER PRIMARY KEY,
            action TEXT NOT NULL CHECK (action IN ('promote', 'rollback')),
            adapter_seq INTEGER REFERENCES adapters (seq),  -- NULL: the base model without an adapter
            by TEXT NOT NULL,
            reason TEXT NOT NULL,
            overruled INTEGER NOT NULL CHECK (overruled IN (0, 1)),  -- 1: a person decided against the gate, or without it
            at TEXT NOT NULL
        ) STRICT;
        CREATE TRIGGER promotions_never_change BEFORE UPDATE ON promotions
        BEGIN SELECT RAISE(ABORT, 'a promotion never changes'); END;
        CREATE TRIGGER promotions_never_vanish BEFORE DELETE ON promotions
        BEGIN SELECT RAISE(ABORT, 'a promotion never vanishes'); END;
        """,
    )


def _m0004_examinations(db: Database) -> None:
    execute_script(
        db,
        """
        CREATE TABLE examinations (
            run_seq INTEGER PRIMARY KEY REFERENCES runs (seq) ON DELETE CASCADE,
            report TEXT NOT NULL,           -- JSON object, as examination.json of the run folder
            created_at TEXT NOT NULL
        ) STRICT;

        CREATE TABLE kept_answers (         -- answers of base and serving adapter, so that a night examines the candidate alone
            key TEXT PRIMARY KEY,           -- names weights, questions, index and engine
            payload TEXT NOT NULL,          -- JSON object
            created_at TEXT NOT NULL
        ) STRICT;
        """,
    )


training_migrations = Migrations("training")
for _migration in (_m0001_runs, _m0002_curation, _m0003_adapters, _m0004_examinations):
    training_migrations(name=_migration.__name__.removeprefix("_"))(_migration)
del _migration
