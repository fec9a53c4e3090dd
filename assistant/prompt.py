"""From a question to the exact messages that a model reads: numbered passages within a budget of tokens.

The chat, the command line and the examination all prepare questions here, so what is examined is what is served (but for an
agent's later steps).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

from assistant.engines.base import ChatRequest
from assistant.hardware import PromptLimits
from assistant.library import Library
from assistant.retrieval.followups import carried_over
from assistant.retrieval.search import Hit
from feedback.errors import QuestionError
from feedback.records import Message, Passage
from feedback.support import laid_out
from feedback.wording import CITATION, MAX_QUESTION_CHARS, REFUSAL

INSTRUCTIONS = (
    "Answer the question from the numbered passages. Reply with one short sentence that states the exact value, and cite the "
    f"passage that holds it, like [1]. If no passage holds the answer, reply: {REFUSAL}"
)
HISTORY_SHARE = 0.25
"""The largest share of the prompt's tokens that earlier messages may take."""

HYBRID_THRESHOLD, WORDS_THRESHOLD = 0.3, 0.33
"""Least score of the best passage, calibrated with and without an encoder (docs/LOG.md): below it no model is called."""

BIAS_SLOPE, BIAS_POINT, BIAS_LIMIT = 10.0, 0.4, 4.0
"""How the best passage's score bears on the model's own wish to refuse, in nats: see `refusal_bias`."""

LINES_THRESHOLD, LINES_SLOPE, LINES_POINT = 0.44, 24.0, 0.44
"""The same where the closest line is known too: of the mean of its closeness and the best passage's score."""

CountTokens = Callable[[Sequence[Message]], int]


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """A question with its passages. `messages` is empty when the best passage is below the threshold: no model is called then."""

    question: str
    messages: tuple[Message, ...]
    passages: tuple[Passage, ...]
    searched: str = ""  # what was searched, where that is not the question itself
    collection: str = ""

    @property
    def refused(self) -> bool:
        """Say whether the documents are too far from the question to ask a model."""
        return not self.messages


def check_question(question: str) -> str:
    """Return the question without outer white space. Raises QuestionError when it is empty or too long."""
    text = question.strip()
    if not text:
        raise QuestionError("The question is empty: type what you want to know.")
    if len(text) > MAX_QUESTION_CHARS:
        raise QuestionError(
            f"The question has {len(text):,} characters; at most {MAX_QUESTION_CHARS:,} can be asked: shorten it."
        )
    return text


def passage_of(number: int, hit: Hit) -> Passage:
    """Return a hit as the passage with that number."""
    return Passage(
        number=number,
        document=hit.document,
        document_version=hit.document_version,
        chunk_id=hit.chunk_id,
        title=hit.title,
        text=hit.text,
        score=hit.score,
        collection=hit.collection,
        page=hit.page,
        start=hit.start,
        end=hit.end,
        scores=hit.scores,
    )


def render(question: str, passages: Sequence[Passage], past: Sequence[Message] = ()) -> tuple[Message, ...]:
    """Lay out the messages of the fixed plan, over numbered passages."""
    return lay_out(INSTRUCTIONS, [laid_out(passage) for passage in passages], question, past)


def lay_out(instructions: str, blocks: Sequence[str], question: str, past: Sequence[Message]) -> tuple[Message, ...]:
    """Return the messages of a question: instructions, earlier messages, then the blocks with the question under them."""
    return (
        Message(role="system", content=instructions),
        *past,
        Message(role="user", content="\n\n".join([*blocks, f"Question: {question}"])),
    )


def refusal_bias(passages: Sequence[Passage]) -> float:
    """Return the nats that are added to the standard refusal's first token where an answer begins.

    A small model's wish to refuse and how near the documents come to the question each tell answerable questions from others,
    and the two together tell more than either (docs/LOG.md): a logistic rule in both, in one pass. 0 where there are no vectors.
    """
    slope, point = (LINES_SLOPE, LINES_POINT) if _is_close_read(passages) else (BIAS_SLOPE, BIAS_POINT)
    near = nearness(passages) if any("dense" in passage.scores for passage in passages) else point
    return round(max(-BIAS_LIMIT, min(BIAS_LIMIT, slope * (point - near))), 3)


def nearness(passages: Sequence[Passage]) -> float:
    """Return how near passages come to their question, in [0, 1]: the best score, in the mean with the closest line's (twice)."""
    best = max((passage.score for passage in passages), default=0.0)
    if not _is_close_read(passages):
        return best
    return (best + 2 * max(0.0, *(passage.scores.get("line", 0.0) for passage in passages))) / 3


def _is_close_read(passages: Sequence[Passage]) -> bool:
    return any("line" in passage.scores for passage in passages)


def request_of(prepared: Prepared, *, max_tokens: int) -> ChatRequest:
    """Return what the engine is asked for a prepared question, by the fixed plan."""
    bias = refusal_bias(prepared.passages)
    return ChatRequest(messages=prepared.messages, max_tokens=max_tokens, opening=REFUSAL, opening_bias=bias)


class PromptBuilder:
    """Prepares questions over one index, within the limits of the machine."""

    def __init__(self, library: Library, count_tokens: CountTokens, *, limits: PromptLimits, threshold: float = -1) -> None:
        self._library = library
        self._count = count_tokens
        self._limits = limits
        self._threshold = threshold

    @property
    def limits(self) -> PromptLimits:
        """The limits in force."""
        return self._limits

    def prepare(
        self,
        question: str,
        past: Sequence[Message] = (),
        *,
        collection: str = "",
        query: str = "",
        hidden: Collection[str] = (),
    ) -> Prepared:
        """Retrieve passages for a question and build its messages; at least one passage is kept. Raises QuestionError.

        `query` is what is searched instead of a follow-up question; without it, the words of earlier questions are carried
        over where the question leans on them. `collection` "" searches all of them; `hidden` documents are left out.
        """
        text = check_question(question)
        context = "" if query else carried_over(text, past)
        hits = self._library.search(
            query or text,
            limit=self._limits.passages,
            following=self._limits.following,
            collection=collection,
            context=context,
            hidden=hidden,
        )
        found = self._library.focused(
            [passage_of(number, hit) for number, hit in enumerate(hits, start=1)], query or context or text, self._limits.lines
        )
        rest = {"searched": query or context, "collection": collection}
        if not found or nearness(found) < self._least(found):
            return Prepared(question=text, messages=(), passages=found, **rest)
        earlier = self._fitting_history(past)
        for kept in range(len(found), 0, -1):
            messages = render(text, found[:kept], earlier)
            if kept == 1 or self._count(messages) <= self._limits.tokens:
                return Prepared(question=text, messages=messages, passages=found[:kept], **rest)
        raise AssertionError("unreachable: the loop returns at one passage")

    def _least(self, found: Sequence[Passage]) -> float:
        """Return the threshold: as set, or as calibrated for what was searched."""
        if self._threshold >= 0:
            return self._threshold
        if _is_close_read(found):
            return LINES_THRESHOLD
        return HYBRID_THRESHOLD if any("dense" in passage.scores for passage in found) else WORDS_THRESHOLD

    def _fitting_history(self, past: Sequence[Message]) -> tuple[Message, ...]:
        """Keep the newest question-answer pairs that fit their share; citations go, since their passages are not here."""
        budget = int(self._limits.tokens * HISTORY_SHARE)
        kept: tuple[Message, ...] = ()
        pairs = [past[at : at + 2] for at in range(0, len(past) - 1, 2)]
        for pair in reversed(pairs):
            cleaned = tuple(Message(role=each.role, content=" ".join(CITATION.sub("", each.content).split())) for each in pair)
            if self._count((*cleaned, *kept)) > budget:
                break
            kept = (*cleaned, *kept)
        return kept
