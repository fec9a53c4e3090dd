"""The statistics of a paired comparison: where the bootstrap is too bold, and what the exact sign test says there."""

from __future__ import annotations

from math import comb

import numpy as np
import pytest

from training.gate import decide
from training.interval import FEW_DISCORDANT, SMALL_SET, Differences, facts_needed, needs_sign_test, paired_bootstrap, sign_test


def scores(values: list[float]) -> dict[str, float]:
    return {f"f{number:03d}": value for number, value in enumerate(values)}


def differing(*, won: int, lost: int, facts: int) -> Differences:
    return np.array([1.0] * won + [-1.0] * lost + [0.0] * (facts - won - lost))


@pytest.mark.parametrize(
    ("won", "lost", "p"),
    [(0, 0, 1.0), (3, 3, 1.0), (5, 0, 2 / 32), (0, 6, 2 / 64), (9, 1, 22 / 1024), (1, 9, 22 / 1024), (2, 1, 1.0)],
)
def test_the_sign_test_is_the_two_sided_binomial_over_the_facts_that_differ(won: int, lost: int, p: float) -> None:
    found = sign_test(differing(won=won, lost=lost, facts=40))
    assert (found.won, found.lost) == (won, lost)
    assert found.p == pytest.approx(p, abs=1e-15)


def test_the_sign_test_stays_exact_for_thousands_of_facts() -> None:
    found = sign_test(differing(won=1050, lost=950, facts=8000))
    assert found.p == pytest.approx(2 * sum(comb(2000, k) for k in range(951)) / 2**2000, rel=1e-12)


def test_five_facts_won_of_twenty_are_above_zero_for_the_bootstrap_and_a_coin_in_one_of_sixteen_cases() -> None:
    serving, candidate = scores([0.0] * 20), scores([1.0] * 5 + [0.0] * 15)
    assert paired_bootstrap(serving, candidate)[1] > 0
    held = decide(serving, serving, candidate)
    assert (held.verdict, held.sign_test and held.sign_test.p) == ("HOLD", 0.0625)
    assert "too few facts differ" in held.reason and "5 won, 0 lost" in held.reason
    assert decide(serving, serving, scores([1.0] * 6 + [0.0] * 14)).verdict == "PROMOTE"


def test_the_sign_test_has_to_agree_before_a_rejection_too() -> None:
    serving = scores([1.0] * 20)
    assert paired_bootstrap(serving, scores([0.0] * 5 + [1.0] * 15))[2] < 0
    assert decide(serving, serving, scores([0.0] * 5 + [1.0] * 15)).verdict == "HOLD"
    assert decide(serving, serving, scores([0.0] * 6 + [1.0] * 14)).verdict == "REJECT"


def test_a_gain_on_average_that_most_facts_speak_against_is_held_in_a_small_set() -> None:
    # fourteen facts lose one wording in ten, and eight win all of theirs
    serving, candidate = scores([0.0] * 8 + [0.6] * 32), scores([1.0] * 8 + [0.5] * 14 + [0.6] * 18)
    decision = decide(serving, serving, candidate)
    assert decision.low > 0 and decision.verdict == "HOLD"


def test_the_bootstrap_speaks_alone_only_over_many_facts_of_several_wordings_of_which_enough_differ() -> None:
    graded = np.resize([0.5, -0.5, 1.0], SMALL_SET)
    assert not needs_sign_test(graded)
    assert needs_sign_test(graded[: SMALL_SET - 1])
    assert needs_sign_test(np.concatenate([graded[: FEW_DISCORDANT - 1], np.zeros(200)]))
    assert needs_sign_test(differing(won=200, lost=100, facts=500))


def test_a_coin_is_promoted_in_at_most_one_of_forty_cases_however_few_facts_differ_which_the_bootstrap_alone_exceeds() -> None:
    alone = []
    for differ in range(1, 13):
        shares = []
        for rule in (1, 2):
            promoting = 0
            for won in range(differ // 2 + 1, differ + 1):
                values = differing(won=won, lost=differ - won, facts=20)
                sides = scores([float(v < 0) for v in values]), scores([float(v > 0) for v in values])
                if decide(sides[0], *sides, resamples=500, rule=rule).verdict == "PROMOTE":
                    promoting += comb(differ, won)
            shares.append(promoting / 2**differ)
        alone.append(shares[0])
        assert shares[1] <= min(0.025, shares[0])
    assert max(alone) > 0.05


@pytest.mark.parametrize("looks", [1, 6])
@pytest.mark.parametrize(("won", "lost", "facts"), [(5, 0, 20), (12, 5, 40), (30, 20, 150), (6, 3, 80), (5, 12, 40)])
def test_the_number_of_further_facts_keeps_its_promise(won: int, lost: int, facts: int, looks: int) -> None:
    values = differing(won=won, lost=lost, facts=facts)
    serving = {f"f{n:03d}": float(value < 0) for n, value in enumerate(values)}
    candidate = {f"f{n:03d}": float(value > 0) for n, value in enumerate(values)}
    held = decide(serving, serving, candidate, looks=looks)
    assert held.verdict == "HOLD" and held.more_facts is not None and f"{held.more_facts} more facts" in held.reason
    times = -(-(facts + held.more_facts) // facts)
    grown = [{f"{name}-{n}": score for n in range(times) for name, score in part.items()} for part in (serving, candidate)]
    # where most facts are new, it is a first look again
    later = 1 if held.more_facts > facts else looks + 1
    assert decide(grown[0], grown[0], grown[1], looks=later).verdict == ("PROMOTE" if won > lost else "REJECT")
    # not many more than a first look would take, or the very next night
    least = facts_needed(values, effect=abs(won - lost) / facts, confidence=0.95, exact=True)
    assert least <= facts + held.more_facts <= max(least, 2 * facts + 1)
