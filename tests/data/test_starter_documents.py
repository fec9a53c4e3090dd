"""The organisations behind the starter adapter: their answers stand on their pages, and nothing is shared with what examines."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import pytest

from assistant.starter import organisations
from feedback.values import fold, states_value
from training.questions import QuestionRow, load_questions

DATA = Path(__file__).parents[2] / "data"
KINDS = {"value", "phrase", "sentence", "yesno", "list"}

Organisation = tuple[dict[str, str], list[QuestionRow]]


@pytest.fixture(scope="module")
def companies() -> dict[str, Organisation]:
    found = {}
    for folder in organisations(DATA / "starter"):
        pages = {each.relative_to(folder / "pages").as_posix(): each.read_text("utf-8") for each in folder.rglob("*.md")}
        found[folder.name] = (pages, load_questions(folder / "questions.jsonl"))
    return found


def test_there_are_ten_organisations_with_questions_of_every_kind_and_a_fifth_that_nothing_answers(
    companies: dict[str, Organisation],
) -> None:
    assert len(companies) >= 10
    for name, (pages, rows) in companies.items():
        assert len(pages) >= 12 and len(rows) >= 120, name
        assert {row.extra["kind"] for row in rows if row.answerable} == KINDS, name
        assert 0.15 < sum(not row.answerable for row in rows) / len(rows) < 0.3, name


def test_every_value_and_phrase_stands_on_a_page_that_is_named(companies: dict[str, Organisation]) -> None:
    for pages, rows in companies.values():
        for row in rows:
            assert {*row.sources, *([row.near_miss] if row.near_miss else [])} <= pages.keys(), row.id
            if row.answerable and row.extra["kind"] in ("value", "phrase"):
                text = "\n".join(pages[source] for source in row.sources)
                assert any(states_value(text, value) for value in row.values), row.id


def test_no_question_is_asked_twice_and_none_is_of_the_examination(companies: dict[str, Organisation]) -> None:
    asked = Counter((name, fold(row.question)) for name, (_, rows) in companies.items() for row in rows)
    assert [question for question, count in asked.items() if count > 1] == []
    sealed = {fold(row.question) for row in load_questions(DATA / "questions" / "sealed.jsonl")}
    assert not sealed & {question for _, question in asked}


def test_no_sentence_is_shared_with_the_sample_company(companies: dict[str, Organisation]) -> None:
    handbook = set().union(*(long_sentences(each.read_text("utf-8")) for each in (DATA / "handbook").rglob("*.md")))
    written = set().union(*(long_sentences(text) for pages, _ in companies.values() for text in pages.values()))
    assert not handbook & written


def long_sentences(text: str) -> set[str]:
    return {fold(each) for each in re.split(r"(?<=[.!?])\s+|\n+", text) if len(each.split()) >= 6}
