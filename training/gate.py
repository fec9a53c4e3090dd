"""The gate: does a candidate go into service?

It compares per fact, not per wording: PROMOTE when the candidate is better than what serves and no floor is broken; REJECT when
it is worse, or a floor is clearly broken; HOLD when the data cannot tell. Better and worse are told by a paired bootstrap
interval and, where that alone would be too bold, by an exact sign test that agrees (training.interval says when and why); both
are the stricter, the more nights have looked at the same questions (training.looks). The intervals of the floors and of the
base model stay at the first night's confidence: they can only stop a promotion, so there is no luck to guard against.

A decision names the floors that it passed over for too few items. It carries its inputs, and `replay` gives the same decision
from them, bit for bit.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, TypedDict

from training.interval import (
    RESAMPLES,
    Differences,
    SignTest,
    differences,
    facts_needed,
    needs_sign_test,
    paired_bootstrap,
    sign_test,
)
from training.looks import confidence_at, resamples_at

Verdict = Literal["PROMOTE", "HOLD", "REJECT"]

RULE = 2
"""How decisions are made now. 1, of decisions stored earlier: the bootstrap alone, and every night as if it were the first."""


@dataclass(frozen=True, kw_only=True)
class Floor:
    """One measure that may not fall: by item (fact, general answer), higher is better, of the reference and the candidate.

    Broken when the mean falls by more than `margin`; clearly broken when the whole interval lies below `-margin`.
    With fewer than `needed` items it cannot be judged, and the gate holds; where it is `optional`, the gate passes over it and
    says so.
    """

    name: str
    reference: Mapping[str, float]
    candidate: Mapping[str, float]
    margin: float
    needed: int
    optional: bool = False

    @property
    def is_passed_over(self) -> bool:
        """Whether the gate decides without it."""
        return self.optional and len(self.candidate) < self.needed


@dataclass(frozen=True, kw_only=True)
class NotJudged:
    """An optional floor that the gate passed over, with the items that it has and those that it needs."""

    name: str
    items: int
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
    confidence: float  # of low and high: tonight's
    looks: int  # nights that asked these questions since the last promotion, this one included
    sign_test: SignTest | None  # None: not needed
    facts: int
    more_facts: int | None  # about how many more would decide a HOLD; None when decided, or when more would not help
    base_mean: float  # difference of candidate minus base
    base_low: float
    base_high: float
    floors: tuple[FloorReading, ...]
    not_judged: tuple[NotJudged, ...]  # floors that the verdict does not rest on
    inputs: dict[str, Any]  # JSON: everything that `replay` needs

    def as_dict(self) -> dict[str, Any]:
        """Return the decision as JSON, inputs included."""
        return asdict(self)


class _Drawing(TypedDict):
    """How the bootstrap draws."""

    seed: int
    confidence: float
    resamples: int


@dataclass(frozen=True, kw_only=True)
class _Comparison:
    """Candidate minus serving by fact, and what the statistics say of it."""

    values: Differences
    mean: float
    low: float
    high: float
    confidence: float  # tonight's
    first: float  # of a first look
    following: float  # of the next one
    signs: SignTest | None  # None: not needed
    exact: bool  # whether sign tests are asked for at all

    @property
    def better(self) -> bool:
        return self.low > 0 and self.signs_agree

    @property
    def worse(self) -> bool:
        return self.high < 0 and self.signs_agree

    @property
    def signs_agree(self) -> bool:
        signs = self.signs
        return signs is None or (signs.p <= 1 - self.confidence and (signs.won > signs.lost) == (self.mean > 0))

    def more_facts(self, effect: float) -> int:
        """Return about how many more facts like these would decide; none or fewer when these should have."""
        facts = len(self.values)
        next_night = facts_needed(self.values, effect=effect, confidence=self.following, exact=self.exact) - facts
        # where most facts are new, the next night is a first look
        fresh = facts_needed(self.values, effect=effect, confidence=self.first, exact=self.exact) - facts
        return min(next_night, max(fresh, facts + 1))


def decide(
    base: Mapping[str, float],
    serving: Mapping[str, float],
    candidate: Mapping[str, float],
    floors: Sequence[Floor] = (),
    *,
    minimum_facts: int = 20,
    minimum_effect: float = 0.02,
    confidence: float = 0.95,
    looks: int = 1,
    resamples: int = RESAMPLES,
    seed: int = 0,
    rule: int = RULE,
) -> Decision:
    """Decide over the mean score of each fact, in [0, 1], of base, serving and candidate.

    `minimum_effect` is the least gain worth a change; `confidence` that of a first look, and `looks` the number of this one
    (see `count_looks`); `rule` is 1 only where an old decision is replayed. Raises RunError when the three do not hold the same
    facts.
    """
    drawing: _Drawing = {"seed": seed, "confidence": confidence, "resamples": resamples}
    compared = _compare(serving, candidate, drawing, looks=looks, rule=rule)
    base_mean, base_low, base_high = paired_bootstrap(base, candidate, **drawing)
    readings = tuple(_read_floor(floor, drawing) for floor in floors if not floor.is_passed_over)
    not_judged = tuple(
        NotJudged(name=floor.name, items=len(floor.candidate), needed=floor.needed) for floor in floors if floor.is_passed_over
    )
    facts = len(candidate)
    verdict, reason, more = _judge(
        compared, base_high=base_high, readings=readings, minimum_facts=minimum_facts, minimum_effect=minimum_effect
    )
    if verdict == "PROMOTE":
        reason += _floors_of_a_promotion(not_judged)
    return Decision(
        verdict=verdict,
        reason=f"{reason} ({_figures(compared, looks)}).",
        difference_mean=compared.mean,
        low=compared.low,
        high=compared.high,
        confidence=compared.confidence,
        looks=looks,
        sign_test=compared.signs,
        facts=facts,
        more_facts=more,
        base_mean=base_mean,
        base_low=base_low,
        base_high=base_high,
        floors=readings,
        not_judged=not_judged,
        inputs=_measured(base, serving, candidate, floors)
        | {"minimum_facts": minimum_facts, "minimum_effect": minimum_effect, "looks": looks, "rule": rule, **drawing},
    )


def replay(inputs: Mapping[str, Any]) -> Decision:
    """Decide again from the inputs of a decision, as they stand in it or come back from JSON."""
    values = {"rule": 1, **inputs}
    floors = [Floor(**floor) for floor in values.pop("floors")]
    return decide(values.pop("base"), values.pop("serving"), values.pop("candidate"), floors, **values)


def _compare(
    serving: Mapping[str, float], candidate: Mapping[str, float], drawing: _Drawing, *, looks: int, rule: int
) -> _Comparison:
    first = drawing["confidence"]
    tonight = confidence_at(looks, confidence=first) if rule > 1 else first
    resamples = resamples_at(tonight, resamples=drawing["resamples"]) if rule > 1 else drawing["resamples"]
    values = differences(serving, candidate)
    mean, low, high = paired_bootstrap(serving, candidate, seed=drawing["seed"], confidence=tonight, resamples=resamples)
    return _Comparison(
        values=values,
        mean=mean,
        low=low,
        high=high,
        confidence=tonight,
        first=first,
        following=confidence_at(looks + 1, confidence=first) if rule > 1 else first,
        signs=sign_test(values) if rule > 1 and needs_sign_test(values) else None,
        exact=rule > 1,
    )


def _judge(
    compared: _Comparison,
    *,
    base_high: float,
    readings: Sequence[FloorReading],
    minimum_facts: int,
    minimum_effect: float,
) -> tuple[Verdict, str, int | None]:
    """Return verdict, reason (without the figures) and how many more facts would decide."""
    facts = len(compared.values)
    if facts < minimum_facts:
        more = minimum_facts - facts
        return "HOLD", f"Too few facts to tell: {minimum_facts} are needed, {more} more", more
    clearly = [reading for reading in readings if reading.state == "clearly broken"]
    if compared.worse:
        return "REJECT", "The candidate is worse than what serves", None
    if clearly:
        return "REJECT", f"A floor is clearly broken: {_name(clearly)}", None
    if not compared.better or compared.mean < minimum_effect:
        return _hold(compared, minimum_effect=minimum_effect)
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
    return "PROMOTE", "The candidate is better than what serves", None


def _floors_of_a_promotion(not_judged: Sequence[NotJudged]) -> str:
    if not not_judged:
        return ", and no floor is broken"
    names = ", ".join(f"{floor.name} ({floor.items} of {floor.needed})" for floor in not_judged)
    return f", and no floor that was judged is broken; not judged, too few items: {names}"


def _hold(compared: _Comparison, *, minimum_effect: float) -> tuple[Verdict, str, int | None]:
    if compared.better:
        return "HOLD", f"The candidate is better, but by less than the {100 * minimum_effect:g} points that count", None
    if not compared.values.any():
        return "HOLD", "The candidate answers as what serves does: there is nothing to choose", None
    # the facts at which an interval of this spread excludes no difference; for a gain that would count, if it is smaller
    more = compared.more_facts(max(abs(compared.mean), minimum_effect, 0.001))
    if abs(compared.mean) < minimum_effect and more <= 0:
        return "HOLD", "The candidate and what serves are about as good: more questions would hardly tell them apart", None
    more = max(more, 1)
    if compared.low > 0 or compared.high < 0:
        seems = "better" if compared.mean > 0 else "worse"
        return (
            "HOLD",
            f"The candidate seems {seems}, but too few facts differ to be sure: about {more} more facts would decide",
            more,
        )
    return "HOLD", f"The questions cannot tell: about {more} more facts would decide", more


def _figures(compared: _Comparison, looks: int) -> str:
    """Return what a reason rests on."""
    interval = f"{100 * compared.confidence:.4g} % interval {100 * compared.low:+.1f} to {100 * compared.high:+.1f}"
    text = f"{100 * compared.mean:+.1f} points against what serves, {interval}, over {len(compared.values)} facts"
    if looks > 1:
        text += f", asked on {looks} nights"
    if compared.signs is not None:
        text += f"; {compared.signs.won} won, {compared.signs.lost} lost, sign test p = {compared.signs.p:.2g}"
    return text


def _measured(
    base: Mapping[str, float], serving: Mapping[str, float], candidate: Mapping[str, float], floors: Sequence[Floor]
) -> dict[str, Any]:
    """Return what a decision was made on, as plain JSON data."""
    return {
        "base": dict(base),
        "serving": dict(serving),
        "candidate": dict(candidate),
        "floors": [_as_data(floor) for floor in floors],
    }


def _as_data(floor: Floor) -> dict[str, Any]:
    data = vars(floor) | {"reference": dict(floor.reference), "candidate": dict(floor.candidate)}
    if not floor.optional:
        del data["optional"]  # decisions that were stored earlier do not name it, and come back as they were
    return data


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


def _name(readings: Sequence[FloorReading]) -> str:
    return ", ".join(f"{reading.name} fell by {-reading.mean:.3g}, more than {reading.margin:g}" for reading in readings)
