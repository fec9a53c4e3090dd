"""Looking every night: what one night may spend of the error, and which nights count."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from training.examinations import ExaminationStore
from training.gate import decide
from training.interval import RESAMPLES
from training.looks import MOST_RESAMPLES, confidence_at, count_looks, resamples_at
from training.runs import RunLedger

SERVING = {f"f{n}": 0.0 for n in range(100)}


def winner(won: int) -> dict[str, float]:
    return {f"f{n}": float(n < won) for n in range(100)}


def test_the_first_look_keeps_the_confidence_and_all_looks_together_never_spend_more_than_five_percent() -> None:
    assert confidence_at(1, confidence=0.95) == 0.95
    promoting = [(1 - confidence_at(look, confidence=0.95)) / 2 for look in range(1, 5001)]  # one side of each interval
    assert promoting == sorted(promoting, reverse=True)
    assert 0.0499 < sum(promoting) < 0.05


def test_a_look_far_out_is_drawn_often_enough_to_have_something_beyond_its_bound() -> None:
    for look in range(1, 20):
        confidence = confidence_at(look, confidence=0.95)
        assert resamples_at(confidence, resamples=RESAMPLES) * (1 - confidence) / 2 > 19.9
    assert resamples_at(0.95, resamples=RESAMPLES) == RESAMPLES
    assert resamples_at(confidence_at(500, confidence=0.95), resamples=RESAMPLES) == MOST_RESAMPLES


def test_what_is_promoted_on_the_first_night_is_held_on_a_later_one_and_the_reason_says_so() -> None:
    first, fifth = (decide(SERVING, SERVING, winner(7), looks=looks) for looks in (1, 5))
    assert (first.verdict, fifth.verdict) == ("PROMOTE", "HOLD")
    assert first.confidence == 0.95 and fifth.confidence == pytest.approx(1 - 0.1 / 30)
    assert fifth.low <= first.low and fifth.high > first.high
    assert "99.67 % interval" in fifth.reason and "asked on 5 nights" in fifth.reason and "nights" not in first.reason
    assert fifth.inputs["looks"] == 5
    assert decide(SERVING, SERVING, winner(12), looks=5).verdict == "PROMOTE"


def test_the_base_model_is_not_compared_more_loosely_on_later_nights() -> None:
    base = winner(30)  # better than the candidate, but not by so much that a fifth look would tell
    first, fifth = (decide(base, SERVING, winner(20), looks=looks) for looks in (1, 5))
    assert first.verdict == fifth.verdict == "HOLD" and (first.base_low, first.base_high) == (fifth.base_low, fifth.base_high)
    assert "base" in fifth.reason


def test_a_night_counts_that_asked_half_of_tonights_facts() -> None:
    tonight = ["a", "b", "c", "d"]
    assert count_looks(tonight, []) == 1
    assert count_looks(tonight, [tonight, ["a", "b"], ["a", "x", "y"], ["x"]]) == 3
    assert count_looks(tonight, [["a", "b", "c", "d", "e", "f", "g"]]) == 2


def test_the_store_names_the_facts_of_decisions_after_a_moment(tmp_path: Path) -> None:
    now = datetime(2026, 11, 22, 2, tzinfo=UTC)
    store = ExaminationStore(tmp_path / "nightschool.db", clock=lambda: now)
    ledger = RunLedger(tmp_path / "nightschool.db", tmp_path / "runs")
    for night in range(3):
        run = ledger.start(f"slot {night}", "schedule")
        ledger.finish(run.id, "succeeded")
        report = {"decision": {"inputs": {"candidate": {f"f{night}": 1.0, 'a "quoted" fact. $': 0.0}}}}
        store.save(run.id, report if night != 1 else {"contestants": {}})  # one that never came to a decision
        now += timedelta(days=1)
    assert store.facts_since("") == [{"f0", 'a "quoted" fact. $'}, {"f2", 'a "quoted" fact. $'}]
    assert store.facts_since("2026-11-22T02:00:00.000000+00:00") == [{"f2", 'a "quoted" fact. $'}]
