"""How an answer is judged without a judge: the rules of the examination, the same for every contestant.

A value counts when it is stated whole ("12" is not in "120") in an answer of at most 60 words. An answerable question is
scored 1 when the answer is right and cites a passage of a source; an unanswerable one when it is refused. Who refuses and
answers in one breath scores neither way.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from statistics import fmean
from typing import Any

from feedback.records import Passage
from feedback.values import states_value, without_citations
from feedback.wording import REFUSAL, cited_numbers, holds_refusal, is_refusal
from training.questions import QuestionRow, clean_source

MAX_WORDS = 60
"""The longest answer in which a value counts: who recites the page has not answered."""


@dataclass(frozen=True, kw_only=True)
class Scored:
    """One judged answer. `score` is 1.0 or 0.0; `rouge_l` is in [0, 1] against the answer (or the standard refusal)."""

    question_id: str
    fact: str
    answerable: bool
    right: bool  # the value is stated whole; False when unanswerable
    cited: bool  # a cited passage belongs to a source; False when unanswerable
    refused: bool
    score: float
    words: int  # without citations
    citations: int = 0
    right_citations: int = 0
    rouge_l: float = 0.0


def rouge_l(prediction: str, reference: str) -> float:
    """Return the ROUGE-L F-measure of two texts, in [0, 1] (Lin 2004, as the rouge-score package counts it)."""
    return float(_rouge_scorer().score(reference, prediction)["rougeL"].fmeasure)


@lru_cache(maxsize=1)
def _rouge_scorer() -> Any:
    from rouge_score.rouge_scorer import RougeScorer

    return RougeScorer(["rougeL"], use_stemmer=False)


def score_answer(text: str, question: QuestionRow, passages: Sequence[Passage]) -> Scored:
    """Judge one answer to `question`, given the passages that stood in its prompt."""
    plain = without_citations(text)
    words = len(plain.split())
    refused = is_refusal(text)
    right = words <= MAX_WORDS and any(states_value(plain, value) for value in question.values)
    sources = {clean_source(source) for source in question.sources}
    right_numbers = {passage.number for passage in passages if clean_source(passage.document) in sources}
    numbers = cited_numbers(text)
    right_citations = sum(number in right_numbers for number in numbers)
    cited = right_citations > 0
    return Scored(
        question_id=question.id,
        fact=question.fact,
        answerable=question.answerable,
        right=right,
        cited=cited,
        refused=refused,
        score=float(right and cited and not holds_refusal(text)) if question.answerable else float(refused),
        words=words,
        citations=len(numbers),
        right_citations=right_citations,
        rouge_l=rouge_l(plain, question.answer or REFUSAL),
    )


def summarise(scored: Iterable[Scored]) -> dict[str, float | int | None]:
    """Sum up judged answers. A measure without a case to measure (no refusal, no unanswerable question) is None.

    `score` over all; `accuracy` (value stated) and `cited` (a right passage cited) over the answerable; `rouge_l` over all;
    `refusal_precision` over what was refused; `refusal_recall` over the unanswerable; `citation_precision` over all citations.
    """
    rows = list(scored)
    answerable = [row for row in rows if row.answerable]
    unanswerable = [row for row in rows if not row.answerable]
    refused = [row for row in rows if row.refused]
    citations = sum(row.citations for row in rows)
    return {
        "questions": len(rows),
        "facts": len({row.fact for row in rows}),
        "answerable": len(answerable),
        "unanswerable": len(unanswerable),
        "score": _share(row.score for row in rows),
        "accuracy": _share(row.right for row in answerable),
        "cited": _share(row.cited for row in answerable),
        "citation_precision": sum(row.right_citations for row in rows) / citations if citations else None,
        "refusal_precision": _share(not row.answerable for row in refused),
        "refusal_recall": _share(row.refused for row in unanswerable),
        "rouge_l": _share(row.rouge_l for row in rows),
        "words": _share(row.words for row in rows),
    }


def by_fact(scored: Iterable[Scored]) -> dict[str, float]:
    """Return the mean score of each fact over its wordings: what the gate compares."""
    scores: dict[str, list[float]] = {}
    for row in scored:
        scores.setdefault(row.fact, []).append(row.score)
    return {fact: fmean(values) for fact, values in scores.items()}


def _share(values: Iterable[float]) -> float | None:
    listed = [float(value) for value in values]
    return fmean(listed) if listed else None
