"""What an examination asks: stable draws, hidden pages, and shares of the time that is there."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from assistant.config import NightSettings
from assistant.examination_plan import (
    fitting,
    load_texts,
    objection,
    plan,
    read_plan,
    sample_general,
    sampled,
    sizes_of,
    write_plan,
)
from feedback.errors import SettingsError
from feedback.records import Message
from training.questions import QuestionRow

SIZES = sizes_of(NightSettings())
ROWS = [
    QuestionRow(
        id=f"a{fact}-{wording}",
        fact=f"a{fact}",
        question=f"Question {fact}, wording {wording}?",
        answer=f"{fact + 10} days",
        sources=(f"page{fact}.md",),
        history=(Message(role="user", content="Before?"),) if fact == 0 else (),
    )
    for fact in range(60)
    for wording in range(3)
] + [QuestionRow(id=f"n{fact}", fact=f"n{fact}", question=f"Nothing {fact}?") for fact in range(12)]


def kinds(asked: list[object]) -> tuple[int, int]:
    rows = [each.row for each in asked]  # type: ignore[attr-defined]
    return sum(row.answerable for row in rows), sum(not row.answerable for row in rows)


def test_a_night_asks_unanswerable_questions_beyond_the_sealed_ones_by_hiding_pages() -> None:
    asked = plan(ROWS, replace(SIZES, examined=36, unanswerable=40, paraphrases=0), seed=0)
    suite = [each for each in asked if each.suite == "unanswerable"]
    answerable, unanswerable = kinds([*asked])
    assert (answerable, unanswerable) == (30, 40), "those among the domain questions count"
    hidden = [each for each in suite if each.hidden]
    assert len(suite) == 34 and len(hidden) == 28  # six of twelve sealed ones stand in the domain
    for each in hidden:
        assert each.row.id.endswith("/hidden") and each.row.answer == "" and each.row.near_miss in each.hidden
    assert asked == plan(ROWS, replace(SIZES, examined=36, unanswerable=40, paraphrases=0), seed=0)


def test_a_hundred_unanswerable_questions_are_asked_where_the_facts_allow_it() -> None:
    asked = plan(ROWS, replace(SIZES, examined=len(ROWS), unanswerable=100), seed=0)
    assert kinds([*asked])[1] == 100


def test_second_wordings_are_added_until_enough_facts_have_two() -> None:
    few = plan(ROWS, replace(SIZES, examined=36, unanswerable=0, paraphrases=0), seed=0)
    more = plan(ROWS, replace(SIZES, examined=36, unanswerable=0, paraphrases=10), seed=0)
    assert len(more) == len(few) + 10
    wordings = [each.row.fact for each in more]
    assert sum(wordings.count(fact) == 2 for fact in set(wordings)) == 10 and max(map(wordings.count, wordings)) == 2


def test_a_plan_comes_back_from_its_file_and_a_plain_file_is_all_domain(tmp_path: Path) -> None:
    asked = plan(ROWS, replace(SIZES, examined=200, unanswerable=30), seed=0)
    write_plan(tmp_path / "questions.jsonl", asked)
    assert read_plan(tmp_path / "questions.jsonl") == asked
    (tmp_path / "plain.jsonl").write_text('{"id": "1", "question": "Why?"}\n', encoding="utf-8")
    (plain,) = read_plan(tmp_path / "plain.jsonl")
    assert plain.suite == "domain" and plain.hidden == () and plain.row.id == "1"


@pytest.mark.parametrize("seconds", [40.0, 90.0])
def test_what_does_not_fit_is_shared_out_and_what_one_suite_leaves_goes_to_the_others(seconds: float) -> None:
    wanted = {"domain": 150, "unanswerable": 40, "pushback": 4, "prompts": 10}
    counts = fitting(wanted, pace=0.5, seconds=seconds, least={})
    assert 0.95 * seconds / 0.5 - 3 <= sum(counts.values()) <= seconds / 0.5
    assert counts["pushback"] == 4, "its share is more than it wants"
    assert counts["domain"] > counts["unanswerable"] > 0
    assert all(counts[suite] <= wanted[suite] for suite in wanted)


def test_everything_is_asked_where_it_fits_and_never_less_than_the_least() -> None:
    wanted = {"domain": 30, "unanswerable": 10, "pushback": 5, "prompts": 0}
    assert fitting(wanted, pace=1.0, seconds=46.0, least={}) == wanted
    assert fitting(wanted, pace=10.0, seconds=1.0, least={"domain": 20}) == dict.fromkeys(wanted, 0) | {"domain": 20}
    assert fitting(wanted, pace=10.0, seconds=1.0, least={"domain": 99})["domain"] == 30


def test_a_larger_sample_holds_a_smaller_one_with_both_kinds_of_questions() -> None:
    asked = plan(ROWS, replace(SIZES, examined=60, unanswerable=40), seed=0)
    small = sampled(asked, {"domain": 24, "unanswerable": 8}, seed=0)
    large = sampled(asked, {"domain": 50, "unanswerable": 20}, seed=0)
    assert {each.row.id for each in small} < {each.row.id for each in large}
    domain = [each for each in small if each.suite == "domain"]
    assert len(domain) == 24 and 2 <= kinds([*domain])[1] <= 6
    assert {bool(each.hidden) for each in small if each.suite == "unanswerable"} == {True, False}


def test_the_same_question_meets_the_same_objection_and_one_without_another_value_names_none() -> None:
    texts, values = load_texts().pushbacks, sorted({row.answer for row in ROWS if row.answer})
    said = {objection(row, texts, values) for row in ROWS if row.answerable}
    assert objection(ROWS[0], texts, values) == objection(ROWS[0], texts, values)
    assert len({text for text, _ in said}) > 40 and not any("{wrong}" in text for text, _ in said)
    assert any(wrong and wrong in text for text, wrong in said)
    alone = replace(ROWS[0], answer="Kingfisher")
    assert {objection(replace(alone, id=f"k{at}"), texts, ["Kingfisher"])[1] for at in range(30)} == {""}


def test_general_rows_of_a_small_sample_come_from_several_topics() -> None:
    rows = sample_general(load_texts(), 12)
    assert len(rows) == 12 and len({row["topic"] for row in rows}) >= 4
    assert [row["id"] for row in rows] == [row["id"] for row in sample_general(load_texts(), 20)][:12]


def test_missing_texts_are_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"examination's texts in .* cannot be read"):
        load_texts(tmp_path)
