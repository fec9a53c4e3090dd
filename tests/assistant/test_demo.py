"""The demo's own choices: who is asked what, what is taken away, how the minutes are divided. The story itself: tests/e2e."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from assistant.demo import Story, _company, _examined, _side_by_side, _throw_away_home, in_turns
from feedback.errors import DocumentError, RunError
from training.questions import QuestionRow


def row(fact: str, number: int, page: str = "a.md") -> QuestionRow:
    return QuestionRow(id=f"{fact}-{number}", fact=fact, question=f"{fact} {number}?", answer="7", sources=(page,))


def test_every_fact_is_asked_once_before_any_is_asked_again() -> None:
    ordered = in_turns([row(fact, number) for fact in "abc" for number in range(3)])
    assert [{each.fact for each in ordered[start : start + 3]} for start in (0, 3, 6)] == [{"a", "b", "c"}] * 3
    assert ordered == in_turns([row(fact, number) for fact in "abc" for number in range(3)])


@pytest.fixture
def company(tmp_path: Path) -> tuple[Path, Path]:
    folder = tmp_path / "pages"
    folder.mkdir()
    lines = []
    for item in range(18):
        (folder / f"p{item}.md").write_text(f"# Item {item}\n\nIts value is {item}.\n", encoding="utf-8")
        for wording in range(2):
            lines.append(
                {"id": f"{item}-{wording}", "item": f"item {item}", "question": f"Value of item {item}, {wording}?"}
                | {"answer": str(item), "sources": [f"p{item}.md"]}
            )
    file = tmp_path / "questions.jsonl"
    file.write_text("\n".join(json.dumps(line) for line in lines), encoding="utf-8")
    return folder, file


def test_a_company_without_unanswerable_questions_gets_some_by_losing_pages(company: tuple[Path, Path]) -> None:
    folder, file = company
    _, practice, sealed, absent = _company(Story(documents=folder, questions=file, split_by="item", minutes=1))
    unanswerable = {each.fact for each in [*practice, *sealed] if not each.answerable}
    assert len(unanswerable) == len(absent) == 2
    assert {f"p{fact.split()[1]}.md" for fact in unanswerable} == set(absent)
    assert all(set(each.sources).isdisjoint(absent) for each in [*practice, *sealed])


def test_practice_and_sealed_share_no_item(company: tuple[Path, Path]) -> None:
    folder, file = company
    _, practice, sealed, _ = _company(Story(documents=folder, questions=file, split_by="item", minutes=1))
    assert {each.fact for each in practice}.isdisjoint(each.fact for each in sealed)
    assert len({each.fact for each in sealed}) == pytest.approx(6, abs=1)


def test_a_field_that_is_not_there_is_named(company: tuple[Path, Path]) -> None:
    folder, file = company
    with pytest.raises(DocumentError, match="topic"):
        _company(Story(documents=folder, questions=file, split_by="topic", minutes=1))


def test_a_faster_machine_examines_more_and_never_more_than_there_are() -> None:
    numbers = [_examined(minutes, pace, 500, contestants=2) for minutes, pace in ((30, 3.0), (30, 1.0), (60, 1.0))]
    assert numbers == sorted(set(numbers))
    assert _examined(30, 1.0, 500, contestants=3) < _examined(30, 1.0, 500, contestants=2)
    assert _examined(30, 0.01, 183, contestants=3) == 183


def test_a_story_that_fails_keeps_its_home_and_names_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("NIGHTSCHOOL_HOME", str(tmp_path / "own"))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with _throw_away_home(None) as home:
        root = home.root
    assert not root.exists()
    with pytest.raises(RunError, match="see trainer"), _throw_away_home(None) as home:
        (home.runs / "trainer.log").write_text("out of memory")
        raise RunError("Training failed: see trainer.log.")
    assert (home.runs / "trainer.log").exists() and f"its home is kept: {home.root}" in capsys.readouterr().err
    with pytest.raises(KeyboardInterrupt), _throw_away_home(None) as stopped:
        raise KeyboardInterrupt
    assert not stopped.root.exists(), "who stops it himself needs no look"


def test_answers_side_by_side_show_a_weak_one_too() -> None:
    def answer(number: int, score: float) -> dict[str, object]:
        return {"id": number, "question": f"q{number}", "expected": "7", "text": f"t{score}", "score": score, "answerable": True}

    base = [answer(number, 0.0) for number in range(8)] + [answer(8, 1.0)]
    candidate = [answer(number, 1.0) for number in range(8)] + [answer(8, 0.0)]
    shown = _side_by_side({"contestants": {"base": {"answers": base}, "candidate": {"answers": candidate}}})
    assert len(shown) == 5 and "q8" in [each["question"] for each in shown]
