"""Ratings and corrections: who may give them, what is in force, and that nothing said is ever lost."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest

from feedback.errors import NotYourTurn, StoreError, UnknownTurn, UnknownUser
from feedback.records import Answer, Feedback, NewTurn, User
from feedback.store import FeedbackStore

if TYPE_CHECKING:
    from .conftest import FakeClock

NOON, ONE, TWO = (f"2026-11-22T{hour}:00:00.000000+00:00" for hour in (12, 13, 14))


def test_a_rating_and_a_correction_are_in_force_together(
    store: FeedbackStore, ada: User, answered: Callable[..., str], clock: FakeClock
) -> None:
    turn_id = answered(ada)
    assert store.feedback(turn_id, ada.id) is None
    store.rate(turn_id, ada.id, "down", reasons=["wrong", "unclear", "wrong"], comment="  off by ten ")
    clock.advance(hours=1)
    given = store.correct(turn_id, ada.id, " €150 ")
    assert given == Feedback(
        turn_id=turn_id,
        user_id=ada.id,
        thumb="down",
        reasons=("wrong", "unclear"),
        comment="off by ten",
        correction="€150",
        verified=False,
        updated_at=ONE,
    )
    assert store.feedback(turn_id, ada.id) == given


def test_changed_and_withdrawn_ratings_are_kept_as_history_in_order(
    store: FeedbackStore, ada: User, boss: User, answered: Callable[..., str], clock: FakeClock
) -> None:
    turn_id = answered(ada)
    store.rate(turn_id, ada.id, "up", comment="nice")
    store.correct(turn_id, ada.id, "€150")
    store.rate(turn_id, ada.id, "down", reasons=["incomplete"])
    clock.advance(hours=-1)  # the order is that of saying, whatever the clock does
    store.correct(turn_id, boss.id, "€155", verified=True)
    store.correct(turn_id, ada.id, None)
    store.rate(turn_id, ada.id, None)
    rating = {"user_id": ada.id, "user": "Ada", "kind": "rating"}
    correction = {"user_id": ada.id, "user": "Ada", "kind": "correction", "verified": False}
    eleven = "2026-11-22T11:00:00.000000+00:00"
    assert store.feedback_history(turn_id) == [
        {**rating, "at": NOON, "thumb": "up", "reasons": [], "comment": "nice"},
        {**correction, "at": NOON, "text": "€150"},
        {**rating, "at": NOON, "thumb": "down", "reasons": ["incomplete"], "comment": ""},
        {**correction, "at": eleven, "text": "€155", "user_id": boss.id, "user": "Boss", "verified": True},
        {**correction, "at": eleven, "text": None},
        {**rating, "at": eleven, "thumb": None, "reasons": [], "comment": ""},
    ]
    assert store.feedback(turn_id, ada.id) is None


def test_withdrawing_the_thumb_leaves_the_correction(store: FeedbackStore, ada: User, answered: Callable[..., str]) -> None:
    turn_id = answered(ada)
    store.rate(turn_id, ada.id, "down", reasons=["wrong"], comment="no")
    store.correct(turn_id, ada.id, "€150")
    left = store.rate(turn_id, ada.id, None, reasons=["wrong"], comment="never mind")
    assert (left.thumb, left.reasons, left.comment, left.correction) == (None, (), "", "€150")


def test_the_same_click_twice_is_one_rating_and_withdrawing_nothing_is_none(
    store: FeedbackStore, ada: User, answered: Callable[..., str]
) -> None:
    turn_id = answered(ada)
    assert store.rate(turn_id, ada.id, None) == Feedback(turn_id=turn_id, user_id=ada.id)
    assert store.correct(turn_id, ada.id, None) == Feedback(turn_id=turn_id, user_id=ada.id)
    for _ in range(3):
        store.rate(turn_id, ada.id, "up", reasons=["unclear"], comment="x")
        store.correct(turn_id, ada.id, "€150")
    assert [entry["kind"] for entry in store.feedback_history(turn_id)] == ["rating", "correction"]


def test_only_who_asked_rates_and_an_admin_corrects_any(
    store: FeedbackStore, ada: User, ben: User, boss: User, answered: Callable[..., str]
) -> None:
    turn_id = answered(ada)
    for user in (ben, boss):
        with pytest.raises(NotYourTurn, match=f"not given to '{user.name}'"):
            store.rate(turn_id, user.id, "down")
    with pytest.raises(NotYourTurn, match="not given to 'Ben'"):
        store.correct(turn_id, ben.id, "€1")
    assert store.feedback_history(turn_id) == []
    assert store.correct(turn_id, boss.id, "€150").verified
    assert store.feedback(turn_id, ada.id) is None


def test_what_an_admin_writes_is_verified_and_what_an_employee_writes_cannot_be(
    store: FeedbackStore, ada: User, boss: User, answered: Callable[..., str]
) -> None:
    his, hers = answered(boss), answered(ada)
    assert store.correct(his, boss.id, "€150", verified=False).verified
    assert not store.correct(his, boss.id, None).verified
    assert not store.correct(hers, ada.id, "€150").verified
    with pytest.raises(StoreError, match="'Ada' cannot verify a correction: ask an admin"):
        store.correct(hers, ada.id, "€150", verified=True)


def test_unknown_turns_and_users_are_named(store: FeedbackStore, ada: User, answered: Callable[..., str]) -> None:
    turn_id = answered(ada)
    with pytest.raises(UnknownTurn, match="'t404'"):
        store.rate("t404", ada.id, "up")
    with pytest.raises(UnknownTurn, match="'t404'"):
        store.correct("t404", ada.id, "x")
    with pytest.raises(UnknownTurn, match="'t404'"):
        store.feedback_history("t404")
    with pytest.raises(UnknownUser, match="'u404'"):
        store.rate(turn_id, "u404", "up")
    with pytest.raises(UnknownUser, match="'u404'"):
        store.correct(turn_id, "u404", "x")
    assert store.feedback("t404", ada.id) is None


def test_bad_input_is_one_sentence_and_stores_nothing(store: FeedbackStore, ada: User, answered: Callable[..., str]) -> None:
    turn_id = answered(ada)
    with pytest.raises(StoreError, match="rating 'sideways' is not known"):
        store.rate(turn_id, ada.id, "sideways")  # type: ignore[arg-type]
    with pytest.raises(StoreError, match="reason 'boring' is not known: use one of wrong, incomplete"):
        store.rate(turn_id, ada.id, "down", reasons=["wrong", "boring"])
    with pytest.raises(StoreError, match="comment has 2001 characters: shorten it to 2000"):
        store.rate(turn_id, ada.id, "down", comment="x" * 2001)
    with pytest.raises(StoreError, match="correction is empty"):
        store.correct(turn_id, ada.id, " \n ")
    with pytest.raises(StoreError, match="correction has 4001 characters: shorten it to 4000"):
        store.correct(turn_id, ada.id, "x" * 4001)
    assert store.feedback_history(turn_id) == []


def test_rated_turns_are_those_in_force_in_the_order_of_saying(
    store: FeedbackStore, ada: User, ben: User, boss: User, answered: Callable[..., str], new_turn: Callable[..., NewTurn]
) -> None:
    first, silent, withdrawn, second = answered(ada), answered(ada), answered(ben), answered(ben)
    unanswered = store.begin_turn(new_turn(ada))
    store.rate(unanswered, ada.id, "up")
    store.rate(second, ben.id, "up")
    store.rate(withdrawn, ben.id, "down")
    store.rate(withdrawn, ben.id, None)
    store.correct(withdrawn, ben.id, "€1")
    store.correct(withdrawn, ben.id, None)
    store.rate(first, ada.id, "up")
    store.rate(first, ada.id, "down", reasons=["wrong"])
    store.correct(first, ada.id, "€150")
    store.correct(first, boss.id, "€155")
    rated = store.rated_turns()
    assert [(row.turn.id, row.user_name, row.feedback.thumb, row.feedback.correction) for row in rated] == [
        (second, "Ben", "up", None),
        (first, "Ada", "down", "€150"),
        (first, "Boss", None, "€155"),
    ]
    assert silent not in {row.turn.id for row in rated}
    assert [row.turn for row in rated] == [store.turn(second), store.turn(first), store.turn(first)]
    assert [row.feedback for row in rated] == [
        store.feedback(second, ben.id),
        store.feedback(first, ada.id),
        store.feedback(first, boss.id),
    ]


def test_who_corrects_the_older_answer_last_has_said_that_last(
    store: FeedbackStore, ada: User, answered: Callable[..., str]
) -> None:
    older, newer = answered(ada), answered(ada)
    store.correct(newer, ada.id, "€150")
    store.correct(older, ada.id, "€155")
    store.rate(newer, ada.id, "down")  # a thumb beside a correction does not say the correction again
    assert [row.feedback.correction for row in store.rated_turns()] == ["€150", "€155"]
    store.rate(older, ada.id, "up")
    store.correct(older, ada.id, None)  # now the thumb is what she says of it
    assert [row.turn.id for row in store.rated_turns()] == [newer, older]


def test_a_rating_given_while_the_answer_is_written_counts_once_it_is(
    store: FeedbackStore, ada: User, new_turn: Callable[..., NewTurn]
) -> None:
    turn_id = store.begin_turn(new_turn(ada))
    store.rate(turn_id, ada.id, "up")
    assert store.rated_turns() == []
    store.finish_turn(turn_id, Answer(text="€140 [1]", finish_reason="stop"))
    assert [row.turn.id for row in store.rated_turns()] == [turn_id]


def test_ratings_by_day_counts_what_is_in_force_and_shows_the_empty_days(
    store: FeedbackStore, ada: User, answered: Callable[..., str], clock: FakeClock
) -> None:
    one, two, three = answered(ada), answered(ada), answered(ada)
    clock.advance(days=-31)
    store.rate(three, ada.id, "up")  # too long ago
    clock.advance(days=29)
    store.rate(one, ada.id, "up")
    store.rate(two, ada.id, "up")
    store.correct(one, ada.id, "€150")
    clock.advance(days=2)
    store.rate(two, ada.id, "down")  # changed today: it counts today
    assert store.ratings_by_day(days=3) == [("2026-11-20", 1, 0, 1), ("2026-11-21", 0, 0, 0), ("2026-11-22", 0, 1, 0)]
    assert len(store.ratings_by_day()) == 30
    store.rate(one, ada.id, None)
    store.correct(one, ada.id, None)
    assert store.ratings_by_day(days=3)[0] == ("2026-11-20", 0, 0, 0)
