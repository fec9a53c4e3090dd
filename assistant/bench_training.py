"""`bench training` on the practice questions of the sample company, with the prompts that the chat would build."""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from assistant.config import Settings
from assistant.console import sample_company
from assistant.demo import in_turns
from assistant.home import Home
from assistant.models import open_base
from assistant.prompt import Prepared
from assistant.services import open_engine, open_prompts
from feedback.records import Passage
from feedback.support import as_read, best_support
from feedback.wording import REFUSAL
from training.bench import BATCH, WARM_STEPS, bench_training
from training.bench_loss import bench_time_to_loss, rows_within
from training.questions import QuestionRow, load_questions


def bench_training_on_sample(
    home: Home, settings: Settings, *, rows: int, minutes: float, work: Path | None, tell: Callable[[str], None]
) -> dict[str, Any]:
    """Compare the night's training with a plain SFTTrainer: speed on `rows` practice rows, then the time to a loss.

    `minutes` bound both together; 0 leaves the second out. What is measured is kept in `work`, for a second call to go on
    from. See training.bench.bench_training and training.bench_loss.bench_time_to_loss.
    """
    begun = time.monotonic()
    base = open_base(home.models, settings.engine.base_model).hf_dir
    with ExitStack() as stack:
        folder = work or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="nightschool-bench-")))
        folder.mkdir(parents=True, exist_ok=True)
        steps = rows // BATCH - WARM_STEPS
        speed: dict[str, Any] = _kept(
            folder / f"speed-{rows}.json",
            lambda: bench_training(base, sample_rows(home, settings, rows=rows), steps=steps, tell=tell),
        )
        if not minutes:
            return speed
        left = minutes - (time.monotonic() - begun) / 60
        count = rows_within(
            left, plain_tok_s=speed["plain_tok_s"], row_tokens=speed["tokens"] / (speed["rounds"] * steps * BATCH)
        )
        chosen = _kept(folder / "rows.json", lambda: sample_rows(home, settings, rows=count))
        return {**speed, **bench_time_to_loss(base, chosen, work=folder, tell=tell)}


def _kept(file: Path, make: Callable[[], Any]) -> Any:
    """Return what `file` holds, made and written there where it is missing."""
    if not file.exists():
        partial = file.with_suffix(".partial")
        partial.write_text(json.dumps(make()), encoding="utf-8")
        partial.replace(file)
    return json.loads(file.read_text(encoding="utf-8"))


def sample_rows(home: Home, settings: Settings, *, rows: int) -> list[dict[str, Any]]:
    """Return prompt-completion rows (message lists), the completion being the value with its citation, or the refusal."""
    data = sample_company()
    base, engine = open_engine(home, settings)
    try:
        with tempfile.TemporaryDirectory() as folder:
            library, prompts = open_prompts(Home(Path(folder)), settings, base, engine)
            library.add_folder(data / "handbook")
            found: list[dict[str, Any]] = []
            for row in in_turns(load_questions(data / "questions" / "practice.jsonl")):
                found.extend(lessons([(row, prompts.prepare(row.question))]))
                if len(found) == rows:
                    break
            return found
    finally:
        engine.close()


def lessons(prepared: Iterable[tuple[QuestionRow, Prepared]]) -> Iterator[dict[str, Any]]:
    """Yield what corrections of these questions would teach, where a model was asked and the page was found."""
    for row, one in prepared:
        completion = _completion(row, one.passages)
        if completion and not one.refused:
            yield {
                "id": row.id,
                "prompt": [message.as_dict() for message in one.messages],
                "completion": [{"role": "assistant", "content": completion}],
            }


def _completion(row: QuestionRow, given: Sequence[Passage]) -> str:
    """Return what a question should have been answered: the value with its citation, or the refusal; "" when it is not given."""
    if not row.answerable:
        return REFUSAL
    held = best_support(row.answer, [as_read(each) for each in given if each.document in row.sources], row.question)
    return f"{row.answer} [{held.number}]" if held else ""
