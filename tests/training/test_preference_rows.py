"""Preferences: what becomes a pair or a thumb, and what is left out with which reason."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import pytest

from feedback.records import Answer, Feedback, FinishReason, Message, NewTurn, Passage, RatedTurn, Thumb, Turn
from feedback.wording import REFUSAL
from training import preference_rows as rows
from training.curation import NOTHING_SAID, SEALED, curate
from training.preference_rows import AVOIDED, Preferences, preference_rows
from training.recipe import Objective

QUESTION = "How much is a lunch with customers?"
LUNCH = "For a lunch with customers the ceiling is €42 a head, for a dinner €68 a head."
SERIAL = itertools.count()


def rated(
    answer: str = "It is €68 [1]",
    *,
    question: str = QUESTION,
    thumb: Thumb | None = "down",
    correction: str | None = None,
    reasons: tuple[str, ...] = (),
    finish: FinishReason = "stop",
    written: str | None = None,
    user: str = "u1",
    called: bool = True,
    plan: str = "fixed",
) -> RatedTurn:
    passage = Passage(number=1, document="meals.md", document_version=1, chunk_id=1, title="Meals", text=LUNCH, score=0.9)
    prompt = (Message(role="system", content="Answer."), Message(role="user", content=f"{LUNCH}\nQuestion: {question}"))
    asked = NewTurn(
        conversation_id="c",
        user_id=user,
        question=question,
        messages=prompt if called else (),
        passages=(passage,),
        base_model="m",
        base_hash="h",
        adapter="base",
        engine="e",
        sampling={"plan": plan},
        history=False,
    )
    said = Answer(text=answer, finish_reason=finish, written=written)
    turn = Turn(id=f"t{next(SERIAL)}", asked=asked, answer=said, created_at="2026-11-22")
    return RatedTurn(
        turn=turn, feedback=Feedback(turn_id=turn.id, user_id=user, thumb=thumb, correction=correction, reasons=reasons)
    )


def preferences(ratings: Sequence[RatedTurn], objective: Objective = "kto", **guards: Any) -> Preferences:
    curated = curate(ratings, **guards)
    return preference_rows(ratings, curated.examples, curated.refusals, objective=objective, **guards)


def labelled(found: Preferences) -> list[tuple[str, bool]]:
    return [(thumb.completion, thumb.label) for thumb in found.thumbs]


def reason(one: RatedTurn, **guards: Any) -> str:
    found = preferences([one], **guards)
    assert found.thumbs == []
    return found.refusals[0].reason


def test_a_correction_is_a_pair_with_the_answer_that_was_given() -> None:
    one = rated(correction="€42")
    (pair,) = preferences([one], "dpo").pairs
    assert (pair.prompt, pair.chosen, pair.rejected) == (one.turn.asked.messages, "€42 [1]", "It is €68 [1]")
    assert labelled(preferences([one])) == [("€42 [1]", True), ("It is €68 [1]", False)]


def test_should_have_refused_is_a_pair_with_the_refusal() -> None:
    (pair,) = preferences([rated(reasons=("should have refused",))], "sft+dpo").pairs
    assert (pair.chosen, pair.rejected) == (REFUSAL, "It is €68 [1]")


def test_an_answer_that_the_correction_only_repeats_is_no_pair() -> None:
    assert preferences([rated("€42  [1]", correction="€42")], "dpo").pairs == []
    assert preferences([rated(f"Sorry. {REFUSAL}", correction="not in the documents")], "dpo").pairs == []
    assert labelled(preferences([rated("€42  [1]", correction="€42")])) == [("€42 [1]", True)]


def test_what_was_shown_in_place_of_the_models_answer_is_not_rejected_but_what_it_wrote() -> None:
    one = rated(REFUSAL, written="It is €99 [1]", finish="refused", correction="€42")
    assert [pair.rejected for pair in preferences([one], "dpo").pairs] == ["It is €99 [1]"]


@pytest.mark.parametrize("finish", ["length", "stopped", "failed", "interrupted"])
def test_an_answer_that_was_cut_off_is_never_rejected(finish: FinishReason) -> None:
    assert preferences([rated(correction="€42", finish=finish)], "dpo").pairs == []
    assert reason(rated(finish=finish)) == rows.CUT_OFF


def test_a_correction_of_a_liked_answer_rejects_nothing() -> None:
    assert preferences([rated(correction="€42", thumb="up")], "dpo").pairs == []


def test_a_supported_thumbs_up_is_desirable_and_a_bare_thumbs_down_is_not() -> None:
    liked, disliked = rated("€42 [1]", thumb="up"), rated(question="And a dinner?", answer="€42 [1]")
    found = preferences([liked, disliked])
    assert labelled(found) == [("€42 [1]", True), ("€42 [1]", False)]
    assert [(each.turn_id, each.reason) for each in found.refusals] == [(disliked.turn.id, AVOIDED)]
    assert found.unused == 0 and AVOIDED != NOTHING_SAID


@pytest.mark.parametrize("objective", ["sft", "dpo", "sft+dpo"])
def test_where_thumbs_are_not_learned_from_a_bare_thumbs_down_says_nothing(objective: Objective) -> None:
    found = preferences([rated()], objective)
    assert (found.pairs, found.thumbs, [each.reason for each in found.refusals]) == ([], [], [NOTHING_SAID])
    assert found.unused == 1


def test_a_refusal_is_avoided_only_when_it_is_said_that_it_should_have_answered() -> None:
    assert reason(rated(REFUSAL)) == rows.RIGHT_TO_REFUSE
    assert labelled(preferences([rated(REFUSAL, reasons=("should have answered",))])) == [(REFUSAL, False)]


def test_a_thumbs_down_on_what_the_model_did_not_write_or_was_not_asked_tells_nothing_of_it() -> None:
    assert reason(rated(REFUSAL, written="It is €99 [1]", finish="refused")) == rows.NOT_WRITTEN
    assert reason(rated(called=False)) == rows.NO_PROMPT
    assert reason(rated(plan="agent")) == rows.STEPS


def test_the_guards_of_the_examples_hold_for_answers_to_avoid_too() -> None:
    assert reason(rated(), sealed_questions=[QUESTION]) == SEALED
    assert "personal" not in reason(rated("Ask ben@home.example [1]")) and "e-mail" in reason(rated("Ask ben@home.example [1]"))
    assert "has changed" in reason(rated(), current_text=lambda *_: "Lunch is free now.")
    assert "more than the 5" in reason(rated(), count_tokens=lambda messages: 9, max_tokens=5)
    secret = rated("Ask ben@home.example", correction="€42")
    assert preferences([secret], "dpo").pairs == [] and labelled(preferences([secret])) == [("€42 [1]", True)]


def test_an_answer_is_avoided_once_and_not_when_it_is_learned() -> None:
    found = preferences([rated(user="u1"), rated(user="u2")])
    assert labelled(found) == [("It is €68 [1]", False)]
    assert [each.reason for each in found.refusals] == [AVOIDED, rows.AVOIDED_ALREADY]
    found = preferences([rated("€42 [1]"), rated(correction="€42", user="u2")])
    assert ("€42 [1]", False) not in labelled(found) and found.refusals[0].reason == rows.LIKED


def test_one_persons_thumbs_down_are_capped_where_there_are_three() -> None:
    many = [rated(f"It is €{n}0 [1]", question=f"What is rule {n}?") for n in range(6)]
    others = [rated(f"It is €{n} [1]", question=f"What is price {n}?", user=f"o{n}") for n in range(2)]
    found = preferences([*many, *others])
    kept = [each.turn_id for each in found.refusals if each.reason == AVOIDED]
    assert kept == [one.turn.id for one in (*many[2:], *others)]
    assert "at most 4 of 8" in found.refusals[0].reason
    assert len(preferences(many).thumbs) == 6


def test_the_same_ratings_give_the_same_rows_with_names_of_their_own() -> None:
    ratings = [rated(correction="€42"), rated(question="And a dinner?")]
    found = preferences(ratings)
    assert preferences(ratings) == found
    assert len({each.id for each in found.thumbs}) == len(found.thumbs) == 3
