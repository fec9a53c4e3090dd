"""The audit: who did what to the system. Append-only; training writes to it inside its own transactions."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sqlite_utils import Database

from feedback.part import StorePart, storable


@dataclass(frozen=True, kw_only=True)
class AuditEntry:
    """One thing that was done; `at` is ISO 8601, UTC, and `detail` is what the action needs to be understood."""

    id: int
    at: str
    actor: str
    action: str
    detail: dict[str, Any]


def append_audit(db: Database, *, at: str, actor: str, action: str, detail: Mapping[str, Any]) -> None:
    """Add an entry in the transaction that is open, so that what was done and the entry are stored together or not at all."""
    text = storable(json.dumps(dict(detail), ensure_ascii=False))
    db.execute("INSERT INTO audit (at, actor, action, detail) VALUES (?, ?, ?, ?)", [at, storable(actor), action, text])


class AuditStore(StorePart):
    """The audit, written and read."""

    def audit(self, actor: str, action: str, detail: Mapping[str, Any]) -> None:
        """Record that `actor` (a user's name, or a command) did `action` ("user.add"); `detail` must be JSON."""
        with self._connections.write() as db:
            append_audit(db, at=self._now(), actor=actor, action=action, detail=detail)

    def audit_entries(self, limit: int = 50) -> list[AuditEntry]:
        """Return the newest entries, newest first."""
        rows = self._connections.db.query("SELECT * FROM audit ORDER BY id DESC LIMIT ?", [limit])
        return [AuditEntry(**{**row, "detail": json.loads(row["detail"])}) for row in rows]
