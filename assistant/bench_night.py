"""The chat while a night trains: time to the first token of typical questions, idle and with the trainer at work.

`nightschool bench night`. The trainer runs as a night runs it, in a process of its own on every core, with low priority.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from assistant.bench_training import sample_rows
from assistant.chat import Done
from assistant.config import Settings
from assistant.console import sample_company
from assistant.demo import in_turns
from assistant.hardware import cores
from assistant.home import Home
from assistant.models import BaseModel, open_base
from assistant.services import Services, open_services
from feedback.errors import EngineError, RunError
from training.bench import write_rows
from training.questions import load_questions
from training.recipe import Recipe

ROWS = 64
START_SECONDS = 180.0


def bench_night(home: Home, settings: Settings, *, questions: int) -> dict[str, Any]:
    """Ask `questions` questions idle, then as many others while a training runs; times are medians in milliseconds.

    Returns {"questions", "idle_ttft_ms", "night_ttft_ms", "ratio", "idle_ttft_p90_ms", "night_ttft_p90_ms"}.
    """
    base = open_base(home.models, settings.engine.base_model)
    rows = sample_rows(home, settings, rows=ROWS)
    data = sample_company()
    asked = [row.question for row in in_turns(load_questions(data / "questions" / "practice.jsonl")) if row.answerable]
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "models").symlink_to(home.models)
        with open_services(Home(Path(folder)), Settings()) as services:
            services.library.add_folder(data / "handbook")
            _first_tokens(services, asked[-3:])  # the first answers of a process are slower
            idle = _first_tokens(services, asked[:questions])
            with _training(Path(folder) / "run", base, rows):
                busy = _first_tokens(services, asked[questions : 2 * questions])
    return {
        "questions": questions,
        "idle_ttft_ms": round(statistics.median(idle)),
        "night_ttft_ms": round(statistics.median(busy)),
        "ratio": round(statistics.median(busy) / statistics.median(idle), 2),
        "idle_ttft_p90_ms": round(statistics.quantiles(idle, n=10)[-1]),
        "night_ttft_p90_ms": round(statistics.quantiles(busy, n=10)[-1]),
    }


def _first_tokens(services: Services, questions: Sequence[str]) -> list[float]:
    known = {user.name: user for user in services.store.users()}
    user = known.get("bench") or services.store.add_user("bench", "a long enough password", "employee")
    place = services.store.start_conversation(user.id, history=False)
    times: list[float] = []
    for question in questions:
        for event in services.chat.ask(user_id=user.id, conversation_id=place, question=question, history=False):
            if not isinstance(event, Done):
                continue
            answer = event.turn.answer
            if answer is None or answer.error:
                raise EngineError(f"The question {question!r} got no answer: {answer.error if answer else 'none'}")
            if answer.finish_reason in ("stop", "length") and answer.ttft_s is not None:
                times.append(answer.ttft_s * 1000)
    return times


@contextmanager
def _training(folder: Path, base: BaseModel, rows: Sequence[dict[str, Any]]) -> Iterator[None]:
    """Train on the rows while the block runs; it begins with the first step done."""
    write_rows(folder, rows, Recipe(base=str(base.hf_dir), base_name=base.name, epochs=100.0, threads=cores()))
    with (folder / "trainer.log").open("wb") as log:
        trainer = subprocess.Popen([sys.executable, "-m", "training.trainer", str(folder)], stdout=log, stderr=log)
    try:
        deadline = time.monotonic() + START_SECONDS
        while not (folder / "progress.jsonl").exists() or not (folder / "progress.jsonl").stat().st_size:
            if trainer.poll() is not None or time.monotonic() > deadline:
                raise RunError(f"The training did not start: {(folder / 'trainer.log').read_text(errors='replace')[-300:]}")
            time.sleep(0.2)
        yield
        if trainer.poll() is not None:
            raise RunError("The training ended before the questions did: ask fewer.")
    finally:
        trainer.kill()
        trainer.wait()
