"""Questions that their askers sent to the document owner, because the documents did not answer them (well enough)."""

from __future__ import annotations

import json
from typing import Any

from sqlite_utils import Database

from feedback.audit import append_audit
from feedback.errors import NotYourTurn, StoreError
from feedback.part import StorePart, storable
from feedback.records import OpenQuestion
from feedback.turns import require_turn
from feedback.users import require_user

MAX_NOTE_CHARS = 2_000
CLOSEST = 3
"""So many documents are named as the ones that came closest."""

_SELECT = """
    SELECT open_questions.turn_id, open_questions.user_id, users.name AS user_name, turns.question, open_questions.note,
           open_questions.sent_at, open_questions.closed_at, open_questions.closed_by, open_questions.resolution,
           turns.passages, answers.steps
    FROM open_questions JOIN turns ON turns.id = open_questions.turn_id JOIN users ON users.id = open_questions.user_id
    LEFT JOIN answers ON answers.turn_id = open_questions.turn_id
"""


class OpenQuestionStore(StorePart):
    """What employees ask of the document owner, and what came of it."""

    def send_question(self, turn_id: str, user_id: str, note: str = "") -> OpenQuestion:
        """Send one's own answered question to the document owner; sent before, it stays as it was sent.

        Raises UnknownTurn, NotYourTurn, UnknownUser, and StoreError for an unanswered question or a note that is too long.
        """
        note = _checked("note", note)
        with self._connections.write() as db:
            user = require_user(db, user_id)
            if require_turn(db, turn_id) != user_id:
                raise NotYourTurn(turn_id, user.name)
            if not list(db.query("SELECT 1 FROM answers WHERE turn_id = ?", [turn_id])):
                raise StoreError(f"The question {turn_id!r} is still being answered: send it when its answer is there.")
            db.execute(
                "INSERT INTO open_questions (turn_id, user_id, note, sent_at) VALUES (?, ?, ?, ?) ON CONFLICT DO NOTHING",
                [turn_id, user_id, note, self._now()],
            )
            return _one(db, turn_id)

    def open_questions(self, limit: int = 50, *, closed: bool = False) -> list[OpenQuestion]:
        """Return at most `limit` questions that wait for the document owner (or those that are closed), newest first."""
        condition, order = ("NOT NULL", "closed_at") if closed else ("NULL", "sent_at")
        rows = self._connections.db.query(
            f"{_SELECT} WHERE open_questions.closed_at IS {condition} "
            f"ORDER BY open_questions.{order} DESC, turns.seq DESC LIMIT ?",
            [limit],
        )
        return [_from_row(row) for row in rows]

    def sent_questions(self, user_id: str) -> dict[str, OpenQuestion]:
        """Return what a user sent to the document owner, open and closed, by turn."""
        rows = self._connections.db.query(f"{_SELECT} WHERE open_questions.user_id = ?", [user_id])
        return {row["turn_id"]: _from_row(row) for row in rows}

    def close_question(self, turn_id: str, by: str, resolution: str) -> OpenQuestion:
        """Close a question, saying what came of it; `by` is the admin's name. The audit remembers who closed which.

        Raises UnknownTurn, and StoreError for a question that was never sent or is closed, or an empty or over-long resolution.
        """
        resolution = _checked("resolution", resolution)
        if not resolution:
            raise StoreError("The resolution is empty: say what came of the question.")
        with self._connections.write() as db:
            require_turn(db, turn_id)
            found = _one(db, turn_id)
            if found.closed_at:
                raise StoreError(f"The question {found.question!r} was closed already, by {found.closed_by}: reload the page.")
            now = self._now()
            db.execute(
                "UPDATE open_questions SET closed_at = ?, closed_by = ?, resolution = ? WHERE turn_id = ?",
                [now, storable(by), resolution, turn_id],
            )
            append_audit(db, at=now, actor=by, action="question.close", detail={"turn": turn_id, "resolution": resolution})
            return _one(db, turn_id)


def _checked(what: str, text: str) -> str:
    text = storable(text).strip()
    if len(text) > MAX_NOTE_CHARS:
        raise StoreError(f"The {what} has {len(text):,} characters; at most {MAX_NOTE_CHARS:,} are kept: shorten it.")
    return text


def _one(db: Database, turn_id: str) -> OpenQuestion:
    rows = list(db.query(f"{_SELECT} WHERE open_questions.turn_id = ?", [turn_id]))
    if not rows:
        raise StoreError(f"The question {turn_id!r} was never sent to the document owner: reload the page for those that were.")
    return _from_row(rows[0])


def _from_row(row: dict[str, Any]) -> OpenQuestion:
    found = [*json.loads(row["passages"]), *(each for step in json.loads(row["steps"] or "[]") for each in step["passages"])]
    return OpenQuestion(
        turn_id=row["turn_id"],
        user_id=row["user_id"],
        user_name=row["user_name"],
        question=row["question"],
        note=row["note"],
        closest=tuple(dict.fromkeys(each["document"] for each in found))[:CLOSEST],
        sent_at=row["sent_at"],
        closed_at=row["closed_at"] or "",
        closed_by=row["closed_by"] or "",
        resolution=row["resolution"] or "",
    )
