"""The schema of what is remembered: numbered migrations, append-only. Change nothing below that was ever released.

Times are ISO 8601 in UTC with microseconds ("2026-11-22T01:30:00.000000+00:00"), so that they sort as text.
What was said is never updated: triggers refuse it. Deleting a user takes all of his rows with it (erasure).
"""

from __future__ import annotations

from sqlite_utils import Database, Migrations

from feedback.database import execute_script


def _m0001_users(db: Database) -> None:
    execute_script(
        db,
        """
        CREATE TABLE users (
            id TEXT PRIMARY KEY,
            name TEXT NOT NULL,             -- as it was typed
            name_key TEXT NOT NULL UNIQUE,  -- NFKC and case folded: two names that look alike are one
            role TEXT NOT NULL CHECK (role IN ('employee', 'admin')),
            password_hash TEXT NOT NULL,    -- argon2id, with its parameters and salt
            created_at TEXT NOT NULL
        ) STRICT;

        CREATE TABLE sessions (
            token_hash TEXT PRIMARY KEY,    -- SHA-256 in hex; the token itself is only in the browser
            user_id TEXT NOT NULL REFERENCES users (id) ON DELETE CASCADE,
            created_at TEXT NOT NULL,
            expires_at TEXT NOT NULL
        ) STRICT;
        CREATE INDEX sessions_user ON sessions (user_id);
        """,
    )


def _m0002_turns(db: Database) -> None:
    execute_script(
        db,
        """
        CREATE TABLE conversations (
            seq INTEGER PRIMARY KEY,        -- the order in which they were started
            id TEXT NOT NULL UNIQUE,
            user_id TEXT NOT NULL REFERENCES users (id) ON DELETE CASCADE,
            history INTEGER NOT NULL CHECK (history IN (0, 1)),  -- the switch as it stood at the start
            created_at TEXT NOT NULL,
            UNIQUE (id, user_id)            -- so that a turn cannot join another user's conversation
        ) STRICT;
        CREATE INDEX conversations_user ON conversations (user_id);

        CREATE TABLE turns (                -- what the model was about to see; written before it is called
            seq INTEGER PRIMARY KEY,        -- the order of asking
            id TEXT NOT NULL UNIQUE,
            conversation_id TEXT NOT NULL,
            user_id TEXT NOT NULL,
            question TEXT NOT NULL,
            messages TEXT NOT NULL,         -- JSON list of {role, content}; [] when no model is called
            passages TEXT NOT NULL,         -- JSON list, as feedback.records.Passage
            base_model TEXT NOT NULL,
            base_hash TEXT NOT NULL,
            adapter TEXT NOT NULL,          -- a version, or 'base'
            engine TEXT NOT NULL,
            sampling TEXT NOT NULL,         -- JSON object
            history INTEGER NOT NULL CHECK (history IN (0, 1)),  -- 1: earlier turns were shown to the model
            process_id INTEGER NOT NULL,    -- who writes the answer: a turn of a dead process was interrupted
            created_at TEXT NOT NULL,
            FOREIGN KEY (conversation_id, user_id) REFERENCES conversations (id, user_id) ON DELETE CASCADE
        ) STRICT;
        CREATE INDEX turns_conversation ON turns (conversation_id, user_id);
        CREATE TRIGGER turns_never_change BEFORE UPDATE ON turns
        BEGIN SELECT RAISE(ABORT, 'a turn never changes'); END;

        CREATE TABLE answers (              -- no row: the answer is being written, or its process died
            turn_id TEXT PRIMARY KEY REFERENCES turns (id) ON DELETE CASCADE,
            text TEXT NOT NULL,             -- what was shown, also when it was stopped half-way
            finish_reason TEXT NOT NULL
                CHECK (finish_reason IN ('stop', 'length', 'refused', 'stopped', 'failed', 'interrupted')),
            prompt_tokens INTEGER NOT NULL,
            completion_tokens INTEGER NOT NULL,
            ttft_s REAL,                    -- NULL: no token came
            total_s REAL NOT NULL,
            error TEXT,                     -- NULL: nothing failed
            created_at TEXT NOT NULL
        ) STRICT;
        CREATE INDEX answers_bad ON answers (created_at) WHERE finish_reason IN ('failed', 'interrupted');
        CREATE TRIGGER answers_never_change BEFORE UPDATE ON answers
        BEGIN SELECT RAISE(ABORT, 'an answer never changes'); END;
        """,
    )


def _m0003_ratings(db: Database) -> None:
    execute_script(
        db,
        """
        CREATE TABLE ratings (              -- the newest row of a user and turn is in force, the others are history
            seq INTEGER PRIMARY KEY,        -- shared with corrections: one order of everything that was said
            turn_id TEXT NOT NULL REFERENCES turns (id) ON DELETE CASCADE,
            user_id TEXT NOT NULL REFERENCES users (id) ON DELETE CASCADE,
            thumb TEXT CHECK (thumb IN ('up', 'down')),  -- NULL: the rating was withdrawn
            reasons TEXT NOT NULL,          -- JSON list of tags
            comment TEXT NOT NULL,
            created_at TEXT NOT NULL
        ) STRICT;
        CREATE INDEX ratings_turn ON ratings (turn_id, user_id, seq);
        CREATE INDEX ratings_user ON ratings (user_id);
        CREATE TRIGGER ratings_never_change BEFORE UPDATE ON ratings
        BEGIN SELECT RAISE(ABORT, 'a rating never changes'); END;

        CREATE TABLE corrections (          -- as ratings
            seq INTEGER PRIMARY KEY,
            turn_id TEXT NOT NULL REFERENCES turns (id) ON DELETE CASCADE,
            user_id TEXT NOT NULL REFERENCES users (id) ON DELETE CASCADE,
            text TEXT,                      -- NULL: the correction was withdrawn
            verified INTEGER NOT NULL CHECK (verified IN (0, 1)),  -- 1: an admin wrote it
            created_at TEXT NOT NULL
        ) STRICT;
        CREATE INDEX corrections_turn ON corrections (turn_id, user_id, seq);
        CREATE INDEX corrections_user ON corrections (user_id);
        CREATE TRIGGER corrections_never_change BEFORE UPDATE ON corrections
        BEGIN SELECT RAISE(ABORT, 'a correction never changes'); END;
        """,
    )


def _m0004_audit(db: Database) -> None:
    execute_script(
        db,
        """
        CREATE TABLE audit (                -- who did what to the system; outlives the user it names
            id INTEGER PRIMARY KEY AUTOINCREMENT,
            at TEXT NOT NULL,
            actor TEXT NOT NULL,            -- a user's name, or the command that acted by itself
            action TEXT NOT NULL,           -- 'adapter.promote'
            detail TEXT NOT NULL            -- JSON object
        ) STRICT;
        CREATE TRIGGER audit_never_changes BEFORE UPDATE ON audit
        BEGIN SELECT RAISE(ABORT, 'the audit never changes'); END;
        CREATE TRIGGER audit_never_forgets BEFORE DELETE ON audit
        BEGIN SELECT RAISE(ABORT, 'the audit never forgets'); END;
        """,
    )


def _m0005_one_time_passwords(db: Database) -> None:
    execute_script(
        db,
        """
        ALTER TABLE users ADD COLUMN must_change_password INTEGER NOT NULL DEFAULT 0
            -- 1: a one-time password that the program made and printed, where others may have read it: it opens nothing
            -- but the page that replaces it. 0: chosen by a person, or in use since before there was this column.
            CHECK (must_change_password IN (0, 1));
        """,
    )


def _m0006_grounding(db: Database) -> None:
    execute_script(
        db,
        """
        ALTER TABLE turns ADD COLUMN searched TEXT NOT NULL DEFAULT '';
            -- what was searched; '': the question itself (also for turns from before there was this column)
        ALTER TABLE turns ADD COLUMN collection TEXT NOT NULL DEFAULT '';   -- '': all collections
        ALTER TABLE answers ADD COLUMN written TEXT;                        -- NULL: the text is what the model wrote
        ALTER TABLE answers ADD COLUMN checks TEXT NOT NULL DEFAULT '[]';   -- JSON list, as feedback.records.SentenceCheck
        ALTER TABLE answers ADD COLUMN steps TEXT NOT NULL DEFAULT '[]';    -- JSON list, as feedback.records.Step

        CREATE TABLE open_questions (       -- refused questions that were sent to the document owner
            turn_id TEXT PRIMARY KEY REFERENCES turns (id) ON DELETE CASCADE,
            user_id TEXT NOT NULL REFERENCES users (id) ON DELETE CASCADE,
            note TEXT NOT NULL,
            sent_at TEXT NOT NULL,
            closed_at TEXT,                 -- NULL: open
            closed_by TEXT,                 -- the admin's name; NULL: open
            resolution TEXT                 -- NULL: open
        ) STRICT;
        CREATE INDEX open_questions_user ON open_questions (user_id);
        """,
    )


feedback_migrations = Migrations("feedback")
for _migration in (_m0001_users, _m0002_turns, _m0003_ratings, _m0004_audit, _m0005_one_time_passwords, _m0006_grounding):
    feedback_migrations(name=_migration.__name__.removeprefix("_"))(_migration)
del _migration
