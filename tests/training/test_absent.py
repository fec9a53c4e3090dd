"""Corrections that say that the documents do not answer."""

from __future__ import annotations

import pytest

from feedback.wording import REFUSAL
from training.absent import says_absent


@pytest.mark.parametrize(
    "text",
    [
        REFUSAL,
        "not in the documents",
        "Not in the docs.",
        "This is not in our handbook!",
        "it isn't mentioned anywhere in the documentation",
        "That's not covered by the handbook",
        "The documents do not say.",
        "The documents don't say how long it takes.",
        "the handbook doesn't mention a helicopter",
        "The handbook says nothing about this",
        "No page mentions this.",
        "None of the documents answer it",
        "There is no information on this in the documents.",
        "There is nothing about this in the handbook.",
        "nothing about that",
        "no answer",
        "I don't know.",
        "I could not find an answer to that",
        "I'm sorry, but I don't have any information about that.",
        "Unfortunately the documents give no answer",
        "Sorry, this is not stated in the documents. I could not find it.",
        "It should have said that it is not in the documents",
        "should have refused",
        "It should say: the documents do not answer this.",
        "unanswerable",
    ],
)
def test_ways_to_say_that_the_documents_do_not_answer(text: str) -> None:
    assert says_absent(text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "€140",
        "No",
        "None",
        "No, not before March",
        "Not on Fridays",
        "Contractors are not covered by the handbook",
        "You cannot have more than 5 days",
        "We do not have parking in Port Sallow",
        "The documents do not say it plainly, but it is 12 weeks",
        "It is not in the documents. Ask the Payroll Lead.",
        "Documents are kept for 7 years",
        "Not in the documents of 2019 however the new page says 14 days",
        "Do not leave documents on the printer",
        "The Records Manager should refuse it",
    ],
)
def test_an_answer_is_not_taken_for_a_refusal(text: str) -> None:
    assert not says_absent(text)
