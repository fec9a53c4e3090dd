"""Conversations, turns and answers: complete, written once, and there whatever happens to the process."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from feedback.errors import StoreError, UnknownTurn, UnknownUser
from feedback.records import Answer, Message, NewTurn, User
from feedback.store import FeedbackStore
from feedback.turns import INTERRUPTED, Conversation

if TYPE_CHECKING:
    from .conftest import FakeClock

ANSWER = Answer(
    text="€140 [1]", finish_reason="stop", prompt_tokens=90, completion_tokens=7, ttft_s=0.5, total_s=1.25, error=None
)

# asks as a chat does; says the id of a turn once it is stored, and a line again once its answer is
ASKER = """
import sys, pathlib
from feedback.records import Answer, Message, NewTurn
from feedback.store import FeedbackStore
store, user_id, count = FeedbackStore(pathlib.Path(sys.argv[1])), sys.argv[2], int(sys.argv[3])
conversation_id = store.start_conversation(user_id, history=False)
for number in range(count):
    turn_id = store.begin_turn(NewTurn(
        conversation_id=conversation_id, user_id=user_id, question=f"question {number}",
        messages=(Message(role="user", content=f"question {number}"),), passages=(), base_model="m", base_hash="h",
        adapter="base", engine="e", sampling={}, history=False))
    print("asked", turn_id, flush=True)
    if "--hang" in sys.argv:
        sys.stdin.readline()
    store.finish_turn(turn_id, Answer(text=f"answer {number}", finish_reason="stop"))
    print("answered", turn_id, flush=True)
"""


def test_a_turn_comes_back_exactly_as_it_was_asked_and_answered(
    store: FeedbackStore, ada: User, new_turn: Callable[..., NewTurn]
) -> None:
    asked = new_turn(ada, history=True, adapter="v0007", question="Wie viel?\n\0 \U0001f600 'quoted' \"so\"")
    turn_id = store.begin_turn(asked)
    assert store.turn(turn_id).asked == asked
    assert store.turn(turn_id).answer is None
    assert store.turn(turn_id).created_at == "2026-11-22T12:00:00.000000+00:00"
    store.finish_turn(turn_id, ANSWER)
    assert store.turn(turn_id).answer == ANSWER
    assert store.turn(turn_id).asked == asked


def test_a_turn_without_messages_and_an_answer_without_tokens_are_stored(
    store: FeedbackStore, ada: User, new_turn: Callable[..., NewTurn]
) -> None:
    turn_id = store.begin_turn(new_turn(ada, messages=(), passages=()))
    answer = Answer(text="", finish_reason="failed", error="The engine failed: out of memory.")
    store.finish_turn(turn_id, answer)
    assert store.turn(turn_id).asked.messages == ()
    assert store.turn(turn_id).answer == answer


def test_text_that_utf8_cannot_hold_is_stored_with_a_mark_in_its_place(
    store: FeedbackStore, ada: User, new_turn: Callable[..., NewTurn]
) -> None:
    turn_id = store.begin_turn(new_turn(ada, question="a\ud800b", messages=(Message(role="user", content="a\ud800b"),)))
    store.finish_turn(turn_id, replace(ANSWER, text="\udfff", error="\ud83d"))
    turn = store.turn(turn_id)
    assert (turn.asked.question, turn.asked.messages[0].content) == ("a\ufffdb", "a\ufffdb")
    assert turn.answer == replace(ANSWER, text="\ufffd", error="\ufffd")


def test_an_answer_is_written_once(store: FeedbackStore, ada: User, answered: Callable[..., str]) -> None:
    turn_id = answered(ada)
    first = store.turn(turn_id)
    with pytest.raises(StoreError, match="recorded already"):
        store.finish_turn(turn_id, replace(ANSWER, text="second thoughts"))
    assert store.turn(turn_id) == first


def test_an_unknown_turn_is_named(store: FeedbackStore) -> None:
    with pytest.raises(UnknownTurn, match="no answer with the id 't404'"):
        store.turn("t404")
    with pytest.raises(UnknownTurn, match="no answer with the id 't404'"):
        store.finish_turn("t404", ANSWER)
    assert store.turns("c404") == []


def test_a_conversation_belongs_to_its_user(store: FeedbackStore, ada: User, ben: User, new_turn: Callable[..., NewTurn]) -> None:
    with pytest.raises(UnknownUser, match="'nobody'"):
        store.start_conversation("nobody", history=False)
    hers = store.start_conversation(ada.id, history=False)
    for conversation_id in (hers, "c404"):
        with pytest.raises(StoreError, match=f"no conversation '{conversation_id}'"):
            store.begin_turn(new_turn(ben, conversation_id=conversation_id))
    assert store.turns(hers) == []


def test_turns_come_in_the_order_of_asking_even_when_the_clock_goes_back(
    store: FeedbackStore, ada: User, answered: Callable[..., str], clock: FakeClock
) -> None:
    conversation_id = store.start_conversation(ada.id, history=True)
    ids = []
    for _ in range(3):
        ids.append(answered(ada, conversation_id=conversation_id))
        clock.advance(hours=-1)
    assert [turn.id for turn in store.turns(conversation_id)] == ids


def test_conversations_are_listed_by_their_latest_question(
    store: FeedbackStore, ada: User, ben: User, answered: Callable[..., str], clock: FakeClock
) -> None:
    old, new = store.start_conversation(ada.id, history=True), store.start_conversation(ada.id, history=False)
    answered(ben)
    clock.advance(hours=1)
    answered(ada, conversation_id=old, question="first?")
    clock.advance(hours=1)
    answered(ada, conversation_id=old, question="second?")
    start, last = "2026-11-22T12:00:00.000000+00:00", "2026-11-22T14:00:00.000000+00:00"
    assert store.conversations(ada.id) == [
        Conversation(id=old, user_id=ada.id, history=True, title="first?", turns=2, created_at=start, last_at=last),
        Conversation(id=new, user_id=ada.id, history=False, title="", turns=0, created_at=start, last_at=start),
    ]
    assert [conversation.id for conversation in store.conversations(ada.id, limit=1)] == [old]
    assert store.conversations("nobody") == []


def test_recent_errors_are_the_failed_and_interrupted_answers_newest_first(
    store: FeedbackStore, ada: User, new_turn: Callable[..., NewTurn], clock: FakeClock
) -> None:
    for reason in ("stop", "failed", "length", "stopped", "refused", "interrupted"):
        turn_id = store.begin_turn(new_turn(ada, question=f"{reason}?", adapter="v0001"))
        store.finish_turn(turn_id, Answer(text="", finish_reason=reason, error=f"because of {reason}"))
        clock.advance(minutes=1)
    errors = store.recent_errors()
    assert [(error.question, error.error) for error in errors] == [
        ("interrupted?", "because of interrupted"),
        ("failed?", "because of failed"),
    ]
    assert (errors[1].user_name, errors[1].adapter, errors[1].at) == ("Ada", "v0001", "2026-11-22T12:01:00.000000+00:00")
    assert store.recent_errors(limit=1) == errors[:1]


def test_a_turn_survives_kill_9_and_is_then_marked_interrupted(
    store: FeedbackStore, path: Path, ada: User, start_python: Callable[..., subprocess.Popen[str]]
) -> None:
    real = FeedbackStore(path)  # with the real clock, as process start times are real
    process = start_python(ASKER, path, ada.id, 1, "--hang")
    assert process.stdout is not None
    turn_id = process.stdout.readline().split()[1]
    assert real.mark_interrupted() == 0  # it is still being answered
    assert real.turn(turn_id).answer is None
    os.kill(process.pid, signal.SIGKILL)
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)  # dead, and a zombie as yet
    assert real.turn(turn_id).asked.question == "question 0"
    assert real.mark_interrupted() == 1
    assert real.turn(turn_id).answer == Answer(text="", finish_reason="interrupted", error=INTERRUPTED)
    assert real.mark_interrupted() == 0
    assert [error.turn_id for error in real.recent_errors()] == [turn_id]


def test_a_later_process_with_the_same_number_does_not_keep_a_turn_open(
    store: FeedbackStore, ada: User, new_turn: Callable[..., NewTurn], clock: FakeClock
) -> None:
    clock.advance(days=-3650)  # this process started after the turn was asked, so another one with its number asked it
    turn_id = store.begin_turn(new_turn(ada))
    assert store.mark_interrupted() == 1
    assert store.turn(turn_id).answer is not None


def test_whatever_was_stored_before_kill_9_at_any_moment_is_there(
    store: FeedbackStore, path: Path, ada: User, start_python: Callable[..., subprocess.Popen[str]]
) -> None:
    moments = random.Random(7)
    stored: set[tuple[str, str]] = set()
    rounds = 4
    for _ in range(rounds):
        process = start_python(ASKER, path, ada.id, 1_000_000)
        assert process.stdout is not None
        lines = [process.stdout.readline() for _ in range(moments.randint(1, 40))]
        time.sleep(moments.uniform(0, 0.01))
        process.kill()
        lines += process.stdout
        stored |= {tuple(line.split()) for line in lines if line.endswith("\n")}  # type: ignore[misc]
    turns = [turn for conversation in store.conversations(ada.id) for turn in store.turns(conversation.id)]
    asked = {turn.id for turn in turns}
    answers = {turn.id for turn in turns if turn.answer is not None}
    assert {turn_id for what, turn_id in stored if what == "asked"} <= asked
    assert {turn_id for what, turn_id in stored if what == "answered"} <= answers
    assert len(asked - answers) <= rounds
    assert len(answers) >= rounds  # the moments were not all before the work
    assert store._connections.db.execute("PRAGMA integrity_check").fetchall() == [("ok",)]


def test_two_processes_and_four_threads_write_at_once_and_lose_nothing(
    store: FeedbackStore, path: Path, ada: User, answered: Callable[..., str], start_python: Callable[..., subprocess.Popen[str]]
) -> None:
    processes = [start_python(ASKER, path, ada.id, 100) for _ in range(2)]
    ids: list[str] = []
    threads = [threading.Thread(target=lambda: ids.extend(answered(ada) for _ in range(25))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    outputs = [process.communicate(timeout=60) for process in processes]
    for out, err in outputs:
        assert err == ""
        ids += [line.split()[1] for line in out.splitlines() if line.startswith("answered")]
    turns = [turn for conversation in store.conversations(ada.id, limit=1000) for turn in store.turns(conversation.id)]
    assert len(ids) == 300
    assert {turn.id for turn in turns if turn.answer} == set(ids)
    assert store._connections.db.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
