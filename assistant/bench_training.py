"""Rows for `bench training`: the practice questions of the sample company with the prompts that the chat would build."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from assistant.config import Settings
from assistant.console import sample_company
from assistant.demo import in_turns
from assistant.home import Home
from assistant.models import open_base
from assistant.services import open_engine, open_prompts
from feedback.wording import REFUSAL
from training.bench import WARM_STEPS, bench_training
from training.questions import QuestionRow, load_questions


def bench_training_on_sample(home: Home, settings: Settings, *, rows: int) -> dict[str, Any]:
    """Compare the night's training with a plain SFTTrainer on practice rows; see training.bench.bench_training."""
    base = open_base(home.models, settings.engine.base_model)
    return bench_training(base.hf_dir, sample_rows(home, settings, rows=rows), steps=rows // 4 - WARM_STEPS)


def sample_rows(home: Home, settings: Settings, *, rows: int) -> list[dict[str, Any]]:
    """Return prompt-completion rows (message lists), the completion being the value with its citation, or the refusal."""
    data = sample_company()
    _, engine = open_engine(home, settings)
    try:
        with tempfile.TemporaryDirectory() as folder:
            library, prompts = open_prompts(Home(Path(folder)), settings, engine)
            library.add_folder(data / "handbook")
            found: list[dict[str, Any]] = []
            for row in in_turns(load_questions(data / "questions" / "practice.jsonl")):
                prepared = prompts.prepare(row.question)
                completion = completion_of(row, [passage.document for passage in prepared.passages])
                if completion and not prepared.refused:
                    found.append(
                        {
                            "prompt": [message.as_dict() for message in prepared.messages],
                            "completion": [{"role": "assistant", "content": completion}],
                        }
                    )
                if len(found) == rows:
                    break
            return found
    finally:
        engine.close()


def completion_of(row: QuestionRow, given: list[str]) -> str:
    """Return what a question should have been answered: the value with its citation, or the refusal; "" when it is not given."""
    if not row.answerable:
        return REFUSAL
    return next((f"{row.answer} [{number}]" for number, document in enumerate(given, start=1) if document in row.sources), "")
