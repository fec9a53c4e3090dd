"""A clock that the test moves, a store on a temporary file, its users, and turns in it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from argon2 import PasswordHasher

from feedback.records import Answer, Message, NewTurn, Passage, User
from feedback.store import FeedbackStore
from feedback.users import UserStore

PASSWORD = "a long enough password"


class FakeClock:
    """Stands still until it is moved."""

    def __init__(self) -> None:
        self.now = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)

    def __call__(self) -> datetime:
        return self.now

    def advance(self, **amount: float) -> None:
        self.now += timedelta(**amount)


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def password() -> str:
    return PASSWORD


@pytest.fixture(autouse=True)
def cheap_argon2(monkeypatch: pytest.MonkeyPatch) -> None:
    """Real argon2id with the least memory: the tests check what is stored, not how long it takes."""
    monkeypatch.setattr(UserStore, "_hasher", PasswordHasher(time_cost=1, memory_cost=8, parallelism=1))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "nightschool.db"


@pytest.fixture
def store(path: Path, clock: FakeClock) -> Iterator[FeedbackStore]:
    store = FeedbackStore(path, clock=clock)
    yield store
    store.close()


@pytest.fixture
def ada(store: FeedbackStore) -> User:
    return store.add_user("Ada", PASSWORD, "employee")


@pytest.fixture
def ben(store: FeedbackStore) -> User:
    return store.add_user("Ben", PASSWORD, "employee")


@pytest.fixture
def boss(store: FeedbackStore) -> User:
    return store.add_user("Boss", PASSWORD, "admin")


@pytest.fixture
def new_turn(store: FeedbackStore) -> Callable[..., NewTurn]:
    """Make a question of a user, in a new conversation unless one is given."""

    def make(user: User, **changes: Any) -> NewTurn:
        conversation_id = changes.pop("conversation_id", None) or store.start_conversation(user.id, history=False)
        asked = NewTurn(
            conversation_id=conversation_id,
            user_id=user.id,
            question="How much is the bicycle allowance?",
            messages=(
                Message(role="system", content="Answer from the passages."),
                Message(role="user", content="[1] The allowance is €140.\n\nHow much is the bicycle allowance?"),
            ),
            passages=(
                Passage(
                    number=1,
                    document="travel/bicycles.md",
                    document_version=2,
                    chunk_id=17,
                    title="Bicycles > Allowance",
                    text="The allowance is €140.",
                    score=0.75,
                ),
            ),
            base_model="SmolLM2-135M-Instruct",
            base_hash="0" * 64,
            adapter="base",
            engine="llama_cpp 1",
            sampling={"temperature": 0.0, "max_tokens": 160},
            history=False,
        )
        return replace(asked, **changes)

    return make


@pytest.fixture
def answered(store: FeedbackStore, new_turn: Callable[..., NewTurn]) -> Callable[..., str]:
    """Ask and answer a question of a user; give the turn's id."""

    def ask(user: User, **changes: Any) -> str:
        turn_id = store.begin_turn(new_turn(user, **changes))
        store.finish_turn(turn_id, Answer(text="€140 [1]", finish_reason="stop", prompt_tokens=90, completion_tokens=7))
        return turn_id

    return ask


@pytest.fixture
def start_python(pytestconfig: pytest.Config) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Start a Python program in a process of its own, with pipes; those that still run at the end are killed."""
    started: list[subprocess.Popen[str]] = []

    def start(code: str, *arguments: object) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-c", code, *map(str, arguments)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": str(pytestconfig.rootpath)},
        )
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()
