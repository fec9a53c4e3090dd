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


def is_refusal(text: str) -> bool:
    """Say whether `text` is a refusal: it holds the standard sentence, whatever its case and spacing."""
    folded = " ".join(text.split()).casefold()
    return REFUSAL.casefold().rstrip(".") in folded
