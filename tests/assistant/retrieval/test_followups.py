"""Follow-up questions: what is carried over, and what a model's rewriting is taken for."""

from __future__ import annotations

import pytest

from assistant.examination_plan import load_texts
from assistant.retrieval.followups import MOST_CARRIED, REWRITE, carried_over, leans_on_history, rewrite_messages, rewritten
from feedback.records import Message
from training.pushback import WRONG

FULL = "What may a hotel night in Eastmere cost?"


def talk(*questions: str) -> list[Message]:
    return [
        message
        for question in questions
        for message in (Message(role="user", content=question), Message(role="assistant", content="Up to 140 euros [1]."))
    ]


@pytest.mark.parametrize(
    ("question", "leans"),
    [
        ("And breakfast?", True),
        ("What about it?", True),
        ("Why?", True),
        (FULL, False),
        ("", True),
        ("hotel night price Eastmere", False),
    ],
)
def test_a_question_of_few_telling_words_leans_on_what_was_said(question: str, leans: bool) -> None:
    assert leans_on_history(question) is leans


def test_an_objection_leans_on_what_was_answered_however_many_words_it_has() -> None:
    for objection in load_texts().pushbacks:
        assert leans_on_history(objection.replace(WRONG, "20 working days")), objection


def test_of_an_objection_nothing_is_searched_beside_the_question_that_it_is_about() -> None:
    assert carried_over("No. My manager says it is 20 working days.", talk(FULL)) == FULL


@pytest.mark.parametrize(
    "question",
    [
        "Someone told me unopened programs vanish from laptops; after what period without use?",
        "Which extension do I dial if my holiday balance looks wrong?",
        "Should confirmed orders above the limit be signed twice by the department?",
    ],
)
def test_a_question_that_only_speaks_like_an_objection_stands_by_itself(question: str) -> None:
    assert not leans_on_history(question)


def test_earlier_questions_are_carried_over_until_one_stands_by_itself() -> None:
    assert carried_over("And breakfast?", talk("Who drives the trains to Saltmouth harbour?", FULL)) == f"{FULL} And breakfast?"
    assert carried_over("Why?", talk(FULL, "And breakfast?")) == f"{FULL} And breakfast? Why?"
    assert carried_over("Why?", talk(FULL, "And there?", "And breakfast?")) == "And there? And breakfast? Why?"
    assert MOST_CARRIED == 2


def test_nothing_is_carried_over_without_a_past_or_a_need() -> None:
    assert carried_over("And breakfast?", []) == ""
    assert carried_over("Which trains go to Saltmouth harbour daily?", talk(FULL)) == ""
    assert carried_over("And breakfast?", [Message(role="assistant", content="Hello.")]) == ""


def test_answers_are_not_searched_for() -> None:
    assert "140" not in carried_over("And breakfast?", talk(FULL))


def test_a_capable_model_sees_the_talk_and_the_question() -> None:
    system, user = rewrite_messages("And breakfast?", talk("one", "two", "three", FULL))
    assert (system.role, system.content, user.role) == ("system", REWRITE, "user")
    assert user.content.endswith("Last question: And breakfast?")
    assert f"user: {FULL}" in user.content
    assert "user: one" not in user.content


@pytest.mark.parametrize(
    ("written", "query"),
    [
        ("What does breakfast cost?", "What does breakfast cost?"),
        ('  "What does breakfast cost?" \n', "What does breakfast cost?"),
        ("Question: What does breakfast cost?", "What does breakfast cost?"),
        ("Rewritten question : What?", "What?"),
        ("Stand-alone Question:\nWhat?", "What?"),
        ("", ""),
        (" \n ", ""),
        ('""', ""),
        ("Sure!\nWhat does breakfast cost?", ""),
        ("word " * 200, ""),
    ],
)
def test_what_a_model_wrote_is_a_query_only_where_it_looks_like_one(written: str, query: str) -> None:
    assert rewritten(written, "And breakfast?") == query
