"""The rows beside the ratings: in the chat's own prompt form, cited, refused without the page, and silent on what examines."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from assistant.config import ChatSettings, DocumentSettings, EngineSettings, NightSettings, Settings
from assistant.home import Home
from assistant.library import Library
from assistant.night_rows import PROGRESS, lacking_refusals, night_rows, seed_examples, seed_questions, shares_of
from assistant.prompt import INSTRUCTIONS
from feedback.records import Message
from feedback.wording import REFUSAL
from training.curation import Example
from training.questions import QuestionRow

PAGES = {
    "hotels.md": "# Hotels\n\nA room in London may cost up to €140 a night. A held room keeps its price for 20 hours.\n",
    "badges.md": "# Badges\n\nA badge is valid for 5 years. A lost badge is replaced within 3 working days by reception.\n",
    "plans.md": "# Plans\n\n| Plan | Price a month | Devices |\n|---|---|---|\n| Stream | €29 | 11 |\n| River | €85 | 75 |\n",
    "desk.md": "# Desk\n\nA ticket may be reopened for 14 days. The desk answers a badge question within 5 years of joining.\n",
}


@pytest.fixture
def settings(base_folder: Path) -> Settings:
    """Words alone, and a base model of which only the tokenizer and the template are there."""
    return Settings(
        documents=DocumentSettings(encoder="none", reranker="none"),
        engine=EngineSettings(base_model=str(base_folder)),
        night=NightSettings(starter_share=0, seed_share=0.5, general_share=0.1),
    )


@pytest.fixture
def home(tmp_path: Path) -> Home:
    home, pages = Home(tmp_path / "home"), tmp_path / "pages"
    pages.mkdir()
    for name, text in PAGES.items():
        (pages / name).write_text(text, encoding="utf-8")
    Library(home.documents_db, encoder="none").add_folder(pages)
    return home


def questions(home: Home, *held_out: QuestionRow, absent: float = 0.0) -> list[QuestionRow]:
    return seed_questions(home, held_out, absent_share=absent, seed=0)


def asked(example: Example) -> str:
    return example.prompt[-1].content.rpartition("Question: ")[2]


def test_a_seed_row_is_what_the_chat_would_show_with_the_value_and_the_passage_that_says_so(
    home: Home, settings: Settings
) -> None:
    examples = {asked(each): each for each in seed_examples(home, settings, questions(home))}
    row = examples["For how many hours does a held room keep its price?"]
    assert row.prompt[0] == Message(role="system", content=INSTRUCTIONS)
    number = row.prompt[1].content.index("] Hotels\n") - 1
    assert row.completion == f"20 hours [{row.prompt[1].content[number]}]"
    assert (row.source, row.turn_id, row.user_id) == ("seed", "", "")
    assert examples["What is the price a month for River?"].completion.startswith("€85 [")
    badge = examples["For how many years is a badge valid?"]
    cited = badge.completion[-2]
    assert f"[{cited}] Badges" in badge.prompt[1].content, "another page holds the same value, but not what was said"


def test_where_the_page_is_taken_away_the_answer_is_the_refusal_and_where_the_value_still_stands_there_is_no_row(
    home: Home, settings: Settings
) -> None:
    rows = questions(home, absent=0.9)
    gone = {row.question: row for row in rows if not row.answerable}
    anything = settings.model_copy(update={"chat": ChatSettings(threshold=0)})
    refused = [each for each in seed_examples(home, anything, rows) if each.completion == REFUSAL]
    assert refused
    assert seed_examples(home, settings.model_copy(update={"chat": ChatSettings(threshold=1)}), rows) == [], "no model is asked"
    for each in refused:
        row = gone[asked(each)]
        title = row.near_miss.removesuffix(".md").capitalize()
        assert f"] {title}\n" not in each.prompt[1].content and row.extra["absent"] not in each.prompt[1].content
    everywhere = "For how many years is a badge valid?"
    assert everywhere in gone and everywhere not in {asked(each) for each in refused}


def test_a_limit_is_kept_with_the_share_of_refusals(home: Home, settings: Settings) -> None:
    told: list[tuple[int, int]] = []
    rows = questions(home, absent=0.4)
    anything = settings.model_copy(update={"chat": ChatSettings(threshold=0)})
    examples = seed_examples(home, anything, rows, limit=5, tell=lambda *done: told.append(done))
    assert told == [(done, 5) for done in range(1, 6)]
    assert [each.completion == REFUSAL for each in examples] == [True, True, False, False, False]
    assert seed_examples(home, anything, rows, limit=0) == []


def test_what_gives_a_held_out_question_away_is_not_among_the_seeds(home: Home) -> None:
    plain = {row.question for row in questions(home)}
    price = QuestionRow(id="1", fact="f", question="What does River cost?", answer="€85", sources=("plans.md",))
    beside = questions(home, price)
    assert {row.question for row in beside} < plain
    assert not any(row.sources == ("plans.md",) and "€85" in (row.answer, *row.question.split("?")) for row in beside)
    assert not any("€85" in row.question for row in beside)
    same = QuestionRow(id="2", fact="g", question="For how many years is a badge valid", answer="", sources=())
    assert plain - {row.question for row in questions(home, same)} == {"For how many years is a badge valid?"}
    elsewhere = QuestionRow(id="3", fact="h", question="What is dear?", answer="€85", sources=("hotels.md",))
    assert {row.question for row in questions(home, elsewhere)} == plain


def rated(count: int) -> list[Example]:
    return [
        Example(
            id=f"r{number}",
            prompt=(Message(role="user", content=f"Question {number}?"),),
            completion="x [1]",
            source="correction",
            turn_id=f"t{number}",
            user_id="u",
            weight=2.0,
        )
        for number in range(count)
    ]


def test_a_night_gets_its_rows_from_a_subprocess_in_their_shares(home: Home, settings: Settings, tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()

    def render() -> None:
        subprocess.run([sys.executable, "-m", "assistant.night_rows", str(run)], check=True, timeout=120)

    rows = night_rows(home, settings, run, examples=rated(4), held_out=(), max_rows=None, render=render)
    sources = [row.source for row in rows]
    assert sources == ["correction"] * 4 + ["seed"] * 5 + ["general"]
    assert rows[:4] == rated(4) and shares_of(settings) == {"seed": 0.5, "starter": 0, "general": 0.1}
    assert all(row.prompt[0].content == INSTRUCTIONS for row in rows[4:9]), "laid out as the chat does"
    assert [message.role for message in rows[9].prompt] == ["user"], "a bare chat"
    assert json.loads((run / PROGRESS).read_text())["total"] == 5


def test_the_starters_rows_refuse_what_ratings_and_documents_lack_and_at_most_half_of_them() -> None:
    assert lacking_refusals(0.2, rows=178, refusing=9, most=24) == 24
    assert lacking_refusals(0.2, rows=544, refusing=62, most=68) == 47
    assert lacking_refusals(0.2, rows=100, refusing=30, most=20) == 0 == lacking_refusals(0.0, rows=100, refusing=0, most=20)


def test_without_documents_and_starter_rows_nothing_is_started(settings: Settings, tmp_path: Path) -> None:
    def render() -> None:
        raise AssertionError("a subprocess for nothing")

    rows = night_rows(Home(tmp_path / "new"), settings, tmp_path, examples=rated(9), held_out=(), max_rows=None, render=render)
    assert [row.source for row in rows] == ["correction"] * 9 + ["general"]
