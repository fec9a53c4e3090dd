"""Serving: tokens a second and time to the first token through our chat, against the bare engine on the same prompts.

`nightschool bench serving`. Ours is the whole path: the question's retrieval, the records in the store, the lease, the
generator. Bare is llama.cpp called directly with token ids that were made beforehand. Blocks of questions alternate between
the two, so that a change of the machine's speed meets both; no question is asked twice of the same one.
"""

from __future__ import annotations

import itertools
import secrets
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from assistant.chat import Done, Piece
from assistant.config import EngineSettings, Settings
from assistant.console import sample_company
from assistant.engines.base import BASE_VERSION, AdapterVersion
from assistant.engines.llama_cpp import LlamaCppEngine
from assistant.home import Home
from assistant.models import BaseModel
from assistant.services import Services, open_services
from feedback.errors import EngineError
from feedback.records import Message
from training.questions import load_questions


@dataclass(frozen=True, kw_only=True)
class _Question:
    text: str
    messages: tuple[Message, ...]


@dataclass(frozen=True, kw_only=True)
class _Asked:
    """One answer: seconds to its first piece, and its tokens."""

    ttft_s: float
    tokens: int


Ask = Callable[[_Question], _Asked]


def bench_serving(*, base: BaseModel, streams: Sequence[int] = (1, 8), blocks: int = 4, block: int = 8) -> dict[str, Any]:
    """Measure on the sample company's handbook and practice questions, in a throw-away home, with the settings' defaults.

    Returns {"streams": {"1": {"ours_tok_s", "bare_tok_s", "ratio", "ttft_added_ms", "ttft_ms"}, ...}}. Raises EngineError
    where another engine than llama_cpp serves.
    """
    company = sample_company()
    questions = [row.question for row in load_questions(company / "questions" / "practice.jsonl")]
    _check_enough(len(questions), _needed(streams, blocks, block))
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "models").symlink_to(base.path.parent)
        name = base.name if (base.path / "base.json").is_file() else str(base.path)
        settings = Settings(engine=EngineSettings(kind="llama_cpp", base_model=name))
        with open_services(Home(Path(folder)), settings) as services:
            services.library.add_folder(company / "handbook")
            return measure(services, questions=questions, streams=streams, blocks=blocks, block=block)


def _needed(streams: Sequence[int], blocks: int, block: int) -> int:
    return (blocks + 1) * block * len(streams)


def _check_enough(there: int, needed: int) -> None:
    if there < needed:
        raise EngineError(f"The serving benchmark needs {needed} questions that reach the model, and has {there}.")


def measure(services: Services, *, questions: Sequence[str], streams: Sequence[int], blocks: int, block: int) -> dict[str, Any]:
    """Ask `blocks` times `block` questions of each path for each number of streams; a block before them warms up.

    Turns are recorded for a new user: use a throw-away home. Returns what `bench_serving` returns; the added time is the
    difference of the medians. Raises EngineError for another engine than llama_cpp, or with too few questions.
    """
    engine = services.engine
    if not isinstance(engine, LlamaCppEngine):
        raise EngineError(
            f'The serving benchmark compares with llama.cpp, and {engine.name} serves: set engine.kind = "llama_cpp".'
        )
    needed = _needed(streams, blocks, block)
    prepared = (_Question(text=question, messages=services.prompts.prepare(question).messages) for question in questions)
    reaching = (question for question in prepared if question.messages)  # the others are refused without a model
    asked = list(itertools.islice(reaching, needed))
    _check_enough(len(asked), needed)
    user = services.store.add_user("serving-benchmark", secrets.token_urlsafe(), "employee")
    ours, bare = _ours(services, user.id), _bare(services, engine)
    supply = iter(asked)
    report: dict[str, Any] = {}
    for count in streams:
        sets = [[next(supply) for _ in range(block)] for _ in range(blocks + 1)]
        report[str(count)] = _compare(ours, bare, sets, count)
    return {"streams": report}


def _compare(ours: Ask, bare: Ask, sets: Sequence[Sequence[_Question]], count: int) -> dict[str, float]:
    """Run every set through both, in alternating order; the first set warms up."""
    seconds = {"ours": 0.0, "bare": 0.0}
    answers: dict[str, list[_Asked]] = {"ours": [], "bare": []}
    for number, questions in enumerate(sets):
        for name, ask in (("ours", ours), ("bare", bare))[:: 1 if number % 2 else -1]:
            started = time.perf_counter()
            got = _ask_all(ask, questions, count)
            if number:
                seconds[name] += time.perf_counter() - started
                answers[name] += got
    speed = {name: sum(each.tokens for each in answers[name]) / seconds[name] for name in seconds}
    ttft = {name: statistics.median(each.ttft_s for each in answers[name]) for name in seconds}
    return {
        "ours_tok_s": round(speed["ours"], 1),
        "bare_tok_s": round(speed["bare"], 1),
        "ratio": round(speed["ours"] / speed["bare"], 3),
        "ttft_added_ms": round(1000 * (ttft["ours"] - ttft["bare"]), 1),
        "ttft_ms": round(1000 * ttft["ours"], 1),
    }


def _ask_all(ask: Ask, questions: Sequence[_Question], count: int) -> list[_Asked]:
    """Ask all questions, `count` at a time; raises the first failure."""
    left = iter(questions)
    lock = threading.Lock()
    answers: list[_Asked] = []
    failures: list[BaseException] = []

    def client() -> None:
        while True:
            with lock:
                question = next(left, None)
            if question is None:
                return
            try:
                answers.append(ask(question))
            except BaseException as error:  # raised again in the caller's thread
                failures.append(error)
                return

    clients = [threading.Thread(target=client) for _ in range(count)]
    for each in clients:
        each.start()
    for each in clients:
        each.join()
    if failures:
        raise failures[0]
    return answers


def _ours(services: Services, user_id: str) -> Ask:
    def ask(question: _Question) -> _Asked:
        conversation = services.store.start_conversation(user_id, history=False)
        started = time.perf_counter()
        first, tokens = None, 0
        events = services.chat.ask(user_id=user_id, conversation_id=conversation, question=question.text, history=False)
        for event in events:
            if isinstance(event, Piece) and event.text and first is None:
                first = time.perf_counter() - started
            elif isinstance(event, Done):
                answer = event.turn.answer
                if answer is None or answer.error:
                    raise EngineError(f"An answer of the serving benchmark failed: {answer.error if answer else 'it was lost'}")
                tokens = answer.completion_tokens
        return _Asked(ttft_s=first or time.perf_counter() - started, tokens=tokens)

    return ask


def _bare(services: Services, engine: LlamaCppEngine) -> Ask:
    """Start an instance of our own with the parameters and the adapter that serve, and call it directly."""
    import xllamacpp as xlc

    version = services.pool.current or BASE_VERSION
    adapter = AdapterVersion(version=version, path=services.registry.path(version)) if version != BASE_VERSION else None
    server = xlc.Server(engine.server_params(adapter))
    max_tokens = services.settings.chat.max_tokens

    def ask(question: _Question) -> _Asked:
        ids = engine.prompt_ids(question.messages)
        first: list[float] = []
        usage: dict[str, int] = {}

        def receive(chunk: dict[str, Any]) -> bool:
            if "error" in chunk:
                raise EngineError(f"The bare engine failed: {chunk['error']}")
            if not first and chunk["choices"][0]["text"]:
                first.append(time.perf_counter() - started)
            usage.update(chunk.get("usage") or {})
            return False

        started = time.perf_counter()
        body = {"prompt": ids, "n_predict": max_tokens, "temperature": 0.0, "seed": 0, "stream": True}
        server.handle_completions(body, receive)
        return _Asked(ttft_s=first[0] if first else time.perf_counter() - started, tokens=usage["completion_tokens"])

    return ask
