"""The suites of an examination, asked of one loaded contestant as the chat would ask: answers, objections, prompts to look at."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import Any

from assistant.engines.base import ChatRequest, Engine, LoadedAdapter
from assistant.examination_plan import Texts, objection
from assistant.grounding import settle
from assistant.prompt import Prepared, PromptBuilder, request_of
from feedback.records import FinishReason, Message
from feedback.wording import REFUSAL
from training.measures import Scored, score_answer
from training.pushback import keeps_value
from training.questions import QuestionRow

PARALLEL = 4
"""Questions asked at the same time: the engine reads one prompt while it writes another answer."""
PROMPT_TOKENS = 120
"""The longest answer to a prompt that is only looked at."""

Pair = tuple[QuestionRow, Prepared]
Tick = Callable[[], None]


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
        text, tokens, finish_reason = _written(engine, loaded, request_of(prepared, max_tokens=max_tokens))
        text = settle(text, prepared.passages, prepared.question, finish_reason=finish_reason).text
    return Judged(
        text=text,
        seconds=time.perf_counter() - started,
        tokens=tokens,
        scored=score_answer(text, row, prepared.passages),
    )


def answer_all(engine: Engine, loaded: LoadedAdapter, pairs: Sequence[Pair], *, max_tokens: int, tick: Tick) -> list[Judged]:
    """Answer prepared questions, several at a time; the answers come in the order of the questions."""

    def one(pair: Pair) -> Judged:
        judged = answer_once(engine, loaded, pair[1], pair[0], max_tokens=max_tokens)
        tick()
        return judged

    with ThreadPoolExecutor(PARALLEL) as workers:
        return list(workers.map(one, pairs))


def as_data(pairs: Sequence[Pair], judged: Sequence[Judged]) -> list[dict[str, Any]]:
    """Return answers with their questions and marks as JSON data."""
    return [
        {
            "id": row.id,
            "question": row.question,
            "expected": row.answer,
            "text": each.text,
            "passages": [passage.document for passage in prepared.passages],
            "seconds": round(each.seconds, 3),
            **{key: value for key, value in asdict(each.scored).items() if key != "question_id"},
        }
        for (row, prepared), each in zip(pairs, judged, strict=True)
    ]


class Objections:
    """The pushback suite: after a right answer somebody objects, in the same conversation. Follow-ups are prepared once."""

    def __init__(self, prompts: PromptBuilder, texts: Texts, questions: Sequence[QuestionRow]) -> None:
        self._prompts = prompts
        self._texts = texts.pushbacks
        self._values = sorted({row.answer for row in questions if row.answer})
        self._prepared: dict[tuple[str, str], Prepared] = {}

    def raised(
        self,
        engine: Engine,
        loaded: LoadedAdapter,
        answered: Sequence[tuple[QuestionRow, Judged]],
        *,
        limit: int,
        first: Sequence[str],
        max_tokens: int,
        tick: Tick,
    ) -> list[dict[str, Any]]:
        """Object to at most `limit` right answers, one a fact; those to the questions in `first` come first.

        An answer is right when it states the value; whether it cites does not matter, since the chat's history carries no
        citations. `kept` says whether the answer to the objection still gives the value.
        """

        def one(pair: tuple[QuestionRow, Judged]) -> dict[str, Any]:
            data = self._one(engine, loaded, *pair, max_tokens=max_tokens)
            tick()
            return data

        with ThreadPoolExecutor(PARALLEL) as workers:
            return list(workers.map(one, chosen_answers(answered, limit=limit, first=first)))

    def _one(self, engine: Engine, loaded: LoadedAdapter, row: QuestionRow, answer: Judged, *, max_tokens: int) -> dict[str, Any]:
        said, wrong = objection(row, self._texts, self._values)
        key = (row.id, answer.text)
        if key not in self._prepared:
            asked, answered = Message(role="user", content=row.question), Message(role="assistant", content=answer.text)
            self._prepared[key] = self._prompts.prepare(said, (*row.history, asked, answered), collection=row.collection)
        after = answer_once(engine, loaded, self._prepared[key], row, max_tokens=max_tokens)
        return {
            "id": row.id,
            "fact": row.fact,
            "question": row.question,
            "expected": row.answer,
            "before": answer.text,
            "pushback": said,
            "text": after.text,
            "kept": keeps_value(after.text, row.values, wrong),
        }


def chosen_answers(
    answered: Sequence[tuple[QuestionRow, Judged]], *, limit: int, first: Sequence[str]
) -> list[tuple[QuestionRow, Judged]]:
    """Return the right answers to object to: one a fact, those of `first` before all, then in an order fixed by the ids."""
    places = {question: place for place, question in enumerate(first)}

    def order(pair: tuple[QuestionRow, Judged]) -> tuple[int, str]:
        return places.get(pair[0].id, len(places)), hashlib.sha256(pair[0].id.encode()).hexdigest()

    right = [pair for pair in answered if pair[1].scored.right and not pair[1].scored.refused]
    by_fact: dict[str, tuple[QuestionRow, Judged]] = {}
    for pair in sorted(right, key=order):
        by_fact.setdefault(pair[0].fact, pair)
    return list(by_fact.values())[:limit]


def write_on(
    engine: Engine, loaded: LoadedAdapter, texts: Texts, *, count: int, max_tokens: int = PROMPT_TOKENS, tick: Tick
) -> list[dict[str, str]]:
    """Let a contestant write on the first `count` general prompts, without documents: for people to compare."""

    def one(prompt: str) -> str:
        request = ChatRequest(messages=(Message(role="user", content=prompt),), max_tokens=max_tokens)
        text, *_ = _written(engine, loaded, request)
        tick()
        return text.strip()

    with ThreadPoolExecutor(PARALLEL) as workers:
        written = list(workers.map(one, [each["prompt"] for each in texts.prompts[:count]]))
    return [{**each, "text": text} for each, text in zip(texts.prompts[:count], written, strict=True)]


def _written(engine: Engine, loaded: LoadedAdapter, request: ChatRequest) -> tuple[str, int, FinishReason]:
    pieces: list[str] = []
    tokens = 0
    finish_reason: FinishReason = "stopped"
    for delta in engine.stream(request, loaded):
        pieces.append(delta.text)
        tokens = delta.completion_tokens or tokens
        finish_reason = delta.finish_reason or finish_reason
    return "".join(pieces), tokens, finish_reason
