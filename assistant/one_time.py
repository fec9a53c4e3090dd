"""One-time passwords: for the first admin, and for who has lost his own."""

from __future__ import annotations

import secrets
from pathlib import Path

from feedback.audit import append_audit
from feedback.database import Connections
from feedback.migrations import feedback_migrations
from feedback.part import utc_now
from feedback.records import Role
from feedback.users import UserStore


class OneTimePasswords(UserStore):
    """The users in the file at `path`, with passwords that are made here, shown once, and replaced at the next login."""

    def __init__(self, path: Path) -> None:
        super().__init__(Connections(path, [feedback_migrations]), utc_now)

    def add(self, name: str, role: Role) -> str:
        """Add a user and return his one-time password. Raises UserExists, or StoreError for a bad name."""
        password = _made()
        self.add_user(name, password, role, one_time=True)
        return password

    def reset(self, name: str, *, by: str) -> str:
        """Give a user a new one-time password and return it; his old one and all of his logins end. Raises UnknownUser."""
        user = self.user_by_name(name)
        password = _made()
        password_hash = self._hash(password)
        with self._connections.write() as db:
            db.execute("UPDATE users SET password_hash = ?, must_change_password = 1 WHERE id = ?", [password_hash, user.id])
            db.execute("DELETE FROM sessions WHERE user_id = ?", [user.id])
            append_audit(db, at=self._now(), actor=by, action="user.reset", detail={"name": user.name})
        return password

    def close(self) -> None:
        """Close the file in all threads."""
        self._connections.close()


def _made() -> str:
    return secrets.token_urlsafe(12)
