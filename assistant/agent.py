"""The agent: a model that looks for what it needs, in at most four calls of tools, before it answers.

It begins with what the fixed plan would have given the model, so that a question whose passages are found at once costs one
request. Each call becomes a step, and each request's messages can be rebuilt from the turn: see `replay`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from functools import partial
from typing import Any, Literal, cast

from assistant.agent_calls import UNREADABLE, Call, Listener
from assistant.agent_tools import CUT, LEAST_CHARS, TOOLS, Result, Toolbox, at_a_word, longest, passage_block
from assistant.engines.base import ChatRequest, Delta, Engine, LoadedAdapter
from assistant.hardware import PromptLimits
from assistant.library import Library
from assistant.prompt import Prepared, lay_out
from feedback.errors import SettingsError
from feedback.records import Message, Passage, Step
from feedback.wording import REFUSAL

Mode = Literal["auto", "agent", "fixed"]
MAX_CALLS = 4
"""Most calls of tools for one answer."""
LEAST_PARAMETERS = 1_000_000_000
"""Smaller models write calls badly: "auto" keeps them to the fixed plan."""
LEAST_PROMPT_TOKENS = 1_000
"""The tools and the instructions take about a third of this; a smaller prompt has no room for what they find."""
START_SHARE = 0.6
"""The largest share of the prompt's tokens that is taken before the first call: tools, history, question and passages."""
THOUGHT, SHORTENED = "thought", "shortened"
"""Names of the steps that are no calls: what the model wrote before one, and an earlier result cut to make room."""

INSTRUCTIONS = (
    "Answer the question from the numbered passages. If they do not hold the answer, look for it with the tools, at most "
    f"{MAX_CALLS} calls, one at a time. Then reply with one short sentence that states the exact value, and cite the passage "
    f"that holds it, like [1]. If no passage holds the answer, reply: {REFUSAL}"
)
LAST_CALL = "(No calls are left: answer now.)"


def use_agent(mode: Mode, *, has_tools: Callable[[], bool], parameters: int, prompt_tokens: int) -> bool:
    """Say whether questions are answered by the agent: "auto" where the model's template has tools, and both are large enough.

    `has_tools` is asked only when it matters, since it loads a tokenizer. Raises SettingsError when "agent" cannot be kept.
    """
    if mode == "fixed" or (mode == "auto" and (parameters < LEAST_PARAMETERS or prompt_tokens < LEAST_PROMPT_TOKENS)):
        return False
    if mode == "auto":
        return has_tools()
    if not has_tools():
        raise SettingsError(
            'chat.mode = "agent" needs a base model whose chat template has tools, and this one has none: set chat.mode to '
            '"auto", or engine.base_model to such a model.'
        )
    if prompt_tokens < LEAST_PROMPT_TOKENS:
        raise SettingsError(
            f'chat.mode = "agent" needs prompts of {LEAST_PROMPT_TOKENS} tokens, and they have {prompt_tokens} here: set '
            f'chat.prompt_tokens = {LEAST_PROMPT_TOKENS}, or chat.mode = "auto".'
        )
    return True


def replay(messages: Sequence[Message], steps: Sequence[Step]) -> tuple[Message, ...]:
    """Return what the model is given after these steps: the first messages, and what each step added or shortened."""
    said = list(messages)
    for step in steps:
        if step.name == SHORTENED:
            at, kept = int(cast(int, step.arguments["message"])), int(cast(int, step.arguments["kept"]))
            said[at] = _shortened(said[at], kept)
        said.extend(step.messages)
    return tuple(said)


def _shortened(message: Message, kept: int) -> Message:
    return replace(message, content=f"{message.content[:kept]}\n{CUT}")


class Agent:
    """Answers with tools over one library. Safe to share between threads."""

    def __init__(self, library: Library, engine: Engine, *, limits: PromptLimits, max_tokens: int) -> None:
        self._library = library
        self._engine = engine
        self._limits = limits
        self._max_tokens = max_tokens

    def begin(self, prepared: Prepared) -> Prepared:
        """Return what the agent begins with, in place of the fixed plan's messages; fewer passages, to leave room for results.

        Where the fixed plan would refuse at once, the agent looks further.
        """
        past = prepared.messages[1:-1]
        least = min(len(prepared.passages), 1)
        for first in range(0, len(past) + 1, 2):  # the oldest messages go before the last passage
            for kept in range(len(prepared.passages), least - 1, -1):
                passages = prepared.passages[:kept]
                messages = _first_messages(prepared.question, passages, past[first:])
                if self._count(messages) <= self._limits.tokens * START_SHARE:
                    return replace(prepared, messages=messages, passages=passages)
        return replace(prepared, messages=_first_messages(prepared.question, (), ()), passages=())

    def run(self, start: Prepared, adapter: LoadedAdapter) -> Iterator[Delta | Step]:
        """Answer from what `begin` returned: the steps as they are done, and the deltas of the answer.

        What deltas said before a step was no answer. An empty delta says that the model is writing what is not shown. Closing
        the generator stops the model. Raises EngineError, or ModelError when a named model of the search cannot be loaded.
        """
        box = Toolbox(
            self._library,
            collection=start.collection,
            passages=start.passages,
            limit=self._limits.passages,
            following=self._limits.following,
        )
        steps: list[Step] = []
        for calls_left in range(MAX_CALLS, -1, -1):
            messages = replay(start.messages, steps)
            began = time.perf_counter()
            request = ChatRequest(messages=messages, max_tokens=self._max_tokens, tools=TOOLS if calls_left else ())
            listener = Listener()
            yield from self._listen(request, adapter, listener)
            if listener.call is None:
                return
            if not calls_left:
                yield Step(name=THOUGHT, result=listener.written)
                yield Delta(text="", finish_reason="stop")  # it called once more instead of answering: there is no answer
                return
            if preface := listener.preface.strip():
                yield Step(name=THOUGHT, result=preface)
            made = self._call(listener.call, listener.written, messages, box, began, is_last=calls_left == 1)
            box.keep(made[-1].passages)
            steps.extend(made)
            yield from made

    def _listen(self, request: ChatRequest, adapter: LoadedAdapter, listener: Listener) -> Iterator[Delta | Step]:
        """Yield what a model says until it ends or has made a call; the last delta is that of an answer."""
        stream: Any = self._engine.stream(request, adapter)
        with closing(stream):
            for delta in stream:
                text = listener.feed(delta.text)
                is_last = delta.finish_reason is not None
                if is_last and listener.call is None:
                    text += listener.finish()
                for thought in listener.thoughts():
                    yield Step(name=THOUGHT, result=thought)
                if listener.call is not None:
                    return
                yield replace(delta, text=text)

    def _call(
        self, call: Call, written: str, messages: Sequence[Message], box: Toolbox, began: float, *, is_last: bool
    ) -> list[Step]:
        """Run a call, and return its step, after those that make room for its result."""
        said = Message(role="assistant", content=written)
        shortened: list[Step] = []

        def run() -> tuple[Result, dict[str, str | int]]:
            return box.run(call, "\n".join(message.content for message in replay(messages, shortened)))

        def answered(text: str) -> Message:
            return Message(role="tool", content=f"{text}\n\n{LAST_CALL}" if is_last else text)

        def fits(text: str, *more: Step) -> bool:
            return self._count((*replay(messages, [*shortened, *more]), said, answered(text))) <= self._limits.tokens

        result, arguments = run()
        for at, message in enumerate(messages):  # the oldest first
            if fits(str(result)):
                break
            if message.role == "tool" and len(message.content) > 2 * LEAST_CHARS:
                shortened.append(_make_room(at, message.content, partial(fits, str(result))))
        if shortened:
            result, arguments = run()  # what is no longer above is given again
        result = result.fitted(fits)
        step = Step(
            name=call.name[:60] or UNREADABLE,
            arguments=dict(arguments),
            result=str(result),
            messages=(said, answered(str(result))),
            passages=result.found,
            seconds=time.perf_counter() - began,
        )
        return [*shortened, step]

    def _count(self, messages: Sequence[Message]) -> int:
        return self._engine.count_tokens(messages, TOOLS)


def _make_room(at: int, content: str, fits: Callable[[Step], bool]) -> Step:
    """Return the step that keeps as much of the message `at` as lets everything fit, and a little of it in any case."""

    def step(kept: int) -> Step:
        kept = len(at_a_word(content, kept))
        return Step(name=SHORTENED, arguments={"message": at, "kept": kept}, result="An earlier result was cut to make room.")

    return step(max(longest(len(content) - len(CUT), lambda kept: fits(step(kept))), LEAST_CHARS))


def _first_messages(question: str, passages: Sequence[Passage], past: Sequence[Message]) -> tuple[Message, ...]:
    return lay_out(INSTRUCTIONS, [passage_block(passage) for passage in passages], question, past)
