"""Which passage supports a text, and which does not."""

from __future__ import annotations

import re

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


ALLOWED = "Overnight parking is allowed in lot B."
FORBIDDEN = "Overnight parking is not allowed in lot B."
BOTH = "Overnight parking is allowed in lot A. Overnight parking is not allowed in lot B."
HALVES = "Overnight parking is allowed in lot A but not in lot B."


@pytest.mark.parametrize(
    ("text", "page"),
    [
        (FORBIDDEN, ALLOWED),
        (ALLOWED, FORBIDDEN),
        ("You need a receipt for taxis.", "You need no receipt for taxis."),
        ("You need no receipt for taxis.", "You need a receipt for taxis."),
        ("No, overnight parking isn't allowed in lot B.", ALLOWED),
        ("Overnight parking can't be booked in lot B", "Overnight parking can be booked in lot B"),
        ("Never park in lot B overnight.", "You may park in lot B overnight."),
        (ALLOWED, BOTH),
        (
            "Overnight parking is not allowed in lot C.",
            "Overnight parking is allowed in lot C. Overnight parking is not allowed in lot B.",
        ),
        ("Overnight parking is not possible in lot B.", ALLOWED),
        ("Employees may park with a permit only.", "Employees may park without a permit."),
        ("Dogs are allowed.", "No dogs are allowed."),
        ("Dogs are allowed after 18:00.", "Dogs are not allowed after 18:00."),
        ("Parking is allowed in lot B.", "Parking is no longer allowed in lot B."),
        ("A pass without a photo is valid in the hall.", "A pass without a photo is not valid in the hall."),
        ("The desk is staffed on Sundays.", "The desk is never staffed on Sundays."),
        ("Overnight parking is\nallowed in lot B.", "Overnight parking is not\nallowed in lot B."),
    ],
)
def test_a_page_does_not_support_the_opposite_of_what_it_says(text: str, page: str) -> None:
    assert support_share(text, page) == 0


@pytest.mark.parametrize(
    ("text", "page"),
    [
        (FORBIDDEN, FORBIDDEN),
        (ALLOWED, ALLOWED),
        (FORBIDDEN, BOTH),
        ("Overnight parking is allowed in lot A.", BOTH),
        ("No, overnight parking is not allowed in lot B.", FORBIDDEN),
        ("No, you cannot: overnight parking is not allowed in lot B.", FORBIDDEN),
        ("Overnight parking isn't allowed in lot B", FORBIDDEN),
        (FORBIDDEN, "Overnight parking is forbidden in lot B."),
        ("Overnight parking is allowed in lot A", HALVES),
        (FORBIDDEN, HALVES),
        ("A lunch may cost €42.", "A lunch may not cost more than €42."),
        ("A lunch may not cost more than €42.", "The ceiling of a lunch is €42."),
        ("No more than 8 cells", "with no more than 8 cells for each passenger"),
        ("Dogs are not allowed in the hall.", "No dogs are allowed in the hall."),
        ("A receipt is not needed for taxis.", "You need no receipt for taxis."),
        ("Sundays", "The desk is open on weekdays, not on Sundays."),
        ("The ceiling of a lunch is €42", "A lunch does not include wine; the ceiling is €42."),
        ("It is €42", "Wine is not paid for, and a lunch may cost €42."),
        ("No.  Parking is by day only", "Parking is by day only. Not by night."),
        ("A bag may not weigh over 23 kg.", "A bag may weigh up to 23 kg."),
        ("Overnight parking is never allowed in lot B.", FORBIDDEN),
        ("Your manager does not have to agree below €900.", "The manager need not agree below €900."),
    ],
)
def test_a_no_that_answers_a_limit_or_another_clause_turns_nothing_round(text: str, page: str) -> None:
    assert support_share(text, page) > 0


def test_every_sentence_of_the_sample_company_is_supported_by_its_paragraph(pytestconfig: pytest.Config) -> None:
    pages = sorted((pytestconfig.rootpath / "data" / "handbook" / "travel").glob("*.md"))
    blocks = [block for page in pages for block in page.read_text("utf-8").split("\n\n") if not block.startswith(("#", "|"))]
    parts = [(part, block) for block in blocks for part in re.split(r"(?<=[.!?])\s+", block) if len(part.split()) > 3]
    assert len(parts) > 50
    assert [part for part, block in parts if support_share(part, block) == 0] == []


def test_a_sentence_with_an_invented_second_half_is_not_supported() -> None:
    half = "A lunch with customers may cost €42 a head"
    assert support_share(f"{half}, and all visitors get helicopters and yachts on weekends.", PAGE) == 0
    assert support_share(f"{half} and the manager flies helicopters to Mars.", PAGE) == 0
    assert support_share(f"{half}. Bills above €200 are made out to the company.", PAGE) > 0
