"""Looking every night at the same questions: how strict one night has to be, and which nights count.

Every night is another throw of the dice: with a 95 % interval each, candidates that are no better would be promoted within a year
however good what serves is. So the error allowed between two promotions is spent in parts (alpha spending: Lan and DeMets 1983;
over a series without an end, Foster and Stine 2008): look k may spend 1 / (k (k + 1)) of it. These shares sum to 1 - 1 / (k + 1),
so that the chance of a false promotion stays at 2.5 % for the first night and at most 5 % over all of them, with no end named
in advance and however much the nights hang together (Bonferroni's inequality; they do, as the answers of what serves are the
same each night). The first night, on which most rests, keeps the usual 95 % interval; the tenth gets one of 99.9 %.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable

MOST_RESAMPLES = 200_000
_IN_THE_TAIL = 20  # resamples that lie beyond a bound: fewer make it a matter of the seed


def confidence_at(look: int, *, confidence: float) -> float:
    """Return the confidence of look number `look`, from 1; `confidence` is that of the first one."""
    return 1 - (1 - confidence) * (2 / (look * (look + 1)))


def resamples_at(confidence: float, *, resamples: int) -> int:
    """Return how many resamples an interval of this confidence takes, `resamples` at least: a bound far out needs more."""
    return max(resamples, min(MOST_RESAMPLES, math.ceil(2 * _IN_THE_TAIL / (1 - confidence))))


def count_looks(facts: Collection[str], earlier: Iterable[Collection[str]]) -> int:
    """Return the number of tonight's look, from 1, given tonight's facts and those of earlier nights since the last promotion.

    An earlier night counts when it asked at least half of tonight's facts. A file's hash would not do: questions held out of
    the ratings change a little every night, and the time left decides how many are asked. Where most facts are new, it is a
    first look.
    """
    tonight = set(facts)
    return 1 + sum(2 * len(tonight.intersection(each)) >= len(tonight) for each in earlier)
