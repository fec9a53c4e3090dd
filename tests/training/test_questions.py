"""Files of questions: what is read, what is refused, how it is split."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from feedback.errors import DocumentError
from feedback.records import Passage
from feedback.wording import MAX_QUESTION_CHARS
from training.questions import QuestionRow, is_said_elsewhere, load_questions, split_by, take_pages_away

GOOD = {"id": "a1", "fact": "a", "question": "How much?", "answer": "12", "accepted": ["twelve"], "sources": ["./x/y.md"]}


def write(path: Path, *rows: dict[str, Any] | str) -> Path:
    path.write_text("\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows), encoding="utf-8")
    return path


def test_a_row_is_read_with_its_values_sources_and_other_fields(tmp_path: Path) -> None:
    history = [{"role": "user", "content": "Hello"}]
    file = write(tmp_path / "q.jsonl", "", GOOD | {"team": "hr", "history": history}, {"id": "a2", "question": "Moons?"})
    answerable, absent = load_questions(file)
    assert (answerable.fact, answerable.values, answerable.sources) == ("a", ("12", "twelve"), ("x/y.md",))
    assert answerable.history[0].content == "Hello"
    assert answerable.extra["team"] == "hr"
    assert (absent.answerable, absent.values, absent.fact) == (False, (), "a2")


def test_a_file_with_a_byte_order_mark_and_windows_line_ends_is_read(tmp_path: Path) -> None:
    file = tmp_path / "q.jsonl"
    file.write_bytes(b"\xef\xbb\xbf" + json.dumps(GOOD).encode() + b"\r\n")
    assert load_questions(file)[0].id == "a1"


def test_wordings_can_share_their_fact_under_another_name(tmp_path: Path) -> None:
    row = {"question": "How much?", "answer": "12", "sources": ["x.md"], "item": "size"}
    file = write(tmp_path / "q.jsonl", row | {"id": "1"}, row | {"id": "2"})
    assert {question.fact for question in load_questions(file, group="item")} == {"size"}


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ("{not json", "not JSON"),
        ("[1]", "object was expected"),
        ({"id": "x", "question": "  "}, "'question'"),
        ({"question": "Who?"}, "'id'"),
        (GOOD | {"id": "x", "sources": []}, "no sources"),
        (GOOD | {"id": "x", "answer": "", "accepted": []}, "no answer"),
        (GOOD | {"id": "x", "answer": 12}, "'answer'"),
        (GOOD | {"id": "x", "accepted": "twelve"}, "'accepted'"),
        (GOOD | {"id": "x", "history": ["hello"]}, "'history'"),
        (GOOD | {"id": "x", "question": "y" * (MAX_QUESTION_CHARS + 1)}, "characters"),
        (GOOD, "taken by line 1"),
    ],
)
def test_a_faulty_line_is_named_with_what_is_wrong(tmp_path: Path, row: dict[str, Any] | str, said: str) -> None:
    file = write(tmp_path / "q.jsonl", GOOD, row)
    with pytest.raises(DocumentError) as raised:
        load_questions(file)
    assert "line 2" in str(raised.value)
    assert said in str(raised.value)
    assert "line 1:" not in str(raised.value)


def test_all_faults_are_reported_at_once(tmp_path: Path) -> None:
    with pytest.raises(DocumentError, match=r"line 1: .*line 2: .*and 2 more"):
        load_questions(write(tmp_path / "q.jsonl", *["{"] * 7))


def test_a_missing_empty_or_binary_file_is_one_clear_sentence(tmp_path: Path) -> None:
    with pytest.raises(DocumentError, match="cannot be read"):
        load_questions(tmp_path / "none.jsonl")
    with pytest.raises(DocumentError, match="hold no question"):
        load_questions(write(tmp_path / "empty.jsonl", "\n"))
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DocumentError, match="not UTF-8"):
        load_questions(tmp_path / "binary")


def rows(facts: int, absent: int) -> list[QuestionRow]:
    answerable = [
        QuestionRow(id=f"{fact}-{n}", fact=f"f{fact}", question="?", answer="1", sources=(f"{fact % 5}.md",))
        for fact in range(facts)
        for n in range(3)
    ]
    return answerable + [QuestionRow(id=f"n{n}", fact=f"n{n}", question="?") for n in range(absent)]


def test_a_split_shares_no_fact_and_takes_its_share_of_both_kinds() -> None:
    kept, held_out = split_by(rows(30, 10), "fact", 0.3, seed=4)
    assert {row.fact for row in kept}.isdisjoint(row.fact for row in held_out)
    assert len(kept) + len(held_out) == 100
    assert len({row.fact for row in held_out if row.answerable}) == 9
    assert sum(not row.answerable for row in held_out) == 3


def test_a_split_is_the_same_for_the_same_seed_and_whatever_the_order() -> None:
    first = split_by(rows(30, 10), "fact", 0.3, seed=4)[1]
    again = split_by(rows(30, 10)[::-1], "fact", 0.3, seed=4)[1]
    assert {row.id for row in first} == {row.id for row in again}
    assert {row.id for row in first} != {row.id for row in split_by(rows(30, 10), "fact", 0.3, seed=5)[1]}


def test_rows_without_a_fact_take_the_group_they_are_split_by_as_their_fact() -> None:
    plain = [
        QuestionRow(id=str(n), fact=str(n), question="?", answer="1", sources=("x.md",), extra={"item": str(n % 4)})
        for n in range(12)
    ]
    kept, held_out = split_by(plain, "item", 0.5)
    assert {row.fact for row in kept} | {row.fact for row in held_out} == {"0", "1", "2", "3"}
    assert {row.fact for row in kept}.isdisjoint(row.fact for row in held_out)


def test_a_group_of_both_kinds_stays_whole() -> None:
    mixed = [
        row
        for n in range(20)
        for row in (
            QuestionRow(id=f"a{n}", fact=f"a{n}", question="?", answer="1", sources=("x.md",), extra={"team": f"t{n}"}),
            QuestionRow(id=f"n{n}", fact=f"n{n}", question="?", extra={"team": f"t{n}"}),
        )
    ]
    kept, held_out = split_by(mixed, "team", 0.3)
    assert {row.extra["team"] for row in kept}.isdisjoint(row.extra["team"] for row in held_out)


def test_an_unknown_field_or_an_empty_half_is_an_error() -> None:
    with pytest.raises(DocumentError, match="no field 'item'"):
        split_by(rows(3, 0), "item", 0.5)
    with pytest.raises(DocumentError, match="one half would be empty"):
        split_by(rows(1, 0), "fact", 0.3)


def test_an_accepted_spelling_stands_in_for_a_missing_answer(tmp_path: Path) -> None:
    (row,) = load_questions(write(tmp_path / "q.jsonl", GOOD | {"answer": "", "accepted": ["twelve", "12"]}))
    assert (row.answer, row.accepted) == ("twelve", ("12",))


def test_a_search_can_be_measured_without_answers(tmp_path: Path) -> None:
    file = write(tmp_path / "q.jsonl", {"id": "a", "question": "Who?", "sources": ["a.md"]}, {"id": "b", "question": "Why?"})
    answered, unanswerable = load_questions(file, answers=False)
    assert answered.answerable and answered.answer == "" and not unanswerable.answerable


def test_pages_are_taken_away_for_whole_facts_and_only_what_no_other_page_answers() -> None:
    rows = [
        QuestionRow(id=f"q{n}", fact=f"f{n // 2}", question="?", answer="x", sources=(f"{n // 2}.md",)) for n in range(40)
    ] + [QuestionRow(id="both", fact="both", question="?", answer="x", sources=tuple(f"{n}.md" for n in range(20)))]
    changed, gone = take_pages_away(rows, 0.25)
    assert 3 <= len(gone) <= 7
    for before, after in zip(rows, changed, strict=True):
        assert after.answerable is not set(before.sources).issubset(gone)
    assert take_pages_away(rows, 0.25) == (changed, gone), "the same each time"


def test_a_question_may_name_the_collection_that_it_asks(tmp_path: Path) -> None:
    named, free = load_questions(write(tmp_path / "q.jsonl", GOOD | {"collection": "policies"}, GOOD | {"id": "other"}))
    assert (named.collection, free.collection) == ("policies", "")


def test_a_question_that_another_page_still_answers_loses_the_source_that_is_gone() -> None:
    rows = [QuestionRow(id="a", fact="a", question="?", answer="x", sources=("one.md", "two.md"))] + [
        QuestionRow(id=f"b{n}", fact=f"b{n}", question="?", answer="x", sources=(f"{n}.md",)) for n in range(8)
    ]
    for seed in range(6):
        changed, gone = take_pages_away(rows, 0.4, seed=seed)
        left = {source for row in changed for source in row.sources}
        assert gone and left.isdisjoint(gone)


def test_what_another_page_still_says_is_told_apart_from_what_is_lost(tmp_path: Path) -> None:
    rows = [
        QuestionRow(
            id="a", fact="a", question="Which application?", answer="Zoom", accepted=("Zoom Meetings",), sources=("a.md",)
        )
    ]
    (lost,), _ = take_pages_away(rows, 1.0)
    assert not lost.answerable and lost.values == () and lost.lost == ("Zoom", "Zoom Meetings")

    def says(text: str) -> bool:
        passage = Passage(number=1, document="b.md", document_version=1, chunk_id=1, title="Tools", text=text, score=0.5)
        return is_said_elsewhere(lost, [passage])

    assert says("Meetings are held on Zoom.") and not says("Pictures are zoomed.") and not is_said_elsewhere(rows[0], [])
    kept = load_questions(write(tmp_path / "q.jsonl", {"id": "a", "question": "Which?", "lost": ["Zoom"]}))
    assert kept[0].lost == ("Zoom",)
