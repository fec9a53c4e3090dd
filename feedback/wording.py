"""The few fixed sentences and marks that prompts, answers, curation and examination must agree on."""

from __future__ import annotations

import re

REFUSAL = "I could not find this in the documents."
"""The standard refusal, whole: what a model is taught to say, and what the chat says below the score threshold."""

CITATION = re.compile(r"\[(\d{1,2})\]")
"""A citation of the passage with that number, counted from 1."""

MAX_QUESTION_CHARS = 2_000
"""The longest question that is accepted, in characters."""


def cited_numbers(text: str) -> tuple[int, ...]:
    """Return the passage numbers that `text` cites, in order, each once."""
    return tuple(dict.fromkeys(int(number) for number in CITATION.findall(text)))


_SENTENCE = re.compile(r"\s+".join(map(re.escape, REFUSAL.rstrip(".").split())) + r"\b[.!]?", re.IGNORECASE)
_WHERE = r"(?:ask|see|check|look|try|contact|consult|refer|find|send|rephrase|read)\b.*"
_ASIDE = re.compile(  # what a refusal may say beside: a courtesy, or where to look and whom to ask
    r"(?:(?:i am|i'm|we are|we're) (?:very )?)?(?:sorry|afraid)(?: (?:about|for) (?:that|this))?(?:,? but| that)?"
    r"|(?:my )?apologies(?:,? but)?|unfortunately|no|(?:the )?answer(?: is)?|thank(?:s| you)|let me know\b.*"
    r"|(?:(?:please|perhaps|maybe),? )?(?:you (?:may|might|can|could) (?:also )?(?:want to )?)?"
    + _WHERE
    + r"|(?:the |these )?(?:closest|nearest) (?:page|document|passage)s?\b.*",
    re.DOTALL,
)


def holds_refusal(text: str) -> bool:
    """Say whether the standard refusal stands in `text`, whatever its case and spacing, and whatever else is said."""
    return _SENTENCE.search(text) is not None


def is_refusal(text: str) -> bool:
    """Say whether `text` is a refusal: the standard sentence, with at most a courtesy or a pointer to pages and people beside.

    What cites a passage or holds a number answers, whatever it says before.
    """
    rest, found = _SENTENCE.subn(". ", text)
    if not found or re.search(r"\d", rest):
        return False
    said = " ".join(rest.replace("\u2019", "'").split()).casefold()
    parts = [part.strip(" ,:;-*_\"'") for part in re.split(r"[.!?]+(?:\s+|$)", said)]
    return all(_ASIDE.fullmatch(part) for part in parts if re.search(r"\w", part))
