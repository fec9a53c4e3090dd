"""Ratings and corrections. Both are append-only: changing or withdrawing one adds a row, and the older ones are history."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import UTC, timedelta
from typing import Any

from sqlite_utils import Database

from feedback.errors import NotYourTurn, StoreError
from feedback.part import StorePart, storable
from feedback.records import REASONS, Feedback, RatedTurn, Thumb
from feedback.turns import TURN_COLUMNS, require_turn, turn_from_row
from feedback.users import require_user

MAX_COMMENT_CHARS = 2_000
MAX_CORRECTION_CHARS = 4_000

_IN_FORCE = """
    rated AS (
        SELECT turn_id, user_id, thumb, reasons, comment, created_at, max(seq) AS seq FROM ratings GROUP BY turn_id, user_id
    ),
    corrected AS (
        SELECT turn_id, user_id, text AS correction, verified, created_at, max(seq) AS seq FROM corrections
        GROUP BY turn_id, user_id
    )
"""
"""The newest row of each turn and user, withdrawn ones (NULL) included: SQLite takes the bare columns from max(seq)'s row."""

_NEXT_SEQ = "1 + max(coalesce((SELECT max(seq) FROM ratings), 0), coalesce((SELECT max(seq) FROM corrections), 0))"
"""One order over both tables, whatever the clock does."""


class RatingStore(StorePart):
    """What people say of answers."""

    def rate(self, turn_id: str, user_id: str, thumb: Thumb | None, reasons: Sequence[str] = (), comment: str = "") -> Feedback:
        """Rate one's own turn, or withdraw the rating (None), and return what is in force now; a correction stays as it is.

        Raises UnknownTurn, NotYourTurn, UnknownUser, and StoreError for an unknown reason tag or a comment that is too long.
        """
        reasons, comment = _checked_rating(thumb, reasons, comment)
        with self._connections.write() as db:
            user = require_user(db, user_id)
            if require_turn(db, turn_id) != user_id:
                raise NotYourTurn(turn_id, user.name)
            said = _in_force(db, turn_id, user_id)
            # the same click twice is one rating, and there must be a rating to withdraw one
            if (said.thumb, said.reasons, said.comment) != (thumb, reasons, comment):
                db.execute(
                    "INSERT INTO ratings (seq, turn_id, user_id, thumb, reasons, comment, created_at) "
                    f"VALUES ({_NEXT_SEQ}, ?, ?, ?, ?, ?, ?)",
                    [turn_id, user_id, thumb, json.dumps(reasons), comment, self._now()],
                )
            return _in_force(db, turn_id, user_id)

    def correct(self, turn_id: str, user_id: str, text: str | None, verified: bool = False) -> Feedback:
        """Say what the answer should have been, or withdraw that (None), and return what is in force now.

        An employee corrects his own turns. An admin corrects any turn, and what an admin writes is verified, asked for
        or not. Raises UnknownTurn, NotYourTurn, UnknownUser, and StoreError for an empty or over-long text, or when
        somebody else than an admin asks for `verified`.
        """
        text = _checked_correction(text)
        with self._connections.write() as db:
            user = require_user(db, user_id)
            is_admin = user.role == "admin"
            if require_turn(db, turn_id) != user_id and not is_admin:
                raise NotYourTurn(turn_id, user.name)
            if verified and not is_admin:
                raise StoreError(f"The user {user.name!r} cannot verify a correction: ask an admin to.")
            said = _in_force(db, turn_id, user_id)
            is_verified = is_admin and text is not None
            if (said.correction, said.verified) != (text, is_verified):
                db.execute(
                    "INSERT INTO corrections (seq, turn_id, user_id, text, verified, created_at) "
                    f"VALUES ({_NEXT_SEQ}, ?, ?, ?, ?, ?)",
                    [turn_id, user_id, text, int(is_verified), self._now()],
                )
            return _in_force(db, turn_id, user_id)

    def feedback(self, turn_id: str, user_id: str) -> Feedback | None:
        """Return what a user says of a turn now, or None when that is nothing (any more)."""
        said = _in_force(self._connections.db, turn_id, user_id)
        return None if said.thumb is None and said.correction is None else said

    def feedback_history(self, turn_id: str) -> list[dict[str, Any]]:
        """Return everything that was ever said of a turn, oldest first. Raises UnknownTurn.

        Each entry has "at", "user_id", "user", "kind", and then "thumb" (None: withdrawn), "reasons" and "comment" for
        the kind "rating", or "text" (None: withdrawn) and "verified" for the kind "correction".
        """
        db = self._connections.db
        require_turn(db, turn_id)
        rows = db.query(
            """
            SELECT seq, 'rating' AS kind, user_id, thumb, reasons, comment, NULL AS text, NULL AS verified, created_at
            FROM ratings WHERE turn_id = :turn_id
            UNION ALL
            SELECT seq, 'correction', user_id, NULL, NULL, NULL, text, verified, created_at
            FROM corrections WHERE turn_id = :turn_id
            ORDER BY seq
            """,
            {"turn_id": turn_id},
        )
        names = {row["id"]: row["name"] for row in db.query("SELECT id, name FROM users")}
        return [_history_entry(row, names) for row in rows]

    def rated_turns(self) -> list[RatedTurn]:
        """Return each answered turn with what a user says of it now, in the order of saying.

        Where somebody gave a correction and a thumb, the correction is what he says. A turn that two people spoke of (its
        user, and an admin) comes once for each of them. Withdrawn ones are left out.
        """
        rows = self._connections.db.query(
            f"""
            WITH {_IN_FORCE},
            said AS (
                SELECT turn_id, user_id FROM rated WHERE thumb IS NOT NULL
                UNION SELECT turn_id, user_id FROM corrected WHERE correction IS NOT NULL
            )
            SELECT {TURN_COLUMNS}, said.user_id AS rater_id, users.name AS rater_name, rated.thumb, rated.reasons, rated.comment,
                   corrected.correction, corrected.verified, rated.created_at AS rated_at, corrected.created_at AS corrected_at
            FROM said
            JOIN turns ON turns.id = said.turn_id
            JOIN answers ON answers.turn_id = turns.id
            JOIN users ON users.id = said.user_id
            LEFT JOIN rated ON rated.turn_id = said.turn_id AND rated.user_id = said.user_id
            LEFT JOIN corrected ON corrected.turn_id = said.turn_id AND corrected.user_id = said.user_id
            ORDER BY CASE WHEN corrected.correction IS NULL THEN rated.seq ELSE corrected.seq END
            """
        )
        return [
            RatedTurn(
                turn=turn_from_row(row),
                feedback=_feedback_from_row(row["id"], row["rater_id"], row),
                user_name=row["rater_name"],
            )
            for row in rows
        ]

    def ratings_by_day(self, days: int = 30) -> list[tuple[str, int, int, int]]:
        """Return (day, up, down, corrections) for each of the last `days` days in UTC, oldest first, today last.

        Counts what is in force, on the day it was last said; days without any are there with zeros.
        """
        today = self._clock().astimezone(UTC).date()
        first = (today - timedelta(days=days - 1)).isoformat()
        counts = self._connections.db.query(
            f"""
            WITH {_IN_FORCE}
            SELECT substr(created_at, 1, 10) AS day, thumb AS kind, count(*) AS n FROM rated
            WHERE thumb IS NOT NULL AND created_at >= :first GROUP BY day, kind
            UNION ALL
            SELECT substr(created_at, 1, 10) AS day, 'correction' AS kind, count(*) AS n FROM corrected
            WHERE correction IS NOT NULL AND created_at >= :first GROUP BY day
            """,
            {"first": first},
        )
        found = {(row["day"], row["kind"]): row["n"] for row in counts}
        calendar = [(today - timedelta(days=back)).isoformat() for back in reversed(range(days))]
        return [
            (day, found.get((day, "up"), 0), found.get((day, "down"), 0), found.get((day, "correction"), 0)) for day in calendar
        ]


def _in_force(db: Database, turn_id: str, user_id: str) -> Feedback:
    """Return what a user says of a turn now; all fields empty when that is nothing."""
    newest = "WHERE turn_id = ? AND user_id = ? ORDER BY seq DESC LIMIT 1"
    rated = list(db.query(f"SELECT thumb, reasons, comment, created_at AS rated_at FROM ratings {newest}", [turn_id, user_id]))
    corrected = list(
        db.query(f"SELECT text AS correction, verified, created_at AS corrected_at FROM corrections {newest}", [turn_id, user_id])
    )
    row = {key: value for found in (*rated, *corrected) for key, value in found.items()}
    return _feedback_from_row(turn_id, user_id, row)


def _feedback_from_row(turn_id: str, user_id: str, row: dict[str, Any]) -> Feedback:
    times = [row.get("rated_at"), row.get("corrected_at")]
    return Feedback(
        turn_id=turn_id,
        user_id=user_id,
        thumb=row.get("thumb"),
        reasons=tuple(json.loads(row.get("reasons") or "[]")),
        comment=row.get("comment") or "",
        correction=row.get("correction"),
        verified=bool(row.get("verified")),
        updated_at=max((at for at in times if at), default=""),
    )


def _history_entry(row: dict[str, Any], names: dict[str, str]) -> dict[str, Any]:
    entry = {"at": row["created_at"], "user_id": row["user_id"], "user": names[row["user_id"]], "kind": row["kind"]}
    if row["kind"] == "rating":
        return {**entry, "thumb": row["thumb"], "reasons": json.loads(row["reasons"]), "comment": row["comment"]}
    return {**entry, "text": row["text"], "verified": bool(row["verified"])}


def _checked_rating(thumb: Thumb | None, reasons: Sequence[str], comment: str) -> tuple[tuple[str, ...], str]:
    """Return the reasons, each once, and the comment, as they are stored. Raises StoreError."""
    if thumb not in ("up", "down", None):
        raise StoreError(f"The rating {thumb!r} is not known: use 'up', 'down', or nothing to withdraw it.")
    unknown = [reason for reason in reasons if reason not in REASONS]
    if unknown:
        raise StoreError(f"The reason {unknown[0]!r} is not known: use one of {', '.join(REASONS)}.")
    comment = storable(comment).strip()
    if len(comment) > MAX_COMMENT_CHARS:
        raise StoreError(f"The comment has {len(comment)} characters: shorten it to {MAX_COMMENT_CHARS}.")
    if thumb is None:
        return (), ""
    return tuple(dict.fromkeys(reasons)), comment


def _checked_correction(text: str | None) -> str | None:
    """Return the correction as it is stored. Raises StoreError."""
    if text is None:
        return None
    text = storable(text).strip()
    if not text:
        raise StoreError("The correction is empty: write what the answer should have been, or withdraw it.")
    if len(text) > MAX_CORRECTION_CHARS:
        raise StoreError(f"The correction has {len(text)} characters: shorten it to {MAX_CORRECTION_CHARS}.")
    return text
