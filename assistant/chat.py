"""Asks and answers: retrieve, build the prompt, stream from one adapter version, settle the answer, record what happened.

With an agent, the model may look further before it answers; all its requests go to one adapter version.

The turn is committed before the model is called and its answer in `finally`, so a stopped stream, a failed engine and a
killed process all leave a record.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from assistant.agent import Agent
from assistant.engines.base import ChatRequest, Delta, Engine, LoadedAdapter
from assistant.grounding import CitationFilter, settle
from assistant.pool import AdapterPool
from assistant.prompt import Prepared, PromptBuilder, check_question, refusal_bias, request_of
from assistant.retrieval.followups import REWRITE_TOKENS, rewrite_messages, rewritten
from feedback.errors import EngineError, NotYourTurn, QueueFull
from feedback.records import Answer, FinishReason, Message, NewTurn, Passage, Step, Turn
from feedback.store import FeedbackStore
from feedback.wording import REFUSAL


@dataclass(frozen=True, kw_only=True)
class Sources:
    """First event of an answer: the turn's id and the passages that the model is given."""

    turn_id: str
    passages: tuple[Passage, ...]
    adapter: str


@dataclass(frozen=True, kw_only=True)
class StepDone:
    """A step of the agent, counted from 1. Pieces before it were no answer: what was shown of them is to be taken back."""

    step: Step
    number: int


@dataclass(frozen=True, kw_only=True)
class Piece:
    """A piece of the answer's text; "" while the model writes what is not shown.

    The stored answer is the pieces after the last step joined, unless it was refused after them.
    """

    text: str


@dataclass(frozen=True, kw_only=True)
class Done:
    """Last event: the turn as it is stored. An answer that failed says so in `turn.answer.error`."""

    turn: Turn


ChatEvent = Sources | StepDone | Piece | Done


@dataclass
class Writing:
    """An answer while it is written, from any source of deltas: an engine, or an agent that ends in one."""

    question: str
    passages: tuple[Passage, ...]  # all that the model was given so far
    started: float
    steps: tuple[Step, ...] = ()
    text: list[str] = field(default_factory=list)  # as the model wrote it
    ttft_s: float | None = None
    last: Delta | None = None
    finish_reason: FinishReason = "stopped"  # until the last delta, or a failure, says otherwise
    error: str | None = None

    def stream(self, events: Iterable[Delta | Step]) -> Iterator[Piece | StepDone]:
        """Give what may be shown; a failure is recorded, not raised. Closed half-way, the answer was stopped.

        Of what is written while there is no passage at all, nothing is shown before it is settled.
        """
        citations = self._citations()
        try:
            for event in events:
                if isinstance(event, Step):
                    yield self._step_done(event)
                    citations = self._citations()
                    continue
                self._take(event)
                piece = citations.feed(event.text) if self.passages else ""
                if piece or event.finish_reason is None:
                    yield Piece(text=piece)
        except EngineError as error:
            self.finish_reason, self.error = "failed", str(error)
        except Exception as error:  # the outer edge of an answer: the record must say that it failed
            self.finish_reason, self.error = "failed", f"{type(error).__name__}: {error}"
        if piece := citations.flush() if self.passages else self.answer().text:
            yield Piece(text=piece)

    def refuse(self) -> Iterator[Piece]:
        """Answer with the standard refusal, no model asked."""
        self.text.append(REFUSAL)
        self.finish_reason = "refused"
        yield Piece(text=REFUSAL)

    def _citations(self) -> CitationFilter:
        return CitationFilter(max((passage.number for passage in self.passages), default=0))

    def _step_done(self, step: Step) -> StepDone:
        """Record a step; what was written before it was no answer."""
        self.steps = (*self.steps, step)
        self.passages = (*self.passages, *step.passages)
        self.text.clear()
        self.ttft_s = None
        return StepDone(step=step, number=len(self.steps))

    def _take(self, delta: Delta) -> None:
        if delta.text:
            self.ttft_s = self.ttft_s if self.ttft_s is not None else time.perf_counter() - self.started
            self.text.append(delta.text)
        if delta.finish_reason is not None:
            self.last = delta
            self.finish_reason = delta.finish_reason

    def answer(self) -> Answer:
        """Settle what was written, and return it as it is stored."""
        settled = settle("".join(self.text), self.passages, self.question, finish_reason=self.finish_reason)
        return Answer(
            text=settled.text,
            finish_reason="refused" if settled.refused else self.finish_reason,
            prompt_tokens=self.last.prompt_tokens if self.last else 0,
            completion_tokens=self.last.completion_tokens if self.last else 0,
            ttft_s=self.ttft_s,
            total_s=time.perf_counter() - self.started,
            error=self.error,
            written=settled.written,
            checks=settled.checks,
            steps=self.steps,
        )


class Chat:
    """The chat of one server: many threads may ask at once."""

    def __init__(
        self,
        *,
        store: FeedbackStore,
        prompts: PromptBuilder,
        engine: Engine,
        pool: AdapterPool,
        base_model: str,
        base_hash: str,
        max_tokens: int,
        queue: int,
        agent: Agent | None = None,
        rewrites: bool = False,
    ) -> None:
        self._store = store
        self._prompts = prompts
        self._engine = engine
        self._pool = pool
        self._base_model = base_model
        self._base_hash = base_hash
        self._max_tokens = max_tokens
        self._queue = queue
        self._agent = agent  # None: the fixed plan
        self._rewrites = rewrites  # the model makes follow-up questions whole; else earlier words are carried over
        self._waiting = 0
        self._lock = threading.Lock()

    def ask(
        self, *, user_id: str, conversation_id: str, question: str, history: bool, collection: str = ""
    ) -> Iterator[ChatEvent]:
        """Answer a question: `Sources`, then the agent's `StepDone`s and `Piece`s, then `Done`; `collection` "" is all of them.

        Closing the generator stops the model and keeps the part.
        Raises QuestionError, QueueFull or NotYourTurn before anything is stored. An engine's failure is in `Done`, not raised.
        """
        started = time.perf_counter()
        check_question(question)
        with self._place(), self._pool.acquire() as lease:
            past = self._past(conversation_id, user_id) if history else ()
            query = self._rewritten(question, past, lease.adapter) if self._rewrites and past else ""
            prepared = self._prompts.prepare(question, past, collection=collection, query=query)
            if self._agent is not None:
                prepared = self._agent.begin(prepared)
            turn_id = self._store.begin_turn(self._new_turn(conversation_id, user_id, prepared, lease.version, history))
            writing = Writing(question=prepared.question, passages=prepared.passages, started=started)
            try:
                yield Sources(turn_id=turn_id, passages=prepared.passages, adapter=lease.version)
                if self._agent is not None:
                    yield from writing.stream(self._agent.run(prepared, lease.adapter))
                elif prepared.refused:
                    yield from writing.refuse()
                else:
                    request = request_of(prepared, max_tokens=self._max_tokens)
                    yield from writing.stream(self._engine.stream(request, lease.adapter))
            finally:
                self._store.finish_turn(turn_id, writing.answer())
        yield Done(turn=self._store.turn(turn_id))

    def _rewritten(self, question: str, past: Sequence[Message], adapter: LoadedAdapter) -> str:
        """Return what the model makes of a follow-up question, "" when that is no query."""
        request = ChatRequest(messages=rewrite_messages(question, past), max_tokens=REWRITE_TOKENS)
        try:
            return rewritten("".join(delta.text for delta in self._engine.stream(request, adapter)), question)
        except EngineError:
            return ""  # earlier words are carried over instead

    @contextmanager
    def _place(self) -> Iterator[None]:
        with self._lock:
            if self._waiting >= self._queue:
                raise QueueFull(self._waiting)
            self._waiting += 1
        try:
            yield
        finally:
            with self._lock:
                self._waiting -= 1

    def _past(self, conversation_id: str, user_id: str) -> tuple[Message, ...]:
        messages: list[Message] = []
        for turn in self._store.turns(conversation_id):
            if turn.asked.user_id != user_id:
                raise NotYourTurn(turn.id, user_id)
            if turn.answer is not None and turn.answer.text and turn.answer.finish_reason in ("stop", "length", "refused"):
                messages.append(Message(role="user", content=turn.asked.question))
                messages.append(Message(role="assistant", content=turn.answer.text))
        return tuple(messages)

    def _new_turn(self, conversation_id: str, user_id: str, prepared: Prepared, version: str, history: bool) -> NewTurn:
        sampling = {"temperature": 0.0, "max_tokens": self._max_tokens, "plan": "agent" if self._agent else "fixed"}
        if self._agent is None:
            sampling["refusal_bias"] = refusal_bias(prepared.passages)
        return NewTurn(
            conversation_id=conversation_id,
            user_id=user_id,
            question=prepared.question,
            messages=prepared.messages,
            passages=prepared.passages,
            base_model=self._base_model,
            base_hash=self._base_hash,
            adapter=version,
            engine=self._engine.name,
            sampling=sampling,
            history=history,
            searched=prepared.searched,
            collection=prepared.collection,
        )
