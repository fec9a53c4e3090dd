"""The records that the store keeps, as the other packages see them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

Role = Literal["employee", "admin"]
Thumb = Literal["up", "down"]
FinishReason = Literal["stop", "length", "refused", "stopped", "failed", "interrupted"]
"""stop: the model ended; length: the token limit; refused: below the score threshold (no model called), or not supported by
the passages after it (Answer.written has what the model wrote);
stopped: the user stopped it; failed: the engine failed; interrupted: the process died before the answer was recorded."""

REASONS = ("wrong", "incomplete", "no source", "wrong source", "should have refused", "should have answered", "unclear")
"""The reason tags that a rating may carry."""


@dataclass(frozen=True, kw_only=True)
class Message:
    """One chat message as the model saw it."""

    role: Literal["system", "user", "assistant", "tool"]  # tool: what a tool of the agent gave back
    content: str

    def as_dict(self) -> dict[str, str]:
        """Return the message in the OpenAI shape."""
        return {"role": self.role, "content": self.content}


@dataclass(frozen=True, kw_only=True)
class Passage:
    """One numbered passage as it stood in a prompt. `number` counts from 1; `score` is in [0, 1]."""

    number: int
    document: str  # its name in its collection: a path with forward slashes
    document_version: int
    chunk_id: int
    title: str  # page title and heading path, joined with " > "
    text: str
    score: float
    excerpt: str = ""  # the lines of the text that the prompt held; "": all of it
    collection: str = "main"
    page: int | None = None  # page, slide or sheet, counted from 1; None where the format has none
    start: int = 0  # offsets in that version of the document; both 0: not known
    end: int = 0
    scores: dict[str, float] = field(default_factory=dict)  # of each stage: "fts", "dense", "fused", "rerank", "coverage"


@dataclass(frozen=True, kw_only=True)
class SentenceCheck:
    """One sentence of an answer against the passages: text[start:end], what it cites, and how much of it they hold."""

    start: int
    end: int
    cited: tuple[int, ...]  # the passages that it cites, counted from 1
    support: float  # share in [0, 1] that the cited passages hold (all passages where it cites none)
    supported: bool
    number: int | None = None  # the passage that supports it best; None: none does


@dataclass(frozen=True, kw_only=True)
class Step:
    """One step of the agent: a thought, or a call of a tool with what came back."""

    name: str  # the tool, or "thought"
    arguments: dict[str, str | int | float | bool | None] = field(default_factory=dict)
    result: str = ""
    messages: tuple[Message, ...] = ()  # what the step added to what the model sees
    passages: tuple[Passage, ...] = ()  # what it found; numbers go on from those before
    seconds: float = 0.0


@dataclass(frozen=True, kw_only=True)
class NewTurn:
    """A question as it is about to be answered: everything that is known before the first token."""

    conversation_id: str
    user_id: str
    question: str
    messages: tuple[Message, ...]  # empty when no model is called
    passages: tuple[Passage, ...]
    base_model: str
    base_hash: str
    adapter: str  # "v0007", or "base"
    engine: str  # name and build, e.g. "llama_cpp 2026.10.11549"
    sampling: dict[str, float | int | str]
    history: bool
    searched: str = ""  # what was searched, where that is not the question itself
    collection: str = ""  # "": all collections


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What came back. `ttft_s` and `total_s` are seconds; ttft_s is None when no token came."""

    text: str
    finish_reason: FinishReason
    prompt_tokens: int = 0
    completion_tokens: int = 0
    ttft_s: float | None = None
    total_s: float = 0.0
    error: str | None = None
    written: str | None = None  # what the model wrote, where `text` differs from it
    checks: tuple[SentenceCheck, ...] = ()
    steps: tuple[Step, ...] = ()  # of the agent, in order

    @property
    def found(self) -> tuple[Passage, ...]:
        """The passages that the agent's steps found."""
        return tuple(passage for step in self.steps for passage in step.passages)


@dataclass(frozen=True, kw_only=True)
class Turn:
    """A stored question with its answer. `answer` is None while it is being written (or when the process died)."""

    id: str
    asked: NewTurn
    answer: Answer | None
    created_at: str  # ISO 8601, UTC

    @property
    def passages(self) -> tuple[Passage, ...]:
        """Every passage that the model was given: with the question, and by the agent's steps."""
        return (*self.asked.passages, *(self.answer.found if self.answer else ()))


@dataclass(frozen=True, kw_only=True)
class OpenQuestion:
    """A refused question that its asker sent to the document owner. `closed_at` is "" while it is open."""

    turn_id: str
    user_id: str
    user_name: str
    question: str
    note: str
    closest: tuple[str, ...]  # names of the documents that came closest
    sent_at: str
    closed_at: str = ""
    closed_by: str = ""
    resolution: str = ""


@dataclass(frozen=True, kw_only=True)
class Feedback:
    """What one user says of one turn now: the newest rating and correction, withdrawn ones left out."""

    turn_id: str
    user_id: str
    thumb: Thumb | None = None
    reasons: tuple[str, ...] = ()
    comment: str = ""
    correction: str | None = None
    verified: bool = False  # True when an admin wrote or verified the correction
    updated_at: str = ""


@dataclass(frozen=True, kw_only=True)
class User:
    """Somebody who may log in."""

    id: str
    name: str
    role: Role
    created_at: str = ""
    must_change_password: bool = False  # True: a one-time password, which opens nothing but the page that replaces it


@dataclass(frozen=True, kw_only=True)
class RatedTurn:
    """A turn with what is said of it: the input of curation."""

    turn: Turn
    feedback: Feedback
    user_name: str = field(default="")
