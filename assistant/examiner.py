"""The examination: contestants answer the same questions as served by the fixed plan; the gate decides elsewhere.

Run as a subprocess of a night: `python -m assistant.examiner RUN_FOLDER`. It reads `examine.json` and `questions.jsonl` in the
run folder, retrieves from the documents' index, and writes `examination.json`. It never opens the store.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from assistant.canary import record
from assistant.config import Settings
from assistant.engines.base import AdapterVersion, ChatRequest, Engine, LoadedAdapter
from assistant.grounding import settle
from assistant.home import Home
from assistant.prompt import Prepared
from assistant.services import open_engine, open_prompts
from feedback.errors import NightschoolError
from feedback.records import FinishReason
from feedback.wording import REFUSAL
from training.measures import Scored, score_answer, summarise
from training.parent import end_with_parent
from training.questions import QuestionRow, load_questions

PARALLEL = 4
"""Questions asked at the same time: the engine reads one prompt while it writes another answer."""
PERPLEXITY_SAMPLE = 48
PERPLEXITY_SECONDS = 20.0
"""How many gold answers' perplexity is measured at most, and for how long: reading costs more in torch than in the engine."""


@dataclass(frozen=True, kw_only=True)
class Contestant:
    """Who is examined: "base", "serving" or "candidate"; `folder` is None for the bare base."""

    name: str
    version: str
    folder: Path | None


@dataclass(frozen=True, kw_only=True)
class Request:
    """What an examination is asked to do (`examine.json`)."""

    home: Path
    settings: Settings
    contestants: tuple[Contestant, ...]
    perplexity: bool

    def to_json(self) -> str:
        """Return the request as JSON."""
        data = {**asdict(self), "settings": self.settings.model_dump()}
        return json.dumps(data, default=str, indent=2)

    @classmethod
    def from_json(cls, text: str) -> Request:
        """Read a request."""
        data = json.loads(text)
        return cls(
            home=Path(data["home"]),
            settings=Settings.model_validate(data["settings"]),
            contestants=tuple(
                Contestant(name=each["name"], version=each["version"], folder=Path(each["folder"]) if each["folder"] else None)
                for each in data["contestants"]
            ),
            perplexity=data["perplexity"],
        )


@dataclass(frozen=True, kw_only=True)
class Judged:
    """One answer of one contestant with its marks."""

    text: str
    seconds: float
    tokens: int
    scored: Scored


def answer_once(engine: Engine, loaded: LoadedAdapter, prepared: Prepared, row: QuestionRow, *, max_tokens: int) -> Judged:
    """Answer one prepared question as the chat does, settled as the chat settles it, and judge it."""
    started = time.perf_counter()
    text, tokens = REFUSAL, 0
    if not prepared.refused:
        pieces: list[str] = []
        finish_reason: FinishReason = "stopped"
        for delta in engine.stream(ChatRequest(messages=prepared.messages, max_tokens=max_tokens), loaded):
            pieces.append(delta.text)
            tokens = delta.completion_tokens or tokens
            finish_reason = delta.finish_reason or finish_reason
        text = settle("".join(pieces), prepared.passages, prepared.question, finish_reason=finish_reason).text
    return Judged(
        text=text,
        seconds=time.perf_counter() - started,
        tokens=tokens,
        scored=score_answer(text, row, prepared.passages),
    )


def examine_contestant(
    engine: Engine,
    prepared: Sequence[tuple[QuestionRow, Prepared]],
    contestant: Contestant,
    *,
    max_tokens: int,
    tick: Callable[[], None],
) -> dict[str, Any]:
    """Let one contestant answer every question; returns its answers, summary and canary as JSON data."""
    loaded = engine.load(AdapterVersion(version=contestant.version, path=contestant.folder) if contestant.folder else None)
    try:

        def one(pair: tuple[QuestionRow, Prepared]) -> Judged:
            judged = answer_once(engine, loaded, pair[1], pair[0], max_tokens=max_tokens)
            tick()
            return judged

        started = time.perf_counter()
        with ThreadPoolExecutor(PARALLEL) as workers:
            judged = list(workers.map(one, prepared))
        seconds = time.perf_counter() - started
        canary = record(engine, loaded)
    finally:
        engine.unload(loaded)
    return {
        "version": contestant.version,
        "summary": summarise(each.scored for each in judged),
        "seconds": round(seconds, 1),
        "tokens_s": round(sum(each.tokens for each in judged) / max(seconds, 1e-9), 1),
        "canary": canary,
        "answers": [
            {
                "id": row.id,
                "question": row.question,
                "expected": row.answer,
                "text": each.text,
                "passages": [passage.document for passage in prepared_one.passages],
                "seconds": round(each.seconds, 3),
                **{key: value for key, value in asdict(each.scored).items() if key != "question_id"},
            }
            for (row, prepared_one), each in zip(prepared, judged, strict=True)
        ],
    }


def scored_of(result: dict[str, Any]) -> list[Scored]:
    """Rebuild the marks of one contestant from its JSON data."""
    names = set(Scored.__dataclass_fields__) - {"question_id"}
    return [Scored(question_id=each["id"], **{name: each[name] for name in names}) for each in result["answers"]]


def examine(request: Request, folder: Path) -> dict[str, Any]:
    """Examine every contestant over the questions in `folder`; progress goes to `folder`/examination.progress."""
    home = Home(request.home)
    settings = request.settings
    questions = load_questions(folder / "questions.jsonl")
    base, engine = open_engine(home, settings)
    _, prompts = open_prompts(home, settings, engine)
    tick = _ticker(folder / "examination.progress", len(questions) * len(request.contestants))
    started = time.perf_counter()
    try:
        prepared = [(row, prompts.prepare(row.question, row.history, collection=row.collection)) for row in questions]
        results = {
            contestant.name: examine_contestant(engine, prepared, contestant, max_tokens=settings.chat.max_tokens, tick=tick)
            for contestant in request.contestants
        }
        engine_name = engine.name
    finally:
        engine.close()
    if request.perplexity:
        from assistant.perplexity import gold_perplexity

        gold = [
            (pair.messages, f"{row.answer} [{number}]")
            for row, pair in prepared
            if (number := _gold_passage(row, pair)) is not None
        ][:PERPLEXITY_SAMPLE]
        seconds = PERPLEXITY_SECONDS
        for contestant in request.contestants if gold else ():
            # the first one sets how many answers all of them are measured on
            value, read = gold_perplexity(base.hf_dir, contestant.folder, gold, seconds=seconds)
            results[contestant.name] |= {"perplexity": value, "perplexity_questions": read}
            gold, seconds = gold[:read], float("inf")
    return {
        "engine": engine_name,
        "questions": len(questions),
        "seconds": round(time.perf_counter() - started, 1),
        "contestants": results,
    }


def _gold_passage(row: QuestionRow, prepared: Prepared) -> int | None:
    """Return the number of the first passage from a source of the answer, where a model was asked at all."""
    if prepared.refused:
        return None
    return next((passage.number for passage in prepared.passages if passage.document in row.sources), None)


def _ticker(path: Path, total: int) -> Callable[[], None]:
    lock = threading.Lock()
    done = 0

    def tick() -> None:
        nonlocal done
        with lock:
            done += 1
            path.write_text(json.dumps({"done": done, "total": total}), encoding="utf-8")

    return tick


def main(folder: Path, parent: int | None = None) -> int:
    """Examine as `folder`/examine.json says, for the night with the process id `parent`; write examination.json in one step."""
    end_with_parent(parent)
    os.nice(10)
    try:
        result = examine(Request.from_json((folder / "examine.json").read_text(encoding="utf-8")), folder)
    except NightschoolError as error:
        print(error, file=sys.stderr)
        return 1
    temporary = folder / "examination.json.tmp"
    temporary.write_text(json.dumps(result, ensure_ascii=False), encoding="utf-8")
    temporary.replace(folder / "examination.json")
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else None))
