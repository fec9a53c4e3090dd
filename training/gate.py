"""The gate: does a candidate go into service?

It compares per fact, not per wording, with a paired bootstrap (Efron and Tibshirani 1993, percentile interval): PROMOTE when
the candidate is better than what serves and no floor is broken; REJECT when it is worse, or a floor is clearly broken;
HOLD when the data cannot tell. A decision carries its inputs, and `replay` gives the same decision from them, bit for bit.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, TypedDict

import numpy as np

from feedback.errors import RunError

Verdict = Literal["PROMOTE", "HOLD", "REJECT"]

RESAMPLES = 10_000
_BLOCK = 500  # resamples drawn at a time: bounds the memory (32 MB for 8,000 facts)
_DIGITS = 10  # rounding of results: sums may differ in the last bit from one processor to the next


@dataclass(frozen=True, kw_only=True)
class Floor:
    """One measure that may not fall: by item (fact, general answer), higher is better, of the reference and the candidate.

    Broken when the mean falls by more than `margin`; clearly broken when the whole interval lies below `-margin`.
    With fewer than `needed` items it cannot be judged, and the gate holds.
    """

    name: str
    reference: Mapping[str, float]
    candidate: Mapping[str, float]
    margin: float
    needed: int


@dataclass(frozen=True, kw_only=True)
class FloorReading:
    """What became of one floor. mean, low and high are of candidate minus reference."""

    name: str
    state: Literal["kept", "broken", "clearly broken", "too few"]
    mean: float
    low: float
    high: float
    items: int
    needed: int
    margin: float


@dataclass(frozen=True, kw_only=True)
class Decision:
    """A verdict and where it comes from. Differences are of candidate minus serving, means over facts, in [-1, 1]."""

    verdict: Verdict
    reason: str
    difference_mean: float
    low: float
    high: float
    facts: int
    more_facts: int | None  # about how many more would decide a HOLD; None when decided, or when more would not help
    base_mean: float  # difference of candidate minus base
    base_low: float
    base_high: float
    floors: tuple[FloorReading, ...]
    inputs: dict[str, Any]  # JSON: everything that `replay` needs

    def as_dict(self) -> dict[str, Any]:
        """Return the decision as JSON, inputs included."""
        return asdict(self)


class _Drawing(TypedDict):
    """How the bootstrap draws."""

    seed: int
    confidence: float
    resamples: int


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
    differences = _differences(reference, candidate)
    count = len(differences)
    if count == 0:
        return 0.0, 0.0, 0.0
    # numpy guarantees the stream of a bit generator for all versions, but not what Generator makes of it
    bits = np.random.PCG64(seed)
    means = np.empty(resamples)
    for start in range(0, resamples, _BLOCK):
        rows = min(_BLOCK, resamples - start)
        drawn = (bits.random_raw(rows * count) >> np.uint64(32)) * np.uint64(count) >> np.uint64(32)
        means[start : start + rows] = differences[drawn.astype(np.int64)].reshape(rows, count).mean(axis=1)
    tail = (1 - confidence) / 2 * 100
    low, high = np.percentile(means, [tail, 100 - tail])
    return round(float(differences.mean()), _DIGITS), round(float(low), _DIGITS), round(float(high), _DIGITS)


def decide(
    base: Mapping[str, float],
    serving: Mapping[str, float],
    candidate: Mapping[str, float],
    floors: Sequence[Floor] = (),
    *,
    minimum_facts: int = 20,
    minimum_effect: float = 0.02,
    confidence: float = 0.95,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Decision:
    """Decide over the mean score of each fact, in [0, 1], of base, serving and candidate.

    `minimum_effect` is the least gain worth a change. Raises RunError when the three do not hold the same facts.
    """
    drawing: _Drawing = {"seed": seed, "confidence": confidence, "resamples": resamples}
    mean, low, high = paired_bootstrap(serving, candidate, **drawing)
    base_mean, base_low, base_high = paired_bootstrap(base, candidate, **drawing)
    readings = tuple(_read_floor(floor, drawing) for floor in floors)
    facts = len(candidate)
    verdict, reason, more = _judge(
        mean=mean,
        low=low,
        high=high,
        base_high=base_high,
        facts=facts,
        spread=float(np.std(_differences(serving, candidate))) if facts else 0.0,
        readings=readings,
        minimum_facts=minimum_facts,
        minimum_effect=minimum_effect,
    )
    interval = f"{100 * confidence:g} % interval {100 * low:+.1f} to {100 * high:+.1f}"
    return Decision(
        verdict=verdict,
        reason=f"{reason} ({100 * mean:+.1f} points against what serves, {interval}, over {facts} facts).",
        difference_mean=mean,
        low=low,
        high=high,
        facts=facts,
        more_facts=more,
        base_mean=base_mean,
        base_low=base_low,
        base_high=base_high,
        floors=readings,
        inputs=_measured(base, serving, candidate, floors)
        | {"minimum_facts": minimum_facts, "minimum_effect": minimum_effect, **drawing},
    )


def replay(inputs: Mapping[str, Any]) -> Decision:
    """Decide again from the inputs of a decision, as they stand in it or come back from JSON."""
    values = dict(inputs)
    floors = [Floor(**floor) for floor in values.pop("floors")]
    return decide(values.pop("base"), values.pop("serving"), values.pop("candidate"), floors, **values)


def _judge(
    *,
    mean: float,
    low: float,
    high: float,
    base_high: float,
    facts: int,
    spread: float,
    readings: Sequence[FloorReading],
    minimum_facts: int,
    minimum_effect: float,
) -> tuple[Verdict, str, int | None]:
    """Return verdict, reason (without the figures) and how many more facts would decide."""
    if facts < minimum_facts:
        more = minimum_facts - facts
        return "HOLD", f"Too few facts to tell: {minimum_facts} are needed, {more} more", more
    clearly = [reading for reading in readings if reading.state == "clearly broken"]
    if high < 0:
        return "REJECT", "The candidate is worse than what serves", None
    if clearly:
        return "REJECT", f"A floor is clearly broken: {_name(clearly)}", None
    if low <= 0 or mean < minimum_effect:
        return _hold(mean=mean, low=low, facts=facts, spread=spread, minimum_effect=minimum_effect)
    broken = [reading for reading in readings if reading.state == "broken"]
    if broken:
        return "HOLD", f"The candidate is better, but a floor may be broken: {_name(broken)}", None
    unknown = [reading for reading in readings if reading.state == "too few"]
    if unknown:
        more = max(reading.needed - reading.items for reading in unknown)
        names = ", ".join(f"{reading.name} has {reading.items} of {reading.needed} items" for reading in unknown)
        return "HOLD", f"The candidate is better, but a floor cannot be judged: {names}", more
    if base_high < 0:
        return "HOLD", "The candidate is better than what serves, but worse than the base model: roll back to the base", None
    return "PROMOTE", "The candidate is better than what serves, and no floor is broken", None


def _hold(*, mean: float, low: float, facts: int, spread: float, minimum_effect: float) -> tuple[Verdict, str, int | None]:
    if low > 0:
        return "HOLD", f"The candidate is better, but by less than the {100 * minimum_effect:g} points that count", None
    if spread == 0:
        return "HOLD", "The candidate answers as what serves does: there is nothing to choose", None
    # the facts at which an interval of this spread excludes no difference; for a gain that would count, if it is smaller
    needed = math.ceil((1.96 * spread / max(abs(mean), minimum_effect, 0.001)) ** 2)
    more = max(needed - facts, 1)
    if abs(mean) < minimum_effect and needed <= facts:
        return "HOLD", "The candidate and what serves are about as good: more questions would hardly tell them apart", None
    return "HOLD", f"The questions cannot tell: about {more} more facts would decide", more


def _measured(
    base: Mapping[str, float], serving: Mapping[str, float], candidate: Mapping[str, float], floors: Sequence[Floor]
) -> dict[str, Any]:
    """Return what a decision was made on, as plain JSON data."""
    return {
        "base": dict(base),
        "serving": dict(serving),
        "candidate": dict(candidate),
        "floors": [asdict(floor) | {"reference": dict(floor.reference), "candidate": dict(floor.candidate)} for floor in floors],
    }


def _read_floor(floor: Floor, drawing: _Drawing) -> FloorReading:
    mean, low, high = paired_bootstrap(floor.reference, floor.candidate, **drawing)
    items = len(floor.candidate)
    state: Literal["kept", "broken", "clearly broken", "too few"] = "kept"
    if items < floor.needed:
        state = "too few"
    elif high < -floor.margin:
        state = "clearly broken"
    elif mean < -floor.margin:
        state = "broken"
    return FloorReading(
        name=floor.name, state=state, mean=mean, low=low, high=high, items=items, needed=floor.needed, margin=floor.margin
    )


def _differences(reference: Mapping[str, float], candidate: Mapping[str, float]) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Return candidate minus reference in the order of the items' names: the order of a mapping must not matter."""
    odd = sorted(set(reference) ^ set(candidate))
    if odd:
        raise RunError(f"The contestants were not asked the same: {odd[0]!r} is missing for one of them. Examine them again.")
    names = sorted(candidate)
    values = np.array([candidate[name] - reference[name] for name in names], dtype=np.float64)
    if not np.isfinite(values).all():
        raise RunError(f"The measure of {names[int(np.argmin(np.isfinite(values)))]!r} is not a number. Examine it again.")
    return values


def _name(readings: Sequence[FloorReading]) -> str:
    return ", ".join(f"{reading.name} fell by {-reading.mean:.3g}, more than {reading.margin:g}" for reading in readings)
