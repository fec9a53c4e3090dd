"""Follow-up questions: what they leave unsaid is said, so that a search can find it.

A small model rewrites questions badly, so for it the words of the questions before are carried over; a capable one rewrites.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from assistant.retrieval.lexical import STOPWORDS, query_terms
from feedback.records import Message

FEW_TERMS = 3
"""A question with so few telling words leans on what was said before (measured: docs/LOG.md)."""
MOST_CARRIED = 2
CAPABLE_PARAMETERS = 1_500_000_000
"""From so many parameters on, a model is trusted to write a question anew."""
REWRITE_TOKENS = 80
REWRITE = (
    "Write the user's last question as one question that can be understood without the conversation. Keep its meaning and its "
    "language, and add nothing that was not said. Reply with the question alone."
)
_OBJECTION = re.compile(
    r"\b(?:are you (?:quite |really )?sure|sure about|(?:think|check|look) (?:again|more closely)|wrong|mistak\w+|mixed something"
    r"|i (?:don't |do not )?(?:think|doubt|remember|bet)|would (?:bet|have said)|quite certain|for a fact|makes no sense"
    r"|(?:that|this|it) (?:does not sound|cannot be|is not) right|out of date|admit|contradict\w*|correct answer|has always"
    r"|(?:every|no)(?:body|one)(?: here)? (?:knows|says|believes)|believe you|i need it to be|must still be|always used"
    r"|(?:manager|it|we all|they|assistant|director|handbook|intranet|colleague)[\w ]* (?:say|says|said)|my contract says"
    r"|told me|was told|gave me|confirmed|agreed|meant|read somewhere|i (?:have )?work(?:ed)? (?:in|here)\b.* and it is)\b",
    re.IGNORECASE,
)
"""Who doubts or contradicts the last answer names what he has heard, and not what it is about."""
_ASKS = re.compile(
    r"\b(?:what|which|when|where|who|whom|whose|how|why)\b|^(?:is|are(?! you)|am|do|does|did|can|may|must|should|will|would)\b",
    re.IGNORECASE,
)
_LABEL = re.compile(r"^\s*(?:[\w -]{0,24}question\s*:)\s*", re.IGNORECASE)


def leans_on_history(question: str) -> bool:
    """Say whether a question has too few telling words to be searched by itself, or objects to what was answered."""
    if _objects(question):
        return True
    return len([term for term in query_terms(question) if term not in STOPWORDS]) <= FEW_TERMS


def carried_over(question: str, past: Sequence[Message]) -> str:
    """Return the question with the earlier questions that it leans on before it; "" when it stands by itself.

    Earlier questions are taken from the newest on, until one stands by itself. Of an objection nothing is added to them: it
    names what is not in the documents.
    """
    if not past or not leans_on_history(question):
        return ""
    asked = [message.content for message in past if message.role == "user"]
    taken: list[str] = []
    for earlier in reversed(asked):
        taken.insert(0, earlier)
        if len(taken) == MOST_CARRIED or not leans_on_history(earlier):
            break
    return " ".join([*taken, *([] if _objects(question) else [question])]) if taken else ""


def _objects(text: str) -> bool:
    """Say whether a message doubts the last answer instead of asking something."""
    return _OBJECTION.search(text) is not None and _ASKS.search(text) is None


def rewrite_messages(question: str, past: Sequence[Message]) -> tuple[Message, ...]:
    """Return the messages that ask a capable model to make a question self-contained."""
    said = "\n".join(f"{message.role}: {message.content}" for message in past[-6:])
    return (Message(role="system", content=REWRITE), Message(role="user", content=f"{said}\n\nLast question: {question}"))


def rewritten(text: str, question: str) -> str:
    """Return what a model wrote as a query, or "" when it is not one: empty, several lines, or far longer than what was asked."""
    line = _LABEL.sub("", text.strip()).strip().strip('"')
    if not line or "\n" in line or len(line) > 400 + len(question):
        return ""
    return line
