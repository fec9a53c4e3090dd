"""Users, their passwords (argon2id) and their login sessions."""

from __future__ import annotations

import hashlib
import secrets
import unicodedata
import uuid
from datetime import timedelta
from typing import Any

from argon2 import PasswordHasher
from argon2.exceptions import VerificationError
from sqlite_utils import Database

from feedback.audit import append_audit
from feedback.errors import StoreError, UnknownUser, UserExists
from feedback.part import StorePart, timestamp
from feedback.records import Role, User

MAX_NAME_CHARS = 64
MIN_PASSWORD_CHARS = 8  # NIST SP 800-63B asks for at least this
MAX_PASSWORD_CHARS = 1024

_COLUMNS = "users.id, users.name, users.role, users.created_at, users.must_change_password"


class UserStore(StorePart):
    """Who may log in, and who is logged in."""

    _hasher = PasswordHasher()

    def add_user(self, name: str, password: str, role: Role, *, one_time: bool = False) -> User:
        """Add a user, who must replace a `one_time` password before anything else opens for him.

        Raises UserExists, or StoreError for a name or password that cannot be used.
        """
        name = _clean_name(name)
        password_hash = self._hash(password)
        user = User(id=uuid.uuid4().hex, name=name, role=role, created_at=self._now(), must_change_password=one_time)
        with self._connections.write() as db:
            if _row(db.query("SELECT 1 FROM users WHERE name_key = ?", [_name_key(name)])):
                raise UserExists(name)
            db.execute(
                "INSERT INTO users (id, name, name_key, role, password_hash, created_at, must_change_password) "
                "VALUES (?, ?, ?, ?, ?, ?, ?)",
                [user.id, user.name, _name_key(name), user.role, password_hash, user.created_at, one_time],
            )
        return user

    def add_with_one_time_password(self, name: str, role: Role) -> str:
        """Add a user with a password that is made here, and return it. Raises UserExists, or StoreError for a bad name."""
        password = _one_time_password()
        self.add_user(name, password, role, one_time=True)
        return password

    def reset_password(self, name: str, *, by: str) -> str:
        """Give a user a new one-time password and return it; his old one and all of his sessions end. Raises UnknownUser."""
        user = self.user_by_name(name)
        password = _one_time_password()
        password_hash = self._hash(password)
        with self._connections.write() as db:
            _replace_password(db, user.id, password_hash, one_time=True)
            append_audit(db, at=self._now(), actor=by, action="user.reset", detail={"name": user.name})
        return password

    def verify_user(self, name: str, password: str) -> User | None:
        """Return the user when the password is his, else None. Takes as long for an unknown name as for a known one."""
        if len(password) > MAX_PASSWORD_CHARS:
            return None
        row = _row(
            self._connections.db.query(f"SELECT {_COLUMNS}, users.password_hash FROM users WHERE name_key = ?", [_name_key(name)])
        )
        secret = _bytes(password)
        if row is None:
            self._hasher.hash(secret)  # the same work as `verify`, so that the time does not tell which names exist
            return None
        password_hash = row.pop("password_hash")
        try:
            self._hasher.verify(password_hash, secret)
        except VerificationError:
            return None
        if self._hasher.check_needs_rehash(password_hash):  # argon2-cffi has raised its defaults since
            newer_hash = self._hasher.hash(secret)
            with self._connections.write() as db:
                db.execute(
                    "UPDATE users SET password_hash = ? WHERE id = ? AND password_hash = ?",
                    [newer_hash, row["id"], password_hash],
                )
        return _user(row)

    def users(self) -> list[User]:
        """Return all users by name."""
        return [_user(row) for row in self._connections.db.query(f"SELECT {_COLUMNS} FROM users ORDER BY name_key")]

    def user(self, user_id: str) -> User:
        """Return the user with this id. Raises UnknownUser."""
        return require_user(self._connections.db, user_id)

    def user_by_name(self, name: str) -> User:
        """Return the user with this name, whatever its case. Raises UnknownUser."""
        row = _row(self._connections.db.query(f"SELECT {_COLUMNS} FROM users WHERE name_key = ?", [_name_key(name)]))
        if row is None:
            raise UnknownUser(name)
        return _user(row)

    def set_password(self, name: str, password: str) -> None:
        """Set a password of the user's own choice, in place of a one-time one too, and end all of his sessions.

        Raises UnknownUser, or StoreError for a bad password and for the one-time password once more.
        """
        user = self.user_by_name(name)
        password_hash = self._hash(password)
        if user.must_change_password and self.verify_user(name, password) is not None:
            raise StoreError("The new password is the one-time password: choose another one.")
        with self._connections.write() as db:
            _replace_password(db, user.id, password_hash, one_time=False)

    def open_session(self, user_id: str, hours: float = 24) -> str:
        """Open a login session of `hours` and return its token, which only the browser keeps. Raises UnknownUser."""
        token = secrets.token_urlsafe(32)
        now = self._clock()
        with self._connections.write() as db:
            require_user(db, user_id)
            db.execute("DELETE FROM sessions WHERE expires_at <= ?", [timestamp(now)])
            db.execute(
                "INSERT INTO sessions (token_hash, user_id, created_at, expires_at) VALUES (?, ?, ?, ?)",
                [_token_hash(token), user_id, timestamp(now), timestamp(now + timedelta(hours=hours))],
            )
        return token

    def session_user(self, token: str) -> User | None:
        """Return the user whose session has this token, or None when there is none or it has expired."""
        row = _row(
            self._connections.db.query(
                f"SELECT {_COLUMNS} FROM sessions JOIN users ON users.id = sessions.user_id "
                "WHERE token_hash = ? AND expires_at > ?",
                [_token_hash(token), self._now()],
            )
        )
        return _user(row) if row else None

    def close_session(self, token: str) -> None:
        """End the session with this token, if there is one."""
        with self._connections.write() as db:
            db.execute("DELETE FROM sessions WHERE token_hash = ?", [_token_hash(token)])

    def _hash(self, password: str) -> str:
        if not MIN_PASSWORD_CHARS <= len(password) <= MAX_PASSWORD_CHARS:
            raise StoreError(
                f"The password has {len(password)} characters: use {MIN_PASSWORD_CHARS} to {MAX_PASSWORD_CHARS} of them."
            )
        return self._hasher.hash(_bytes(password))


def require_user(db: Database, user_id: str) -> User:
    """Return the user with this id, read inside the caller's transaction. Raises UnknownUser."""
    row = _row(db.query(f"SELECT {_COLUMNS} FROM users WHERE id = ?", [user_id]))
    if row is None:
        raise UnknownUser(user_id)
    return _user(row)


def _user(row: dict[str, Any]) -> User:
    """Return the user that a row of _COLUMNS holds."""
    return User(**{**row, "must_change_password": bool(row["must_change_password"])})


def _replace_password(db: Database, user_id: str, password_hash: str, *, one_time: bool) -> None:
    """Put a password in the place of the one before, and end all sessions that it opened."""
    db.execute("UPDATE users SET password_hash = ?, must_change_password = ? WHERE id = ?", [password_hash, one_time, user_id])
    db.execute("DELETE FROM sessions WHERE user_id = ?", [user_id])


def _one_time_password() -> str:
    return secrets.token_urlsafe(12)


def _row(rows: Any) -> dict[str, Any] | None:
    """Return the first row, or None; all are fetched, so that no cursor stays open."""
    return next(iter(list(rows)), None)


def _clean_name(name: str) -> str:
    cleaned = " ".join(name.split())
    if not 1 <= len(cleaned) <= MAX_NAME_CHARS or not cleaned.isprintable():
        raise StoreError(f"The user name {name[:80]!r} cannot be used: take 1 to {MAX_NAME_CHARS} printable characters.")
    return cleaned


def _name_key(name: str) -> str:
    """Return what two names that look alike share."""
    folded = unicodedata.normalize("NFKC", " ".join(name.split())).casefold()
    return unicodedata.normalize("NFKC", folded).encode("utf-8", "replace").decode()


def _token_hash(token: str) -> str:
    return hashlib.sha256(_bytes(token)).hexdigest()


def _bytes(text: str) -> bytes:
    """Return `text` in UTF-8; a form field may hold lone surrogates, and a login may not crash on them."""
    return text.encode("utf-8", "surrogatepass")
