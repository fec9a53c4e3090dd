"""The sample company: its handbook is whole, and its sealed questions share nothing with the practice ones."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

import pytest
from rapidfuzz import fuzz, process

from training.questions import QuestionRow, load_questions

DATA = Path(__file__).parents[2] / "data"
HANDBOOK = DATA / "handbook"
Item = TypeVar("Item")
TOO_ALIKE = 75
"""Likeness (0 to 100) of two masked questions, words sorted, above which one is a rewording of the other."""


@pytest.fixture(scope="module")
def pages() -> dict[str, str]:
    return {path.relative_to(HANDBOOK).as_posix(): path.read_text(encoding="utf-8") for path in HANDBOOK.rglob("*.md")}


@pytest.fixture(scope="module")
def practice() -> list[QuestionRow]:
    return load_questions(DATA / "questions" / "practice.jsonl")


@pytest.fixture(scope="module")
def sealed() -> list[QuestionRow]:
    return load_questions(DATA / "questions" / "sealed.jsonl")


@pytest.fixture(scope="module")
def everything(practice: list[QuestionRow], sealed: list[QuestionRow]) -> list[QuestionRow]:
    return practice + sealed


# the handbook


def test_the_handbook_has_at_least_forty_pages(pages: dict[str, str]) -> None:
    assert len(pages) >= 40


def test_every_page_links_to_others_and_every_relative_link_resolves(pages: dict[str, str]) -> None:
    for name, text in pages.items():
        links = [link.partition("#")[0] for link in re.findall(r"\]\(([^)\s]+)\)", text) if "://" not in link]
        assert len(links) >= 2, f"{name} links to {len(links)} pages"
        for link in links:
            assert (HANDBOOK / name).parent.joinpath(link).resolve().is_file(), f"{name} links to {link}"


def test_no_two_pages_share_the_same_list_of_section_headings(pages: dict[str, str]) -> None:
    assert repeated(tuple(re.findall(r"^##+ (.+)$", text, re.MULTILINE)) for text in pages.values()) == []


def test_no_sentence_stands_on_two_pages(pages: dict[str, str]) -> None:
    assert repeated(sentence for text in pages.values() for sentence in set(sentences(text))) == []


def test_a_telephone_extension_stands_on_one_page_only(pages: dict[str, str]) -> None:
    assert repeated(number for text in pages.values() for number in set(re.findall(r"extension (\d{4})", text))) == []


# the questions


def test_ids_are_unique_across_both_files(everything: list[QuestionRow]) -> None:
    assert repeated(row.id for row in everything) == []


def test_no_question_is_asked_twice(everything: list[QuestionRow]) -> None:
    assert repeated(normal(row.question) for row in everything) == []


def test_every_answer_stands_in_its_source_page(everything: list[QuestionRow], pages: dict[str, str]) -> None:
    missing = [
        (row.id, source) for row in everything for source in row.sources if not stands_in(row.answer, pages.get(source, ""))
    ]
    assert missing == []


def test_every_answer_has_one_source_page(everything: list[QuestionRow]) -> None:
    assert [row.id for row in everything if row.answerable and len(row.sources) != 1] == []


def test_no_question_gives_its_answer_away(everything: list[QuestionRow]) -> None:
    assert [row.id for row in everything if row.answerable and stands_in(row.answer, row.question)] == []


def test_all_wordings_of_a_fact_have_the_same_answer_and_source(everything: list[QuestionRow]) -> None:
    keys = {(row.fact, row.answer, row.accepted, row.sources) for row in everything}
    assert repeated(fact for fact, *_ in keys) == []


def test_every_page_is_asked_about(everything: list[QuestionRow], pages: dict[str, str]) -> None:
    assert {source for row in everything for source in row.sources} == set(pages)


def test_there_are_enough_answerable_questions(everything: list[QuestionRow]) -> None:
    assert sum(row.answerable for row in everything) >= 300


def test_at_least_a_third_of_the_facts_have_several_wordings(everything: list[QuestionRow]) -> None:
    wordings = Counter(row.fact for row in everything if row.answerable)
    assert sum(count > 1 for count in wordings.values()) >= len(wordings) / 3


def test_there_are_enough_unanswerable_questions_and_about_half_are_near_misses(everything: list[QuestionRow]) -> None:
    unanswerable = [row for row in everything if not row.answerable]
    assert len(unanswerable) >= 60
    assert 0.4 <= sum(bool(row.near_miss) for row in unanswerable) / len(unanswerable) <= 0.6


def test_an_unanswerable_question_is_asked_in_one_wording(everything: list[QuestionRow]) -> None:
    assert repeated(row.fact for row in everything if not row.answerable) == []


def test_a_near_miss_names_a_page_and_has_no_answer(everything: list[QuestionRow], pages: dict[str, str]) -> None:
    near = [row for row in everything if row.near_miss]
    assert [row.id for row in near if row.near_miss not in pages or row.answerable] == []


# practice against sealed


def test_practice_holds_about_two_thirds_of_the_facts(practice: list[QuestionRow], sealed: list[QuestionRow]) -> None:
    shown, hidden = facts_asked(practice), facts_asked(sealed)
    assert 0.6 <= len(shown) / len(shown | hidden) <= 0.73


def test_practice_and_sealed_share_no_page(practice: list[QuestionRow], sealed: list[QuestionRow]) -> None:
    assert pages_touched(practice) & pages_touched(sealed) == set()


def test_practice_and_sealed_share_no_fact(practice: list[QuestionRow], sealed: list[QuestionRow]) -> None:
    assert {row.fact for row in practice} & {row.fact for row in sealed} == set()


def test_practice_and_sealed_share_no_opening_two_words(practice: list[QuestionRow], sealed: list[QuestionRow]) -> None:
    assert openings(practice) & openings(sealed) == set()


def test_no_sealed_question_is_a_practice_question_with_other_names_and_numbers(
    practice: list[QuestionRow], sealed: list[QuestionRow]
) -> None:
    shown = {row.id: masked(row.question) for row in practice}
    alike = [
        (row.id, match[2], round(match[1]))
        for row in sealed
        if (match := process.extractOne(masked(row.question), shown, scorer=fuzz.ratio, score_cutoff=TOO_ALIKE))
    ]
    assert alike == []


def test_a_question_with_only_its_names_and_numbers_changed_would_be_caught() -> None:
    first = masked("How much may a single purchase on a Silver card be after 12 days?")
    second = masked("How much may a single purchase on a Black card be after 90 days?")
    assert fuzz.ratio(first, second) > TOO_ALIKE


def repeated(items: Iterable[Item]) -> list[Item]:
    return [item for item, count in Counter(items).items() if count > 1]


def normal(text: str) -> str:
    return " ".join(text.lower().replace("*", "").replace("`", "").split())


def stands_in(value: str, text: str) -> bool:
    return bool(re.search(rf"(?<!\w){re.escape(normal(value))}(?!\w)", normal(text)))


def sentences(text: str) -> Iterator[str]:
    """Yield what a reader would know again: sentences, items and table rows of more than five words."""
    for part in re.split(r"(?<=[.!?])\s+|\n+", text):
        if len(re.findall(r"\w+", part)) > 5:
            yield normal(part)


def facts_asked(rows: Sequence[QuestionRow]) -> set[str]:
    return {row.fact for row in rows if row.answerable}


def pages_touched(rows: Sequence[QuestionRow]) -> set[str]:
    return {page for row in rows for page in (*row.sources, row.near_miss) if page}


def openings(rows: Sequence[QuestionRow]) -> set[tuple[str, ...]]:
    return {tuple(re.findall(r"[\w'’]+", row.question.lower())[:2]) for row in rows}


def masked(question: str) -> str:
    """Return the words of a question in sorted order, with its numbers and its names alike to all others."""
    first, *rest = re.sub(r"€?\d[\d.,:]*", "#", question).split()
    words = [first, *("@" if word[0].isupper() and word.split("'")[0] != "I" else word for word in rest)]
    return " ".join(sorted(re.sub(r"[^\w#@']", "", word.lower()) for word in words))
