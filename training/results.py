"""What one contestant's examination says, suite by suite: its measures by item, as the gate compares them.

The result of a contestant is JSON data: "answers" to the domain questions, under "suites" the answers to "unanswerable"
questions, to "pushback", and the "general" answers' log-probabilities, and under "gold" those of the right answers to the
domain questions. A suite that was not asked is missing.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from statistics import fmean, median
from typing import Any

from feedback.values import fold, without_citations
from training.answer_values import value_in
from training.interval import paired_bootstrap
from training.measures import Scored, by_fact

Result = Mapping[str, Any]
SUITES: Mapping[str, str] = {
    "domain": "right and cited, or refused where the documents do not answer",
    "unanswerable": "refused where the documents do not answer",
    "paraphrases": "the same answer to two wordings of one question",
    "citations": "citations that name a page that answers",
    "pushback": "right answers kept when somebody objects",
    "general": "log-probability of fixed general answers, nats a token",
}
"""The suites in the order of the report, each with what its figure is the mean of."""


@dataclass(frozen=True, kw_only=True)
class Figure:
    """The mean of one suite's measure over items, with its 95 % bootstrap interval; of one contestant, or of a difference."""

    mean: float
    low: float
    high: float
    items: int


def scored_of(result: Result, suite: str = "domain") -> list[Scored]:
    """Rebuild the marks of one contestant from its JSON data: of the domain questions, or of the unanswerable suite."""
    answers = result["answers"] if suite == "domain" else result.get("suites", {}).get(suite, [])
    names = set(Scored.__dataclass_fields__) - {"question_id"}
    return [Scored(question_id=each["id"], **{name: each[name] for name in names}) for each in answers]


def measured(result: Result, suite: str) -> dict[str, float]:
    """Return one contestant's measure by item (fact, wording or general answer); higher is better, {} when it was not asked."""
    suites = result.get("suites", {})
    if suite == "domain":
        return by_fact(scored_of(result))
    if suite == "unanswerable":
        return by_fact(row for row in [*scored_of(result), *scored_of(result, "unanswerable")] if not row.answerable)
    if suite == "paraphrases":
        return agreement(result["answers"])
    if suite == "answered":
        return by_fact(replace(row, score=float(not row.refused)) for row in scored_of(result) if row.answerable)
    if suite == "citations":
        return _citations(scored_of(result))
    if suite == "pushback":
        return {each["fact"]: float(each["kept"]) for each in suites.get("pushback", [])}
    return {each["id"]: float(each["logprob"]) for each in suites.get("general", [])}


def paired(one: Result, other: Result, suite: str) -> tuple[dict[str, float], dict[str, float]]:
    """Return the measures of two contestants over the items that both have: of pushback, the facts that both got right."""
    first, second = measured(one, suite), measured(other, suite)
    common = sorted(first.keys() & second.keys())
    return {item: first[item] for item in common}, {item: second[item] for item in common}


def agreement(answers: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Return, for each answerable fact asked in several wordings, the share of pairs of wordings with the same outcome.

    Outcomes are: the right value, a refusal, or another answer, of which two agree when they give the same value.
    """
    outcomes: dict[str, list[str]] = {}
    for answer in answers:
        if answer["answerable"]:
            outcomes.setdefault(answer["fact"], []).append(_outcome(answer))
    pairs = {fact: list(itertools.combinations(each, 2)) for fact, each in outcomes.items() if len(each) > 1}
    return {fact: fmean(one == other for one, other in each) for fact, each in pairs.items()}


def perplexity(result: Result) -> float | None:
    """Return exp of the mean negative log-likelihood of all tokens of the right answers; None where they were not read.

    As in Jurafsky and Martin, Speech and Language Processing, 3.
    """
    read = result.get("gold", [])
    tokens = sum(each["tokens"] for each in read)
    return round(math.exp(-sum(each["logprob"] * each["tokens"] for each in read) / tokens), 4) if tokens else None


def latency(result: Result) -> float | None:
    """Return the median seconds that an answer to a domain question took, asked as the examination asks; None without one."""
    seconds = [each["seconds"] for each in result["answers"] if "seconds" in each]
    return round(median(seconds), 3) if seconds else None


def figures_of(results: Mapping[str, Result], *, seed: int = 0) -> dict[str, dict[str, Any]]:
    """Return, by suite, the figure of each contestant and of candidate minus base and minus serving, as JSON data.

    A difference is paired over the items that both have. What nobody was asked is left out.
    """
    found: dict[str, dict[str, Any]] = {}
    for suite in SUITES:
        figures = {name: _figure(measured(result, suite), seed=seed) for name, result in results.items()}
        if not any(figure.items for figure in figures.values()):
            continue
        differences = {
            name: _difference(*paired(result, results["candidate"], suite), seed=seed)
            for name, result in results.items()
            if name != "candidate"
        }
        found[suite] = {
            "measure": SUITES[suite],
            "contestants": {name: asdict(figure) for name, figure in figures.items()},
            "candidate_minus": {name: asdict(figure) for name, figure in differences.items()},
        }
    return found


def _figure(values: Mapping[str, float], *, seed: int) -> Figure:
    return _difference(dict.fromkeys(values, 0.0), values, seed=seed)


def _difference(reference: Mapping[str, float], values: Mapping[str, float], *, seed: int) -> Figure:
    mean, low, high = paired_bootstrap(reference, values, seed=seed)
    return Figure(mean=round(mean, 4), low=round(low, 4), high=round(high, 4), items=len(values))


def _outcome(answer: Mapping[str, Any]) -> str:
    if answer["right"]:
        return "right"
    if answer["refused"]:
        return "refused"
    text = without_citations(answer["text"])
    return f"other: {fold(value_in(text, answer['question']) or text)}"


def _citations(rows: Sequence[Scored]) -> dict[str, float]:
    """Return, by answerable fact, the share of its citations that name a source; a fact without a citation is left out."""
    counts: dict[str, tuple[int, int]] = {}
    for row in rows:
        if row.answerable and row.citations:
            right, cited = counts.get(row.fact, (0, 0))
            counts[row.fact] = right + row.right_citations, cited + row.citations
    return {fact: right / cited for fact, (right, cited) in counts.items()}
