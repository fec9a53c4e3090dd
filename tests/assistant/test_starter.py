"""The rows behind the starter adapter are laid out as the chat lays them out, and say what the passages say."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from assistant.config import DocumentSettings, Settings
from assistant.home import Home
from assistant.models import BaseModel
from assistant.prompt import INSTRUCTIONS
from assistant.starter import ORGANISATIONS, _drawn, organisations, questions_in, starter_rows
from feedback.errors import SettingsError
from feedback.values import states_value
from feedback.wording import REFUSAL, cited_numbers
from training.curation import Example

pytestmark = pytest.mark.model
COLOURS = ("red", "green", "blue", "white", "black", "brown", "grey", "violet")
WORDS_ONLY = Settings(documents=DocumentSettings(encoder="none"))
SUBJECTS = ("bicycle", "locker", "canteen", "printer", "garden", "piano", "ladder", "kettle")

FILLING = tuple(f"The {colour} shelf on the upper floor is dusted twice a year by whoever has time for it." for colour in COLOURS)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One organisation: a page a subject with one figure, a question for each, and one that no page answers."""
    root = tmp_path_factory.mktemp("starter")
    pages = root / "lagoon" / "pages"
    pages.mkdir(parents=True)
    rows = []
    for at, subject in enumerate(SUBJECTS):
        beside = SUBJECTS[at - 1]  # so that another page speaks of it too, without its figure
        text = f"# The {subject}\n\nIt stands beside the {beside}. The deposit for a {subject} is {31 + at} crowns a week.\n"
        (pages / f"{subject}.md").write_text(text, encoding="utf-8")
        row = {"id": subject, "kind": "value", "question": f"What is the deposit for a {subject}?", "answer": f"{31 + at} crowns"}
        rows.append(row | {"sources": [f"{subject}.md"]})
    rows.append({"id": "who", "question": "Who stands beside the bicycle?", "sources": [], "near_miss": "bicycle.md"})
    (root / "lagoon" / "questions.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return root


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory, base: BaseModel) -> Home:
    root = tmp_path_factory.mktemp("starter-home")
    (root / "models").symlink_to(base.path.parent)
    return Home(root)


@pytest.fixture(scope="module")
def rows(folder: Path, home: Home) -> list[Example]:
    return [row for seed in range(4) for row in starter_rows(folder, home, WORDS_ONLY, seed=seed)]


def passages(row: Example) -> list[str]:
    blocks = row.prompt[-1].content.rsplit("\n\nQuestion: ", 1)[0]
    return [part for part in blocks.split("\n\n[") if part]


def test_every_answer_stands_in_the_passage_that_it_cites(rows: list[Example]) -> None:
    answered = [row for row in rows if row.completion != REFUSAL]
    assert len(answered) > 30
    for row in answered:
        (number,) = cited_numbers(row.completion)
        assert states_value(passages(row)[number - 1], row.completion.split(" [")[0]), row.id


def test_a_row_is_read_as_served_in_lines_and_always_holds_its_answer(folder: Path, home: Home, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path / "longer")
    for page in (tmp_path / "longer" / "lagoon" / "pages").glob("*.md"):
        page.write_text(page.read_text("utf-8") + "\n" + "\n\n".join(FILLING), "utf-8")
    rows = starter_rows(tmp_path / "longer", home, Settings(), seed=5)
    asked = [row for row in rows if row.id == "lagoon/bicycle"]
    assert asked and all("deposit for a bicycle is" in row.prompt[-1].content for row in asked)
    assert all(sum(row.prompt[-1].content.count(line) for line in FILLING) < len(FILLING) for row in asked)


def test_what_the_passages_do_not_say_is_refused_in_the_standard_sentence(rows: list[Example]) -> None:
    refused = {row.id.split("/")[1] for row in rows if row.completion == REFUSAL}
    assert "who" in refused
    hidden = [row for row in rows if row.id.endswith("/hidden")]
    assert hidden and all(row.completion == REFUSAL for row in hidden)
    for row in hidden:
        assert f"deposit for a {row.id.split('/')[1]} is" not in row.prompt[-1].content


def test_figures_are_exchanged_in_passage_and_answer_together(rows: list[Example]) -> None:
    changed = [row for row in rows if row.id.endswith("/other figures")]
    assert changed
    for row in changed:
        subject = row.id.split("/")[1]
        assert not row.completion.startswith(f"{31 + SUBJECTS.index(subject)} ")


def test_the_right_passage_is_not_always_the_first_and_a_doubt_changes_no_answer(rows: list[Example]) -> None:
    assert {number for row in rows for number in cited_numbers(row.completion)} >= {1, 2}
    doubted = [row for row in rows if row.id.endswith("/doubted")]
    assert doubted
    for row in doubted:
        assert [message.role for message in row.prompt] == ["system", "user", "assistant", "user"]
        assert row.completion.split(" [")[0] == row.prompt[2].content


def test_the_prompt_is_the_chats_own_and_the_rows_are_the_same_every_time(folder: Path, home: Home) -> None:
    once, again = (starter_rows(folder, home, WORDS_ONLY, seed=1) for _ in range(2))
    assert once == again and all(row.prompt[0].content == INSTRUCTIONS for row in once)


def test_a_few_rows_come_from_as_few_organisations_as_hold_enough_questions(home: Home) -> None:
    drawn = _drawn(ORGANISATIONS, 250, 0)
    assert len(drawn) == 2 and sum(map(len, drawn.values())) == 250
    assert set(_drawn(ORGANISATIONS, 250, 1)) != set(drawn)
    assert questions_in(ORGANISATIONS) == sum(map(len, _drawn(ORGANISATIONS, None, 0).values())) > 1_200


def test_of_a_few_rows_as_many_refuse_as_are_asked_for(folder: Path, home: Home) -> None:
    for refusals in (0, 2, 3):
        rows = starter_rows(folder, home, WORDS_ONLY, limit=6, refusals=refusals)
        assert [row.completion == REFUSAL for row in rows].count(True) == refusals and len(rows) == 6
    many = starter_rows(folder, home, WORDS_ONLY, limit=12, refusals=11)
    assert len(many) == 12, "more that answer stand in for refusals that cannot be had"


def test_a_folder_without_organisations_is_named(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=str(tmp_path)):
        organisations(tmp_path)
