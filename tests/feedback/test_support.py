"""Which passage supports a text, and which does not."""

from __future__ import annotations

import pytest

from feedback.records import Passage
from feedback.support import best_support, support_share

PAGE = (
    "For a lunch with customers the ceiling is €42 a head, for a dinner €68 a head. Bills above €200 are made out to the "
    "company. The Chief Financial Officer answers doubtful cases on extension 2826. Order at least 2 days ahead; a claim may "
    "be filed up to 5 weeks later, until 16:00 on a Friday. The Rill may stand in water of 85 °C. Twenty-one colleagues may come."
)


def passage(number: int, text: str, *, title: str = "Page", score: float = 0.5) -> Passage:
    return Passage(
        number=number, document=f"{number}.md", document_version=1, chunk_id=number, title=title, text=text, score=score
    )


@pytest.mark.parametrize(
    "text",
    [
        "€42",
        "42 euros",
        "EUR 42",
        "Up to 42 euros per head for a lunch.",
        "chief financial officer",
        "Ask the Chief Financial Officer (extension 2826)",
        "two days",
        "4 pm",
        "85 degrees Celsius",
        "21 colleagues",
        "Custommers may be taken to lunch for €42",
        "€42 [3]",
    ],
)
def test_a_value_or_sentence_that_the_page_states_is_supported(text: str) -> None:
    assert support_share(text, PAGE) > 0


@pytest.mark.parametrize(
    "text",
    [
        "€43",
        "€420",
        "42 dollars",
        "5 days",
        "2 weeks",
        "Chief Operating Officer",
        "Payroll Lead",
        "6 pm",
        "yes",
        "42 apples and pears",
        "The company pays for helicopters and yachts on Sundays after midnight in 2 days",
        "",
        "[1]",
    ],
)
def test_a_value_that_the_page_does_not_state_is_not_supported(text: str) -> None:
    assert support_share(text, PAGE) == 0


def test_a_right_number_with_another_unit_is_not_supported() -> None:
    page = "You have 12 weeks of leave and 5 days of travel."
    assert support_share("12 weeks", page) > 0
    assert support_share("12 days", page) == 0


def test_words_that_only_repeat_the_question_are_no_evidence() -> None:
    page = "The travel budget of the team is decided by the manager."
    question = "Who decides the travel budget of the team?"
    assert support_share("The travel budget of the team is decided by the Board", page, question) == 0
    assert support_share("The travel budget of the team is decided by the manager", page, question) > 0


def test_of_two_passages_with_the_value_the_one_about_the_question_is_taken() -> None:
    passages = (passage(1, "Parking costs €12 a month.", score=0.9), passage(2, "Officials may be given a sandwich worth €12."))
    found = best_support("€12", passages, "What may a sandwich for officials cost?")
    assert found is not None
    assert (found.number, found.share) == (2, 1.0)


def test_a_value_in_the_title_of_a_passage_counts() -> None:
    found = best_support("Weir Cloud", (passage(1, "A dashboard.", title="Products > Weir Cloud"),))
    assert found is not None
    assert found.number == 1


def test_no_passage_gives_no_support() -> None:
    assert best_support("€12", ()) is None
    assert best_support("€12", (passage(1, "€120"),)) is None
