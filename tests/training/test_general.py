"""The general rows: many, short, each its own, and none that an examination or a comparison asks."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from feedback.errors import RunError
from feedback.values import fold
from training.curation import same_questions
from training.general import general_examples

LOOKED_AT = re.compile(
    r"photosynthesis|water cycle|haiku|\bpoem\b|sky is blue|capital (?:city )?of|learning a (?:new )?language"
    r"|continue the sequence|next number|like i'?m (?:five|5)|to a child|programming languages?",
    re.IGNORECASE,
)


def test_they_are_one_user_message_each_without_passages() -> None:
    examples = general_examples()
    assert 100 <= len(examples) <= 140 and len({each.id for each in examples}) == len(examples)
    for each in examples:
        assert [message.role for message in each.prompt] == ["user"] and each.source == "general"
        assert (each.turn_id, each.user_id) == ("", "")
        assert 1 <= len(each.completion.split()) <= 60 and each.completion == each.completion.strip()


def test_no_task_stands_twice_and_none_is_one_of_those_that_models_are_looked_at_with() -> None:
    questions = [each.prompt[0].content for each in general_examples()]
    assert len(set(same_questions(questions))) == len({fold(question) for question in questions}) == len(questions)
    assert [question for question in questions if LOOKED_AT.search(question)] == []


@pytest.mark.parametrize("text", ["{", '{"id": "a"}', "[]"])
def test_a_file_that_is_missing_or_is_not_as_it_should_be_is_one_sentence(tmp_path: Path, text: str) -> None:
    with pytest.raises(RunError, match="cannot be read"):
        general_examples(tmp_path / "none.jsonl")
    (tmp_path / "bad.jsonl").write_text(text)
    with pytest.raises(RunError, match="not as they should be"):
        general_examples(tmp_path / "bad.jsonl")
