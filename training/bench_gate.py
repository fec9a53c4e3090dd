"""`nightschool bench gate`: the gate on planted contestants, whose true quality is known because it was drawn.

A fact is asked in one to three wordings. A contestant knows it or does not, independently of other facts and other contestants
(the hardest case: real adapters of one base err on the same facts), and each wording comes out against that in a tenth of the
cases. The floors are those of an examination, with as many items as a night has.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from training.floors import RULES
from training.gate import Decision, Floor, Verdict, decide

SIZES = (40, 80, 150)
"""Facts of an examination; the repeats take turns."""
NIGHTS = 10
"""Nights of a series, all with the same questions and the same answers of what serves."""
UNANSWERABLE = 0.2
"""Share of the facts that the documents do not hold."""
ITEMS: Mapping[str, int] = {"unanswerable": 50, "general": 40, "pushback": 25, "citations": 40, "answered": 40}
"""Items of each floor, as a night's settings have them."""

_SLIP = 0.1  # of the wordings of a known fact come out wrong, and of an unknown one right

Scores = dict[str, float]
Counts = np.ndarray[Any, np.dtype[np.int64]]


@dataclass(frozen=True, kw_only=True)
class Quality:
    """The true quality of a contestant, as shares in [0, 1]; `drift` in nats a token of the general answers."""

    accuracy: float = 0.5  # answerable questions answered right, with a page that answers
    refusal: float = 0.6  # unanswerable ones refused
    kept: float = 0.8  # right answers kept under pushback
    cited: float = 0.8  # citations that name a page that answers
    answered: float = 0.95  # answerable questions that are not refused
    drift: float = 0.0

    def better(self, gain: float) -> Quality:
        """Return a contestant that answers and refuses better by `gain`; worse for a negative one."""
        return replace(self, accuracy=self.accuracy + gain, refusal=self.refusal + gain)


SERVING = Quality()
BARE = Quality(accuracy=0.1, refusal=0.0, answered=1.0)
"""An untuned base model: it cites next to nothing, and refuses nothing."""
REFUSER = Quality(accuracy=0.0, refusal=1.0, kept=0.0, cited=0.0, answered=0.0)
CASES: Mapping[str, tuple[Quality, Quality]] = {
    "equal": (SERVING, SERVING),
    "better_10": (SERVING, SERVING.better(0.10)),
    "better_20": (SERVING, SERVING.better(0.20)),
    "worse_10": (SERVING, SERVING.better(-0.10)),
    "worse": (SERVING, SERVING.better(-0.20)),
    "caves": (SERVING, replace(SERVING.better(0.20), kept=0.3)),
    "refuses_all": (SERVING, REFUSER),
    "refuses_all_after_base": (BARE, REFUSER),
}
"""What serves and the candidate, by case."""


def bench_gate(*, repeats: int = 200, resamples: int = 1000, seed: int = 0) -> dict[str, dict[str, Any]]:
    """Let the gate decide over planted contestants; the same figures for the same seed.

    Returns, by case, {"promote", "hold", "reject", "repeats", "promote_by_facts"}, shares in [0, 1]; for "equal_series" the
    share of series of `NIGHTS` candidates no better than what serves in which some night promotes one.
    """
    rng = np.random.default_rng(seed)
    planted: dict[str, Callable[[int], Sequence[Decision]]] = {
        "identical": lambda facts: [_identical(rng, facts, resamples)],
        **{name: _planted(rng, *qualities, resamples) for name, qualities in CASES.items()},
        "equal_series": lambda facts: _series(rng, facts, resamples),
    }
    return {name: _shares(play, repeats) for name, play in planted.items()}


def _planted(
    rng: np.random.Generator, serving: Quality, candidate: Quality, resamples: int
) -> Callable[[int], Sequence[Decision]]:
    def play(facts: int) -> Sequence[Decision]:
        wordings = _wordings(rng, facts)
        base, before, after = (_domain(rng, each, wordings) for each in (BARE, serving, candidate))
        if serving is BARE:  # nothing was promoted yet
            base = before
        return [decide(base, before, after, _floors(rng, serving, candidate), resamples=resamples)]

    return play


def _identical(rng: np.random.Generator, facts: int, resamples: int) -> Decision:
    """Decide over an adapter that answers everything as what serves does."""
    wordings = _wordings(rng, facts)
    base, scores = _domain(rng, BARE, wordings), _domain(rng, SERVING, wordings)
    floors = [replace(floor, candidate=floor.reference) for floor in _floors(rng, SERVING, SERVING)]
    return decide(base, scores, scores, floors, resamples=resamples)


def _series(rng: np.random.Generator, facts: int, resamples: int) -> Sequence[Decision]:
    """Decide on night after night, up to a promotion; without floors, which could only prevent one."""
    wordings = _wordings(rng, facts)
    serving = _domain(rng, SERVING, wordings)
    decisions: list[Decision] = []
    while len(decisions) < NIGHTS and not any(each.verdict == "PROMOTE" for each in decisions):
        candidate = _domain(rng, SERVING, wordings)
        decisions.append(decide(serving, serving, candidate, looks=len(decisions) + 1, resamples=resamples))
    return decisions


def _shares(play: Callable[[int], Sequence[Decision]], repeats: int) -> dict[str, Any]:
    """Play a case over and over; a series counts by its last night."""
    verdicts: list[tuple[int, Verdict]] = []
    for number in range(repeats):
        facts = SIZES[number % len(SIZES)]
        verdicts.append((facts, play(facts)[-1].verdict))
    return {
        **{name.lower(): _share([each == name for _, each in verdicts]) for name in ("PROMOTE", "HOLD", "REJECT")},
        "repeats": repeats,
        "promote_by_facts": {
            str(size): _share([each == "PROMOTE" for facts, each in verdicts if facts == size]) for size in SIZES
        },
    }


def _share(hits: Sequence[bool]) -> float | None:
    return round(sum(hits) / len(hits), 4) if hits else None


def _wordings(rng: np.random.Generator, facts: int) -> Counts:
    """Return in how many wordings each fact is asked: one each, as most nights do, or in half of the cases one to three."""
    return np.ones(facts, dtype=np.int64) if rng.random() < 0.5 else rng.choice(3, facts, p=(0.5, 0.3, 0.2)) + 1


def _domain(rng: np.random.Generator, quality: Quality, wordings: Counts) -> Scores:
    """Return the score of each fact; the first ones are those that cannot be answered."""
    absent = round(UNANSWERABLE * len(wordings))
    share = np.where(np.arange(len(wordings)) < absent, quality.refusal, quality.accuracy)
    known = rng.random(len(wordings)) < (share - _SLIP) / (1 - 2 * _SLIP)
    right = np.where(known, 1 - _SLIP, _SLIP)
    right = np.where((share == 0) | (share == 1), share, right)  # who refuses everything does so without a slip
    scores = rng.binomial(wordings, right) / wordings
    return {f"f{number:03d}": float(score) for number, score in enumerate(scores)}


def _floors(rng: np.random.Generator, serving: Quality, candidate: Quality) -> list[Floor]:
    """Return the floors of an examination of these two; pushback and citations need right and cited answers of both."""
    floors = []
    for rule in RULES:
        items = [f"{rule.suite}{number}" for number in range(ITEMS[rule.suite])]
        if rule.suite in ("pushback", "citations") and min(serving.accuracy, candidate.accuracy) == 0:
            continue
        reference, measured = (_measures(rng, rule.suite, each, items) for each in (serving, candidate))
        if rule.suite == "general":
            measured = {item: reference[item] + value for item, value in measured.items()}
        floors.append(Floor(name=rule.name, reference=reference, candidate=measured, margin=rule.margin, needed=rule.needed))
    return floors


def _measures(rng: np.random.Generator, suite: str, quality: Quality, items: Sequence[str]) -> Scores:
    if suite == "general":
        values = quality.drift + 0.05 * rng.standard_normal(len(items))
    else:
        shares = {
            "unanswerable": quality.refusal,
            "pushback": quality.kept,
            "citations": quality.cited,
            "answered": quality.answered,
        }
        values = (rng.random(len(items)) < shares[suite]).astype(np.float64)
    return {item: float(value) for item, value in zip(items, values, strict=True)}
