"""Questions for the document owner: sent once, by their asker alone, and closed with what came of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from feedback.errors import NotYourTurn, StoreError, UnknownTurn
from feedback.open_questions import MAX_NOTE_CHARS
from feedback.records import Answer, NewTurn, Step, User
from feedback.store import FeedbackStore

if TYPE_CHECKING:
    from .conftest import FakeClock

Ask = Callable[..., str]


def test_a_question_is_sent_with_its_note_and_the_pages_that_came_closest(
    store: FeedbackStore, ada: User, new_turn: Callable[..., NewTurn]
) -> None:
    asked = new_turn(ada)
    (page,) = asked.passages
    near = [replace(page, number=number, document=f"travel/{number % 4}.md") for number in range(2, 8)]
    turn_id = store.begin_turn(replace(asked, passages=(page, *near[:2])))
    step = Step(name="search_documentation", passages=tuple(near[2:]))
    store.finish_turn(turn_id, Answer(text="I could not find this in the documents.", finish_reason="refused", steps=(step,)))
    sent = store.send_question(turn_id, ada.id, " It must be somewhere. ")
    assert (sent.user_name, sent.question, sent.note) == ("Ada", "How much is the bicycle allowance?", "It must be somewhere.")
    assert sent.closest == ("travel/bicycles.md", "travel/2.md", "travel/3.md")
    assert store.open_questions() == [sent]


def test_sent_twice_it_stays_as_it_was_sent(store: FeedbackStore, ada: User, answered: Ask, clock: FakeClock) -> None:
    turn_id = answered(ada)
    first = store.send_question(turn_id, ada.id, "please")
    clock.advance(hours=1)
    assert store.send_question(turn_id, ada.id, "please, again") == first
    assert store.open_questions() == [first]


def test_a_question_that_was_closed_is_not_opened_by_sending_it_again(
    store: FeedbackStore, ada: User, boss: User, answered: Ask
) -> None:
    turn_id = answered(ada)
    store.send_question(turn_id, ada.id)
    closed = store.close_question(turn_id, boss.name, "Written down on the page.")
    assert store.send_question(turn_id, ada.id) == closed
    assert store.open_questions() == []


def test_only_who_asked_can_send_a_question(store: FeedbackStore, ada: User, ben: User, boss: User, answered: Ask) -> None:
    turn_id = answered(ada)
    for other in (ben, boss):
        with pytest.raises(NotYourTurn):
            store.send_question(turn_id, other.id)
    with pytest.raises(UnknownTurn):
        store.send_question("gone", ada.id)
    assert store.open_questions() == []


def test_a_question_without_an_answer_yet_cannot_be_sent(
    store: FeedbackStore, ada: User, new_turn: Callable[..., NewTurn]
) -> None:
    turn_id = store.begin_turn(new_turn(ada))
    with pytest.raises(StoreError, match="still being answered"):
        store.send_question(turn_id, ada.id)


def test_a_note_has_a_limit_and_any_characters(store: FeedbackStore, ada: User, answered: Ask) -> None:
    turn_id = answered(ada)
    with pytest.raises(StoreError, match=r"note has 2,001 characters"):
        store.send_question(turn_id, ada.id, "x" * (MAX_NOTE_CHARS + 1))
    assert store.send_question(turn_id, ada.id, "half \ud800 a pair").note == "half \ufffd a pair"


def test_the_newest_come_first_and_closed_ones_are_a_list_of_their_own(
    store: FeedbackStore, ada: User, ben: User, boss: User, answered: Ask, clock: FakeClock
) -> None:
    turns = [answered(user) for user in (ada, ben, ada)]
    for turn_id in turns:
        clock.advance(minutes=1)
        store.send_question(turn_id, store.turn(turn_id).asked.user_id)
    assert [each.turn_id for each in store.open_questions()] == turns[::-1]
    assert [each.turn_id for each in store.open_questions(limit=1)] == turns[2:]
    clock.advance(minutes=1)
    done = store.close_question(turns[2], boss.name, " It is 140 euros; the page says so now. ")
    assert (done.closed_by, done.resolution) == ("Boss", "It is 140 euros; the page says so now.")
    assert done.closed_at > done.sent_at
    clock.advance(minutes=1)
    store.close_question(turns[0], boss.name, "Not ours to say.")
    assert [each.turn_id for each in store.open_questions()] == [turns[1]]
    assert [each.turn_id for each in store.open_questions(closed=True)] == [turns[0], turns[2]]
    assert [(entry.actor, entry.action) for entry in store.audit_entries()] == [("Boss", "question.close")] * 2


def test_what_cannot_be_closed_says_why(store: FeedbackStore, ada: User, boss: User, answered: Ask) -> None:
    turn_id = answered(ada)
    with pytest.raises(UnknownTurn):
        store.close_question("gone", boss.name, "done")
    with pytest.raises(StoreError, match="never sent"):
        store.close_question(turn_id, boss.name, "done")
    store.send_question(turn_id, ada.id)
    with pytest.raises(StoreError, match="resolution is empty"):
        store.close_question(turn_id, boss.name, "  ")
    store.close_question(turn_id, boss.name, "done")
    with pytest.raises(StoreError, match="closed already, by Boss"):
        store.close_question(turn_id, boss.name, "done again")
    assert store.open_questions(closed=True)[0].resolution == "done"


def test_a_user_is_given_what_he_sent_open_and_closed_and_nothing_of_others(
    store: FeedbackStore, ada: User, ben: User, answered: Callable[..., str]
) -> None:
    first, second, other = answered(ada), answered(ada), answered(ben)
    for turn_id, user in ((first, ada), (second, ada), (other, ben)):
        store.send_question(turn_id, user.id)
    store.close_question(first, "Ben", "Answered by mail.")
    sent = store.sent_questions(ada.id)
    assert set(sent) == {first, second} and sent[first].resolution == "Answered by mail." and not sent[second].closed_at
