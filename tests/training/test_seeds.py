"""Seed questions: quoted from the page, in English, each once, the same for the same documents."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import pytest

from feedback.values import fold
from training.questions import QuestionRow
from training.seeds import KINDS, LOOSE, LOOSE_PER_PAGE, Page, absent_rows, seed_rows

TABLE = """
| Card | Monthly limit | Lives for | Note |
|---|---|---|---|
| Silver | €500 | 2 years | none |
| Gold | €900 | 2 years | - |
"""


def rows_of(text: str, *, name: str = "cards.md") -> dict[str, QuestionRow]:
    return {row.question: row for row in seed_rows([Page(name=name, collection="main", text=text)])}


def test_a_cell_is_asked_for_by_its_row_and_its_column_and_backwards_where_it_is_alone() -> None:
    rows = rows_of(f"# Company cards\n\n{TABLE}")
    assert {question: row.answer for question, row in rows.items()} == {
        "What is the monthly limit for Silver?": "€500",
        "What is the monthly limit for Gold?": "€900",
        'Company cards: what is given under "Lives for" for Silver?': "2 years",
        'Company cards: what is given under "Lives for" for Gold?': "2 years",
    }
    row = rows["What is the monthly limit for Gold?"]
    assert (row.sources, row.collection, row.extra) == (("cards.md",), "main", {"kind": "table", "quote": "Gold €900"})
    assert "900 euros" in row.accepted and row.answerable
    plans = rows_of("# Plans\n\n| Plan | Price |\n|---|---|\n| Stream | €29 |\n| River | €85 |\n")
    assert plans["For which plan is the price €85?"].answer == "River"
    assert plans["For which plan is the price €85?"].fact == plans["Plans: what is the price of River?"].fact


def test_in_a_table_without_a_corner_the_columns_are_the_things() -> None:
    rows = rows_of("# Plans\n\n| | Stream | River |\n|---|---|---|\n| Price a month | €29 | €85 |\n")
    assert rows["What is the price a month for River?"].answer == "€85"


def test_a_key_that_stands_twice_is_not_asked_for() -> None:
    rows = rows_of("# Rooms\n\n| Room | Size |\n|---|---|\n| Brook | 4 |\n| Brook | 8 |\n| Lake | 20 |\n")
    assert {row.answer for row in rows.values()} <= {"20", "Lake"} and rows


@pytest.mark.parametrize(
    ("text", "question", "answer"),
    [
        (
            "**Bulkhead**\n: The front wall of a trailer, behind the cab.",
            'What does "Bulkhead" mean?',
            "The front wall of a trailer, behind the cab",
        ),
        ("- Quality lead: Tove Brandreth\n", "Who is the quality lead?", "Tove Brandreth"),
        (
            "- **Upgrade:** it is charged by the day.\n- **Downgrade:** takes effect on the next invoice.",
            'What is said about "Downgrade" under "Page"?',
            "takes effect on the next invoice",
        ),
        (
            "Weir Cloud is the dashboard on which customers see their meters.",
            "What is Weir Cloud?",
            "Weir Cloud is the dashboard on which customers see their meters",
        ),
    ],
)
def test_terms_are_asked_for_with_their_meaning(text: str, question: str, answer: str) -> None:
    assert rows_of(f"# Page\n\n{text}\n")[question].answer == answer


def test_a_label_that_stands_twice_defines_nothing() -> None:
    assert rows_of("# Notes\n\n- **New:** a map for every haulier.\n- **New:** a tour for two drivers.\n") == {}


def test_a_short_list_is_asked_for_whole_and_a_long_one_is_not() -> None:
    rows = rows_of("# First day\n\n## Bring along\n\nOn Monday bring:\n\n- your passport\n- the signed contract\n")
    assert rows['What is listed under "Bring along" after "On Monday bring"?'].answer == "your passport; the signed contract"
    items = "".join(f"- thing {letter}\n" for letter in "abcde")
    assert rows_of(f"# First day\n\n## Bring along\n\n{items}") == {}


def test_a_heading_is_asked_for_with_the_first_sentence_under_it_unless_that_leans_on_another() -> None:
    rows = rows_of(
        "# IT desk\n\n## Remote help\n\nNobody asks for your password. Never.\n\n## Costs\n\nThey are paid by us all.\n"
    )
    assert {question: row.answer for question, row in rows.items()} == {
        'What does the page "IT desk" say about remote help?': "Nobody asks for your password"
    }
    asked = rows_of("# Parking\n\n## Do we want the stickers back?\n\nNo sticker is ever taken back by us.\n")
    assert asked["Do we want the stickers back?"].answer == "No sticker is ever taken back by us"


def test_a_question_with_two_answers_is_not_asked_and_one_that_says_little_names_its_page() -> None:
    page = "# {title}\n\nThe deposit is {amount}.\n"
    rows = seed_rows(
        [
            Page(name="a.md", collection="main", text=page.format(title="Bicycles", amount="€25")),
            Page(name="b.md", collection="main", text=page.format(title="Lockers", amount="€30")),
        ]
    )
    assert {row.question: row.answer for row in rows} == {
        "Bicycles: what is the deposit?": "€25",
        "Lockers: what is the deposit?": "€30",
    }
    same = [
        Page(name=name, collection="main", text=page.format(title="Bicycles", amount=amount))
        for name, amount in (("a.md", "€25"), ("b.md", "€30"))
    ]
    assert seed_rows(same) == []
    assert len(seed_rows([same[0], Page(name="b.md", collection="other", text=same[1].text)])) == 2


@pytest.fixture(scope="module")
def pages() -> list[Page]:
    root = Path(__file__).resolve().parents[2] / "data" / "handbook"
    return [
        Page(name=path.relative_to(root).as_posix(), collection="main", text=path.read_text("utf-8"))
        for path in sorted(root.rglob("*.md"))[::5]
    ]


@pytest.fixture(scope="module")
def rows(pages: list[Page]) -> list[QuestionRow]:
    return seed_rows(pages)


def test_a_handbook_gives_many_questions_of_several_kinds_each_answered_by_its_page(
    pages: list[Page], rows: list[QuestionRow]
) -> None:
    texts = {page.name: fold(re.sub(r"\s*\|\s*", " ", page.text)) for page in pages}
    assert len(rows) >= 8 * len(pages)
    assert {row.extra["kind"] for row in rows} >= {"table", "value", "definition", "heading"} <= set(KINDS)
    for row in rows:
        if row.extra["kind"] != "list":
            assert fold(row.answer) in texts[row.sources[0]], row
        assert row.question.endswith("?") and "|" not in row.question and "**" not in row.question, row.question


def test_each_question_is_asked_once_and_no_page_or_kind_has_too_many(rows: list[QuestionRow]) -> None:
    assert max(Counter((row.collection, fold(row.question)) for row in rows).values()) == 1
    assert len({row.id for row in rows}) == len(rows)
    assert max(Counter(row.sources for row in rows).values()) <= 12
    loose = Counter((row.sources, row.extra["kind"]) for row in rows if row.extra["kind"] in LOOSE)
    assert max(loose.values()) <= LOOSE_PER_PAGE


def test_the_same_documents_and_seed_give_the_same_questions_in_whatever_order_they_come(
    pages: list[Page], rows: list[QuestionRow]
) -> None:
    assert seed_rows(pages[::-1]) == rows
    assert seed_rows(pages, seed=1) != rows


def test_about_the_share_of_facts_loses_its_page_and_a_fact_loses_it_in_all_its_wordings(rows: list[QuestionRow]) -> None:
    changed = absent_rows(rows, 0.3, seed=4)
    gone = {row.fact for row in changed if not row.answerable}
    assert abs(len(gone) / len({row.fact for row in rows}) - 0.3) < 0.02
    assert [row.id for row in changed] == [row.id for row in rows] and changed == absent_rows(rows, 0.3, seed=4)
    for before, after in zip(rows, changed, strict=True):
        if after.fact in gone:
            assert (after.answer, after.sources, after.near_miss) == ("", (), before.sources[0])
            assert after.extra["absent"] == before.answer
        else:
            assert after == before
    assert absent_rows(rows, 0.0) == rows


@pytest.mark.parametrize(
    "text", ["", "   \n", "plain words", "# Only a heading\n", "|a|\n|-|\n", "<div>x</div>", "```\n| a | b |\n```"]
)
def test_pages_with_nothing_to_ask_give_nothing(text: str) -> None:
    assert rows_of(text) == {}
