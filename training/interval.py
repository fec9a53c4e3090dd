"""The statistics of a paired comparison by fact: a bootstrap interval, an exact sign test, and how many facts would decide.

The bootstrap (Efron and Tibshirani 1993, percentile interval) uses all that is known of a fact: how much of it was won or lost
over its wordings. But it draws its idea of chance from the facts at hand, so it is too bold where few of them differ: five facts
won of twenty and none lost give a 95 % interval above zero, although a fair coin falls five times on the same side in one of
sixteen cases. There the exact sign test has to agree (two-sided binomial over the facts that differ; for facts that are right or
wrong it is McNemar's test in its exact form: McNemar 1947). It counts won and lost facts alone, which is all there is to count
of right or wrong ones, so for these it always has to agree; facts of several wordings, of which enough differ, are the
bootstrap's.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np

from feedback.errors import RunError

RESAMPLES = 10_000
SMALL_SET = 100
"""With fewer facts than this, the sign test has to agree: the far-out bounds of later nights (training.looks) are where a
bootstrap of few facts is boldest."""
FEW_DISCORDANT = 30
"""With fewer facts that differ than this, too: at 30 the bootstrap's idea of chance is as good as the exact one."""

_BLOCK = 500  # resamples drawn at a time: bounds the memory (32 MB for 8,000 facts)
_DIGITS = 10  # rounding of results: sums may differ in the last bit from one processor to the next

Differences = np.ndarray[Any, np.dtype[np.float64]]


@dataclass(frozen=True, kw_only=True)
class SignTest:
    """Facts won and lost by the candidate, and how likely a fair coin is to be as one-sided: two-sided, in (0, 1]."""

    won: int
    lost: int
    p: float


def paired_bootstrap(
    reference: Mapping[str, float],
    candidate: Mapping[str, float],
    *,
    seed: int = 0,
    confidence: float = 0.95,
    resamples: int = RESAMPLES,
) -> tuple[float, float, float]:
    """Return mean, low and high of candidate minus reference, resampling items; (0, 0, 0) without items.

    Raises RunError when the two do not hold the same items, or hold a value that is not finite.
    """
    values = differences(reference, candidate)
    count = len(values)
    if count == 0:
        return 0.0, 0.0, 0.0
    # numpy guarantees the stream of a bit generator for all versions, but not what Generator makes of it
    bits = np.random.PCG64(seed)
    means = np.empty(resamples)
    for start in range(0, resamples, _BLOCK):
        rows = min(_BLOCK, resamples - start)
        drawn = bits.random_raw(rows * count)
        drawn >>= np.uint64(32)
        drawn *= np.uint64(count)
        drawn >>= np.uint64(32)
        means[start : start + rows] = values.take(drawn.view(np.int64)).reshape(rows, count).mean(axis=1)
    tail = (1 - confidence) / 2 * 100
    low, high = np.percentile(means, [tail, 100 - tail])
    return round(float(values.mean()), _DIGITS), round(float(low), _DIGITS), round(float(high), _DIGITS)


def sign_test(values: Differences) -> SignTest:
    """Test whether as many facts were won as lost; facts without a difference say nothing."""
    won, lost = int((values > 0).sum()), int((values < 0).sum())
    discordant, ways, tail = won + lost, 1, 1  # in whole numbers: the same on every machine
    for count in range(min(won, lost)):
        ways = ways * (discordant - count) // (count + 1)
        tail += ways
    return SignTest(won=won, lost=lost, p=min(1.0, 2 * tail / 2**discordant))


def needs_sign_test(values: Differences) -> bool:
    """Say whether the bootstrap may not speak alone: a small set, few facts that differ, or facts that are right or wrong."""
    return len(values) < SMALL_SET or int((values != 0).sum()) < FEW_DISCORDANT or _right_or_wrong(values)


def facts_needed(values: Differences, *, effect: float, confidence: float, exact: bool) -> int:
    """Return about how many facts like these, some of which differ, would tell a mean difference of `effect` from none.

    `effect` is in (0, 1]. `exact` asks that the sign test agrees where it is needed (its normal approximation, with the
    continuity correction).
    """
    quantile = round(NormalDist().inv_cdf((1 + confidence) / 2), 2)
    needed = math.ceil((quantile * float(np.std(values)) / effect) ** 2)
    if not exact:
        return needed
    discordant = float((values != 0).mean())
    gap = max(abs(float(np.sign(values).mean())), effect)
    slope = quantile * math.sqrt(discordant)
    signs = ((slope + math.sqrt(slope**2 + 4 * gap)) / (2 * gap)) ** 2  # the n with gap * n - 1 = slope * sqrt(n)
    if not _right_or_wrong(values):  # with so many the bootstrap speaks alone
        signs = min(signs, max(SMALL_SET, FEW_DISCORDANT / discordant))
    return max(needed, math.ceil(signs))


def _right_or_wrong(values: Differences) -> bool:
    return bool(np.isin(np.abs(values), (0.0, 1.0)).all())


def differences(reference: Mapping[str, float], candidate: Mapping[str, float]) -> Differences:
    """Return candidate minus reference in the order of the items' names: the order of a mapping must not matter.

    Raises RunError when the two do not hold the same items, or hold a value that is not finite.
    """
    odd = sorted(set(reference) ^ set(candidate))
    if odd:
        raise RunError(f"The contestants were not asked the same: {odd[0]!r} is missing for one of them. Examine them again.")
    names = sorted(candidate)
    values = np.array([candidate[name] - reference[name] for name in names], dtype=np.float64)
    if not np.isfinite(values).all():
        raise RunError(f"The measure of {names[int(np.argmin(np.isfinite(values)))]!r} is not a number. Examine it again.")
    return values
