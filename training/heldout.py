"""Questions for the examination: a sample of the sealed ones, or a fifth of the rated ones where a company has none."""

from __future__ import annotations

import hashlib
import itertools
import random
from collections.abc import Mapping, Sequence

from feedback.records import Turn
from feedback.values import fold, without_citations
from feedback.wording import REFUSAL, cited_numbers
from training.curation import Example
from training.questions import QuestionRow

HELD_OUT = 5
"""One rated question in this many is held out."""


def sample_by_fact(rows: Sequence[QuestionRow], *, limit: int, seed: int) -> list[QuestionRow]:
    """Return about `limit` questions: the first wording of as many facts as fit, then second wordings, and so on.

    Answerable facts and others come in the proportion of `rows`. The choice is stable for a seed.
    """
    wordings: dict[str, list[QuestionRow]] = {}
    for row in rows:
        wordings.setdefault(row.fact, []).append(row)
    chosen: list[QuestionRow] = []
    for answerable in (True, False):
        kind = [each for each in wordings.values() if each[0].answerable is answerable]
        random.Random(seed).shuffle(kind)
        share = round(limit * len(kind) / max(1, len(wordings)))
        rounds = itertools.chain.from_iterable(itertools.zip_longest(*kind))
        chosen.extend(itertools.islice((row for row in rounds if row is not None), share))
    return chosen


def hold_out(examples: Sequence[Example], turns: Mapping[str, Turn]) -> tuple[list[Example], list[QuestionRow]]:
    """Split curated examples into what is trained on and questions that examine; all askings of a question stay together.

    The choice hangs on the question's words alone, so that a question once held out is never trained on later.
    """
    kept: list[Example] = []
    questions: dict[str, QuestionRow] = {}
    for example in examples:
        asked = turns[example.turn_id].asked
        key = fold(asked.question)
        if int(hashlib.sha256(key.encode()).hexdigest(), 16) % HELD_OUT:
            kept.append(example)
            continue
        numbers = cited_numbers(example.completion)
        sources = tuple(dict.fromkeys(passage.document for passage in asked.passages if passage.number in numbers))
        absent = example.completion == REFUSAL
        questions[key] = QuestionRow(
            id=example.turn_id,
            fact=key,
            question=asked.question,
            answer="" if absent else without_citations(example.completion),
            sources=() if absent else sources,
        )
    return kept, [row for row in questions.values() if row.sources or not row.answer]
