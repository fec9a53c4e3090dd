"""What examinations found, by run, and the answers of base and serving adapter that the next night need not ask for again."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from feedback.database import Connections
from feedback.errors import RunError
from feedback.migrations import feedback_migrations
from training.migrations import training_migrations
from training.run_ids import run_number

KEPT = 50
"""How many sets of answers are kept; older ones belong to weights or indexes that are gone."""


class ExaminationStore:
    """Examination reports and kept answers, in the database at `path`. Safe to share between threads."""

    def __init__(self, path: Path, *, clock: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        self._connections = Connections(path, [feedback_migrations, training_migrations])
        self._clock = clock

    def save(self, run_id: str, report: Mapping[str, Any]) -> None:
        """Keep the report of a run's examination, a JSON object; a later one replaces it. Raises RunError for an unknown run."""
        text = json.dumps(report, allow_nan=False)
        with self._connections.write() as db:
            seq = run_number(run_id)
            if not list(db.query("SELECT 1 FROM runs WHERE seq = ?", [seq])):
                raise RunError(f"There is no run {run_id!r}: see `nightschool runs list`.")
            db.execute(
                "INSERT INTO examinations (run_seq, report, created_at) VALUES (?, ?, ?) ON CONFLICT (run_seq) "
                "DO UPDATE SET report = excluded.report, created_at = excluded.created_at",
                [seq, text, self._now()],
            )

    def load(self, run_id: str) -> dict[str, Any] | None:
        """Return the report of a run; None when it was not examined."""
        rows = list(self._connections.db.query("SELECT report FROM examinations WHERE run_seq = ?", [run_number(run_id)]))
        return _object(rows[0]["report"]) if rows else None

    def facts_since(self, at: str) -> list[frozenset[str]]:
        """Return, for each decision of the gate after `at` (ISO 8601 in UTC; "": ever), the facts that it was made on."""
        sql = (
            "SELECT json_extract(report, '$.decision.inputs.candidate') AS scores FROM examinations "
            "WHERE created_at > ? AND scores IS NOT NULL ORDER BY run_seq"
        )
        return [frozenset(_object(row["scores"])) for row in self._connections.db.query(sql, [at])]

    def keep(self, key: str, payload: Mapping[str, Any]) -> None:
        """Keep answers, a JSON object, under a key that names all they depend on: weights, questions, index, engine."""
        text = json.dumps(payload, allow_nan=False)
        with self._connections.write() as db:
            db.execute("DELETE FROM kept_answers WHERE key = ?", [key])
            db.execute("INSERT INTO kept_answers (key, payload, created_at) VALUES (?, ?, ?)", [key, text, self._now()])
            db.execute(
                "DELETE FROM kept_answers WHERE rowid NOT IN (SELECT rowid FROM kept_answers ORDER BY rowid DESC LIMIT ?)", [KEPT]
            )

    def kept(self, key: str) -> dict[str, Any] | None:
        """Return the answers kept under `key`; None when there are none."""
        rows = list(self._connections.db.query("SELECT payload FROM kept_answers WHERE key = ?", [key]))
        return _object(rows[0]["payload"]) if rows else None

    def close(self) -> None:
        """Close the connections of all threads."""
        self._connections.close()

    def _now(self) -> str:
        return self._clock().astimezone(UTC).isoformat(timespec="microseconds")


def _object(text: str) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads(text)
    return loaded
