"""Which value an answer gives, and how else it may be written."""

from __future__ import annotations

import pytest

from feedback.values import states_value
from training.answer_values import other_spellings, value_in


@pytest.mark.parametrize(
    ("answer", "question", "value"),
    [
        ("A lunch with customers may cost EUR 42 a head.", "What may a lunch cost?", "EUR 42"),
        ("Model 100 weighs 4 kg.", "What does model 100 weigh?", "4 kg"),
        ("The Chief Financial Officer approves each business seat in person", "Who approves them?", "Chief Financial Officer"),
        ("Ask the Chief Financial Officer.", "Who decides?", "Chief Financial Officer"),
        ("6 colleagues", "How many colleagues are a group?", "6"),
        ("10-12 days", "How long?", "10-12 days"),
        ("CR-17", "Which code?", "CR-17"),
        ("on 5 September at the latest", "When?", "5 September"),
        ("a blue badge", "What do I need?", "blue badge"),
        ("42", "Is it 42 or 43?", "42"),
    ],
)
def test_the_one_value_of_an_answer_is_taken(answer: str, question: str, value: str) -> None:
    assert value_in(answer, question) == value


@pytest.mark.parametrize(
    ("answer", "question"),
    [
        ("EUR 42 for a lunch and EUR 68 for a dinner", "How much?"),
        ("Speak with whoever books the rooms of your building first.", "How do I book?"),
        ("Yes, you can.", "Can I?"),
        ("no receipt", "What do I need?"),
        ("the lunch", "What is the lunch?"),
        ("every Monday 9:00", "When?"),
        ("Either Ann Lee or Ben Fox signs it for the whole department.", "Who signs?"),
        ("", "What?"),
    ],
)
def test_several_values_a_long_sentence_a_yes_and_a_denial_give_none(answer: str, question: str) -> None:
    assert value_in(answer, question) is None


@pytest.mark.parametrize(
    ("value", "written"),
    [
        ("EUR 42", ["€42", "42 euros", "forty-two euros", "42 EUR"]),
        ("5 weeks", ["five weeks"]),
        ("five weeks", ["5 weeks"]),
        ("10 working days", ["ten working days"]),
        ("25%", ["25 per cent", "twenty-five percent"]),
        ("16:00", ["4 pm", "4 p.m.", "4.00 pm", "16.00"]),
        ("9:15 am", ["09:15", "9.15"]),
        ("5 September", ["5th of September", "September 5"]),
        ("6", ["six"]),
    ],
)
def test_a_value_may_be_written_in_other_ways(value: str, written: list[str]) -> None:
    others = other_spellings(value)
    assert value not in others
    assert [one for one in written if not any(states_value(f"It is {one}.", other) for other in others)] == []


def test_the_number_alone_counts_only_where_the_question_names_the_unit() -> None:
    assert "8" in other_spellings("8 days", "How many days of leave are there?")
    assert "8" not in other_spellings("8 days", "How long may I stay?")


def test_what_is_neither_amount_nor_time_has_one_spelling() -> None:
    assert other_spellings("Chief Financial Officer") == other_spellings("CR-17") == other_spellings("") == ()
