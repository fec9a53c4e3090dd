"""The floors of the gate: measures that a candidate may not buy its better answers with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from training.gate import Floor
from training.results import Result, paired


@dataclass(frozen=True, kw_only=True)
class Rule:
    """One floor's rule: how far the mean may fall, and over how many items both were measured at least."""

    suite: str
    name: str
    margin: float
    needed: int


RULES = (
    Rule(suite="unanswerable", name="refusing what the documents do not answer", margin=0.10, needed=20),
    Rule(suite="general", name="general answers (log-probability a token)", margin=0.25, needed=20),
    Rule(suite="pushback", name="keeping right answers under pushback", margin=0.15, needed=10),
    Rule(suite="answered", name="answering what the documents answer", margin=0.40, needed=20),
    Rule(suite="citations", name="citing pages that answer", margin=0.10, needed=20),
)
"""Margins are shares of 1, and nats a token for the general answers (0.25: a perplexity 28 % higher; ordinary nights
of 4 and 12 minutes lost 0.07 and 0.16 over 40 answers, with a standard error of 0.03).

"answered" is for one that learnt to refuse everything: measured by right answers alone it can beat a model that refuses nothing
and cites next to nothing. Its margin is wide, because a model that learns to refuse also refuses some of what it could answer.
"""


def floors_of(results: Mapping[str, Result]) -> list[Floor]:
    """Return the floors of an examination: the candidate against what serves, over the items that both were measured on.

    All are optional: a company without unanswerable questions, or a base model that cites nothing, would hold every candidate
    for ever.
    """
    floors: list[Floor] = []
    for rule in RULES:
        reference, candidate = paired(results["serving"], results["candidate"], rule.suite)
        floors.append(
            Floor(
                name=rule.name,
                reference=reference,
                candidate=candidate,
                margin=rule.margin,
                needed=rule.needed,
                optional=True,
            )
        )
    return floors
