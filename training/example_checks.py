"""What an example is held against before it is learned: the page as it stands now, and the sealed questions."""

from __future__ import annotations

from collections.abc import Sequence

from rapidfuzz import fuzz, process

from feedback.records import RatedTurn
from feedback.values import fold

SEALED_QUESTION = 85
"""Similarity in [0, 100] from which a question is too near a sealed one. Different questions of one handbook reach about 75."""


def stands(passage: str, page: str) -> bool:
    """Say whether each line of a passage stands in its page, white space apart: a passage may join pieces of a page."""
    whole = f" {' '.join(page.split())} "
    return all(f" {' '.join(line.split())} " in whole for line in passage.splitlines() if line.strip())


def asks_sealed(rated: RatedTurn, sealed: Sequence[str]) -> bool:
    """Say whether a sealed question, or one like it, was asked; also earlier in the conversation or within the prompt."""
    if not sealed:
        return False
    said = [fold(message.content) for message in rated.turn.asked.messages if message.role == "user"]
    question = fold(rated.turn.asked.question)
    # a short sealed question may stand in a page by chance: within a longer text only a whole sentence counts
    if any(len(one.split()) >= 5 and one in text for text in said for one in sealed):
        return True
    return any(
        process.extractOne(text, sealed, scorer=scorer, score_cutoff=SEALED_QUESTION) is not None
        for text in (question, *said[:-1])
        for scorer in (fuzz.ratio, fuzz.token_sort_ratio)
    )
