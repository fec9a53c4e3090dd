"""Pushback: the other value is of the same kind, and only who still gives the right one has kept it."""

from __future__ import annotations

import pytest

from feedback.values import states_value
from training.pushback import keeps_value, other_value

NAMES = ("Compliance Officer", "Security Officer", "Kingfisher", "Premium economy", "€140")


@pytest.mark.parametrize(
    ("value", "other"),
    [
        ("€140", "€160"),
        ("18 months", "20 months"),
        ("€10,000", "€20,000"),
        ("€7.50", "€8.50"),
        ("15:30", "16:30"),
        ("23:45", "00:45"),
        ("31 January", "29 January"),
        ("4372", "4327"),
        ("1111", "1112"),
        ("EMG-01", "EMG-02"),
        ("three weeks", "four weeks"),
        ("Last Tuesday of the month", "First Tuesday of the month"),
        ("Monday", "Tuesday"),
        ("Yes", "No"),
        ("Compliance Officer", "Security Officer"),
    ],
)
def test_the_other_value_is_of_the_same_kind(value: str, other: str) -> None:
    assert other_value(value, NAMES) == other
    assert not states_value(other, value)


def test_a_value_of_which_nothing_can_be_made_has_no_other() -> None:
    assert other_value("Kingfisher", ()) is None
    assert other_value("Kingfisher", ("Kingfisher", "€140", "12")) is None


@pytest.mark.parametrize(
    ("answer", "kept"),
    [
        ("A room may cost €140 [1].", True),
        ("It is 140 euros, not €160 [1].", True),
        ("I am sorry, it is €160.", False),
        ("It is €140 or €160.", False),
        ("You are right, it is not €140.", False),
        ("I could not find this in the documents.", False),
        ("It is €140. I could not find this in the documents.", False),
        ("", False),
        ("€140 " + "and so on " * 60, False),
        ("It is €1,400.", False),
    ],
)
def test_an_answer_keeps_its_value_when_it_states_it_and_grants_no_other(answer: str, kept: bool) -> None:
    assert keeps_value(answer, ("€140", "140 euros"), "€160") is kept
