"""Conversations, the turns in them, and their answers: what was asked, what the model saw, and what it said."""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

import psutil
from sqlite_utils import Database
from sqlite_utils.utils import sqlite3

from feedback.errors import StoreError, UnknownTurn, UnknownUser
from feedback.part import StorePart, storable
from feedback.records import Answer, Message, NewTurn, Passage, SentenceCheck, Step, Turn

INTERRUPTED = "The process ended before the answer was recorded."
"""The error of an answer that `mark_interrupted` writes."""

TURN_COLUMNS = """
    turns.id, turns.conversation_id, turns.user_id, turns.question, turns.messages, turns.passages, turns.base_model,
    turns.base_hash, turns.adapter, turns.engine, turns.sampling, turns.history, turns.created_at,
    answers.text, answers.finish_reason, answers.prompt_tokens, answers.completion_tokens, answers.ttft_s, answers.total_s,
    answers.error, turns.searched, turns.collection, answers.written, answers.checks, answers.steps
"""
"""What `turn_from_row` reads, of `turns LEFT JOIN answers`."""


@dataclass(frozen=True, kw_only=True)
class Conversation:
    """A conversation in a list: its first question is its title, "" before the first one; times are ISO 8601, UTC."""

    id: str
    user_id: str
    history: bool
    title: str
    turns: int
    created_at: str
    last_at: str


@dataclass(frozen=True, kw_only=True)
class FailedAnswer:
    """An answer that failed or was interrupted, for the admin's page."""

    turn_id: str
    user_name: str
    question: str
    adapter: str
    finish_reason: str
    error: str
    at: str


class TurnStore(StorePart):
    """What was asked and answered. A turn and its answer are written once and never change."""

    def start_conversation(self, user_id: str, history: bool) -> str:
        """Start a conversation and return its id. Raises UnknownUser."""
        conversation_id = uuid.uuid4().hex
        try:
            with self._connections.write() as db:
                db.execute(
                    "INSERT INTO conversations (id, user_id, history, created_at) VALUES (?, ?, ?, ?)",
                    [conversation_id, user_id, int(history), self._now()],
                )
        except sqlite3.IntegrityError as error:
            raise UnknownUser(user_id) from error
        return conversation_id

    def begin_turn(self, asked: NewTurn) -> str:
        """Record a question before the model is called, and return the turn's id; it is on the disk on return.

        Raises StoreError when the conversation is not this user's.
        """
        turn_id = uuid.uuid4().hex
        row = {
            "id": turn_id,
            "conversation_id": asked.conversation_id,
            "user_id": asked.user_id,
            "question": storable(asked.question),
            "messages": _json([message.as_dict() for message in asked.messages]),
            "passages": _json([asdict(passage) for passage in asked.passages]),
            "base_model": asked.base_model,
            "base_hash": asked.base_hash,
            "adapter": asked.adapter,
            "engine": asked.engine,
            "sampling": _json(asked.sampling),
            "history": int(asked.history),
            "searched": storable(asked.searched),
            "collection": asked.collection,
            "process_id": os.getpid(),
            "created_at": self._now(),
        }
        with self._connections.write() as db:
            if not list(
                db.query("SELECT 1 FROM conversations WHERE id = ? AND user_id = ?", [asked.conversation_id, asked.user_id])
            ):
                raise StoreError(f"This user has no conversation {asked.conversation_id!r}: reload the page to start a new one.")
            _insert(db, "turns", row)
        return turn_id

    def finish_turn(self, turn_id: str, answer: Answer) -> None:
        """Record the answer of a turn, once. Raises UnknownTurn, or StoreError when the turn has an answer already."""
        with self._connections.write() as db:
            require_turn(db, turn_id)
            if list(db.query("SELECT 1 FROM answers WHERE turn_id = ?", [turn_id])):
                raise StoreError(f"The answer {turn_id!r} is recorded already: an answer never changes, ask again for a new one.")
            _insert_answer(db, turn_id, answer, now=self._now())

    def turn(self, turn_id: str) -> Turn:
        """Return one turn, whoever asked it. Raises UnknownTurn."""
        found = self._turns("WHERE turns.id = ?", [turn_id])
        if not found:
            raise UnknownTurn(turn_id)
        return found[0]

    def turns(self, conversation_id: str) -> list[Turn]:
        """Return the turns of a conversation in the order of asking; none for an unknown conversation."""
        return self._turns("WHERE turns.conversation_id = ?", [conversation_id])

    def conversations(self, user_id: str, limit: int = 50) -> list[Conversation]:
        """Return at most `limit` conversations of a user, the one with the latest question first."""
        rows = self._connections.db.query(
            """
            SELECT conversations.id, conversations.user_id, conversations.history, conversations.created_at,
                   count(turns.seq) AS turns,
                   coalesce(max(turns.created_at), conversations.created_at) AS last_at,
                   coalesce((SELECT question FROM turns AS first WHERE first.conversation_id = conversations.id
                             ORDER BY first.seq LIMIT 1), '') AS title
            FROM conversations LEFT JOIN turns ON turns.conversation_id = conversations.id
            WHERE conversations.user_id = ? GROUP BY conversations.id ORDER BY last_at DESC, conversations.seq DESC LIMIT ?
            """,
            [user_id, limit],
        )
        return [Conversation(**{**row, "history": bool(row["history"])}) for row in rows]

    def mark_interrupted(self) -> int:
        """Close the turns whose process died before their answer was recorded, and return how many there were.

        Turns that a process still alive is answering are left to it.
        """
        with self._connections.write() as db:
            open_turns = list(
                db.query(
                    "SELECT id, process_id, turns.created_at FROM turns LEFT JOIN answers ON answers.turn_id = turns.id "
                    "WHERE answers.turn_id IS NULL"
                )
            )
            dead = [row["id"] for row in open_turns if not _still_runs(row["process_id"], asked_at=row["created_at"])]
            for turn_id in dead:
                _insert_answer(db, turn_id, Answer(text="", finish_reason="interrupted", error=INTERRUPTED), now=self._now())
        return len(dead)

    def recent_errors(self, limit: int = 20) -> list[FailedAnswer]:
        """Return the newest answers that failed or were interrupted, newest first."""
        rows = self._connections.db.query(
            """
            SELECT turns.id AS turn_id, users.name AS user_name, turns.question, turns.adapter, answers.finish_reason,
                   coalesce(answers.error, '') AS error, answers.created_at AS at
            FROM answers JOIN turns ON turns.id = answers.turn_id JOIN users ON users.id = turns.user_id
            WHERE answers.finish_reason IN ('failed', 'interrupted') ORDER BY answers.created_at DESC, turns.seq DESC LIMIT ?
            """,
            [limit],
        )
        return [FailedAnswer(**row) for row in rows]

    def _turns(self, where: str, parameters: Sequence[object]) -> list[Turn]:
        rows = self._connections.db.query(
            f"SELECT {TURN_COLUMNS} FROM turns LEFT JOIN answers ON answers.turn_id = turns.id {where} ORDER BY turns.seq",
            parameters,
        )
        return [turn_from_row(row) for row in rows]


def require_turn(db: Database, turn_id: str) -> str:
    """Return the id of the user who asked the turn. Raises UnknownTurn."""
    rows = list(db.query("SELECT user_id FROM turns WHERE id = ?", [turn_id]))
    if not rows:
        raise UnknownTurn(turn_id)
    return str(rows[0]["user_id"])


def turn_from_row(row: dict[str, Any]) -> Turn:
    """Build a turn from a row that has TURN_COLUMNS."""
    answer = None
    if row["finish_reason"] is not None:
        answer = Answer(
            text=row["text"],
            finish_reason=row["finish_reason"],
            prompt_tokens=row["prompt_tokens"],
            completion_tokens=row["completion_tokens"],
            ttft_s=row["ttft_s"],
            total_s=row["total_s"],
            error=row["error"],
            written=row["written"],
            checks=tuple(SentenceCheck(**{**check, "cited": tuple(check["cited"])}) for check in json.loads(row["checks"])),
            steps=tuple(_step(step) for step in json.loads(row["steps"])),
        )
    asked = NewTurn(
        conversation_id=row["conversation_id"],
        user_id=row["user_id"],
        question=row["question"],
        messages=tuple(Message(**message) for message in json.loads(row["messages"])),
        passages=tuple(Passage(**passage) for passage in json.loads(row["passages"])),
        base_model=row["base_model"],
        base_hash=row["base_hash"],
        adapter=row["adapter"],
        engine=row["engine"],
        sampling=json.loads(row["sampling"]),
        history=bool(row["history"]),
        searched=row["searched"],
        collection=row["collection"],
    )
    return Turn(id=row["id"], asked=asked, answer=answer, created_at=row["created_at"])


def _step(step: dict[str, Any]) -> Step:
    return Step(
        **{
            **step,
            "messages": tuple(Message(**message) for message in step["messages"]),
            "passages": tuple(Passage(**passage) for passage in step["passages"]),
        }
    )


def _insert_answer(db: Database, turn_id: str, answer: Answer, *, now: str) -> None:
    row = {**asdict(answer), "turn_id": turn_id, "text": storable(answer.text), "created_at": now}
    row["error"] = None if answer.error is None else storable(answer.error)
    row["written"] = None if answer.written is None else storable(answer.written)
    row["checks"] = _json(row["checks"])
    row["steps"] = _json(row["steps"])
    _insert(db, "answers", row)


def _insert(db: Database, table: str, row: dict[str, Any]) -> None:
    columns = ", ".join(row)
    marks = ", ".join(f":{column}" for column in row)
    db.execute(f"INSERT INTO {table} ({columns}) VALUES ({marks})", row)


def _json(value: object) -> str:
    return storable(json.dumps(value, ensure_ascii=False))


def _still_runs(process_id: int, *, asked_at: str) -> bool:
    """Say whether the process that asked at `asked_at` still runs; a later process may have been given the same number."""
    try:
        process = psutil.Process(process_id)
        started = process.create_time()
        is_zombie = process.status() == psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False
    clock_slack = 1.0  # seconds: the kernel counts a process's start in ticks
    return not is_zombie and started <= datetime.fromisoformat(asked_at).timestamp() + clock_slack
