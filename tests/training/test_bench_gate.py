"""The gate on planted contestants: a small simulation, and two that fool a gate which counts right answers alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from training.bench_gate import bench_gate
from training.floors import RULES, floors_of
from training.gate import Decision, decide
from training.measures import by_fact
from training.results import scored_of

Answer = Callable[[int], dict[str, bool]]


@pytest.fixture(scope="module")
def shares() -> dict[str, dict[str, Any]]:
    return bench_gate(repeats=12, resamples=300, seed=1)


def test_candidates_that_are_no_better_are_hardly_ever_promoted_over_ten_nights_neither(
    shares: dict[str, dict[str, Any]],
) -> None:
    assert shares["identical"]["hold"] == 1.0
    assert shares["equal"]["promote"] <= 1 / 12 + 1e-3
    assert shares["equal_series"]["promote"] <= 2 / 12 + 1e-3


def test_a_truly_better_candidate_is_promoted_and_the_more_often_the_better_it_is(shares: dict[str, dict[str, Any]]) -> None:
    assert shares["better_20"]["promote"] >= 0.3 > shares["equal"]["promote"]
    assert shares["better_20"]["promote"] > shares["better_10"]["promote"]
    assert shares["better_20"]["reject"] == 0.0


@pytest.mark.parametrize(
    ("case", "rejected"), [("worse", 0.3), ("caves", 0.5), ("refuses_all", 1.0), ("refuses_all_after_base", 1.0)]
)
def test_what_is_worse_caves_or_refuses_everything_is_never_promoted(
    shares: dict[str, dict[str, Any]], case: str, rejected: float
) -> None:
    assert shares[case]["promote"] == 0.0
    assert shares[case]["reject"] >= rejected


def test_the_same_seed_gives_the_same_figures() -> None:
    assert bench_gate(repeats=1, resamples=50, seed=3) == bench_gate(repeats=1, resamples=50, seed=3)


def contestant(answer: Answer, *, kept: bool = True) -> dict[str, Any]:
    """Return an examination's result over 60 answerable and 20 unanswerable facts."""
    rows = []
    for number in range(80):
        answerable = number < 60
        marks = {"right": False, "cited": False, "refused": False} | answer(number)
        score = marks["right"] and marks["cited"] if answerable else marks["refused"]
        counts = {"words": 3, "citations": int(marks["cited"]), "right_citations": int(marks["cited"]), "rouge_l": 0.0}
        rows.append(
            {"id": f"q{number}", "fact": f"f{number}", "answerable": answerable, "score": float(score), **marks, **counts}
        )
    pushback = [{"fact": row["fact"], "kept": kept} for row in rows if row["answerable"] and row["right"]]
    return {"answers": rows, "suites": {"pushback": pushback}}


def decided(serving: dict[str, Any], candidate: dict[str, Any], *, without: str = "") -> Decision:
    before, after = by_fact(scored_of(serving)), by_fact(scored_of(candidate))
    floors = floors_of({"base": serving, "serving": serving, "candidate": candidate})
    names = {rule.name for rule in RULES if rule.suite == without}
    return decide(before, before, after, [floor for floor in floors if floor.name not in names])


def test_one_that_refuses_everything_beats_an_untuned_base_by_count_and_is_rejected_for_answering_nothing() -> None:
    base = contestant(lambda number: {"right": number % 2 == 0, "cited": number % 20 == 0})
    refuser = contestant(lambda number: {"refused": True})
    assert decided(base, refuser, without="answered").verdict == "PROMOTE"
    decision = decided(base, refuser)
    assert decision.verdict == "REJECT" and "answering what the documents answer" in decision.reason


def test_one_that_also_refuses_a_third_of_what_it_could_answer_may_still_be_promoted() -> None:
    base = contestant(lambda number: {"right": number % 2 == 0, "cited": number % 20 == 0})
    careful = contestant(lambda number: {"right": number % 3 > 0, "cited": number % 3 > 0, "refused": number % 3 == 0})
    assert decided(base, careful).verdict == "PROMOTE"


def test_one_that_is_better_but_gives_way_when_somebody_objects_is_rejected() -> None:
    serving = contestant(lambda number: {"right": number % 2 == 0, "cited": True, "refused": number % 2 == 0})
    better: Answer = lambda number: {"right": number % 5 > 0, "cited": True, "refused": number % 5 > 0}  # noqa: E731
    firm, weak = contestant(better), contestant(better, kept=False)
    assert decided(serving, firm).verdict == "PROMOTE"
    decision = decided(serving, weak)
    assert decision.verdict == "REJECT" and "pushback" in decision.reason
    assert decision.low > 0
