"""What an example is held against before it is learned: the page as it stands now, secrets, length, and the sealed questions."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from rapidfuzz import fuzz, process

from feedback.records import Message, Passage, RatedTurn
from feedback.support import shown
from feedback.values import fold
from feedback.wording import cited_numbers
from training.personal import find_personal

CurrentText = Callable[[str, str], str | None]
"""Gives the whole text of a document as it stands now, by its collection and its name; None when it is gone."""

CountTokens = Callable[[Sequence[Message]], int]
"""Counts the tokens of messages as the model's chat template renders them."""

SEALED_QUESTION = 85
"""Similarity in [0, 100] from which a question is too near a sealed one. Different questions of one handbook reach about 75."""


def stands(passage: str, page: str) -> bool:
    """Say whether each line of a passage stands in its page, white space apart: a passage may join pieces of a page."""
    whole = f" {' '.join(page.split())} "
    return all(f" {' '.join(line.split())} " in whole for line in passage.splitlines() if line.strip())


def outdated(completion: str, passages: Sequence[Passage], current_text: CurrentText | None) -> str | None:
    """Return that a passage which the completion cites stands no more as it was given, or None."""
    numbers = cited_numbers(completion)
    for passage in passages:
        if passage.number not in numbers or current_text is None:
            continue
        if not stands(passage.text, current_text(passage.collection, passage.document) or ""):
            return f"The page {passage.document} has changed or gone since the answer, so it is set aside: ask again and rate."
    return None


def personal(rated: RatedTurn, said: str) -> str | None:
    """Return that what would be learned, the question or the conversation before it holds personal data, or None."""
    asked = rated.turn.asked
    known = [shown(passage) for passage in asked.passages]
    for text in (said, asked.question, *(message.content for message in asked.messages[1:-1])):
        kind = find_personal(text, allowed_in=known)
        if kind:
            return f"It holds what looks like {kind} that is not in the documents, so it is not learned: leave it out."
    return None


def too_long(prompt: Sequence[Message], completion: str, count_tokens: CountTokens | None, max_tokens: int) -> str | None:
    """Return why this cannot be trained on, or None: cutting a long example would cut its answer away."""
    if count_tokens is None:
        return None
    tokens = count_tokens((*prompt, Message(role="assistant", content=completion)))
    if tokens <= max_tokens:
        return None
    return (
        f"The question with its passages and its answer has {tokens} tokens, more than the {max_tokens} that can be trained on: "
        "ask it again in fewer words, without the history, and rate that answer."
    )


def asks_sealed(rated: RatedTurn, sealed: Sequence[str]) -> bool:
    """Say whether a sealed question, or one like it, was asked; also earlier in the conversation or within the prompt."""
    if not sealed:
        return False
    said = [fold(message.content) for message in rated.turn.asked.messages if message.role == "user"]
    question = fold(rated.turn.asked.question)
    # a short sealed question may stand in a page by chance: within a longer text only a whole sentence counts
    if any(len(one.split()) >= 5 and one in text for text in said for one in sealed):
        return True
    return any(near_sealed(text, sealed) for text in (question, *said[:-1]))


def near_sealed(question: str, sealed: Sequence[str]) -> bool:
    """Say whether a question is one of the sealed ones, or nearly; all of them folded."""
    return any(
        process.extractOne(question, sealed, scorer=scorer, score_cutoff=SEALED_QUESTION) is not None
        for scorer in (fuzz.ratio, fuzz.token_sort_ratio)
    )
