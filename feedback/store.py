"""The store of the feedback package: everything that is remembered about users and answers, behind one class.

store = FeedbackStore(home / "nightschool.db")
turn_id = store.begin_turn(NewTurn(...))                  # before the model is called
store.finish_turn(turn_id, Answer(...))                   # whatever happened
store.rate(turn_id, user.id, "down", reasons=["wrong"])
store.correct(turn_id, user.id, "140 euros")
store.rated_turns()                                       # what a night learns from
"""

from __future__ import annotations

from pathlib import Path

from feedback.audit import AuditStore
from feedback.database import Connections
from feedback.migrations import feedback_migrations
from feedback.open_questions import OpenQuestionStore
from feedback.part import Clock, utc_now
from feedback.ratings import RatingStore
from feedback.turns import TurnStore
from feedback.users import UserStore


class FeedbackStore(UserStore, TurnStore, RatingStore, OpenQuestionStore, AuditStore):
    """Users, sessions, conversations, turns, ratings, corrections, open questions and the audit, in the file at `path`.

    Safe to share between threads; several processes may have the same file open. `clock` gives the time, aware.
    Every method may raise StoreError when the file cannot be used. Opening one imports sqlite-utils, which takes half a
    second: import this module where a store is opened.
    """

    def __init__(self, path: Path, *, clock: Clock = utc_now) -> None:
        super().__init__(Connections(path, [feedback_migrations]), clock)

    def close(self) -> None:
        """Close the file in all threads."""
        self._connections.close()
