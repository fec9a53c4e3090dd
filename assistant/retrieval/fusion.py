"""From two rankings to one: reciprocal rank fusion, and a second look that uses the scores themselves.

Reciprocal rank fusion (Cormack, Clarke and Buettcher 2009) chooses the candidates: it needs no scale. Among them the scores
say more than the ranks (Bruch, Gai and Ingber 2023): docs/LOG.md has the figures.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from statistics import fmean, pstdev

RANK_CONSTANT = 60
MEANING_SHARE = 0.6
"""Of a candidate's evidence, the share of its cosine; the rest is its BM25. Both are relative to the best of the question."""


def reciprocal_ranks(rankings: Iterable[Iterable[int]]) -> dict[int, float]:
    """Fuse rankings (best first) into one score a candidate, best first."""
    fused: defaultdict[int, float] = defaultdict(float)
    for ranking in rankings:
        for rank, candidate in enumerate(ranking, start=1):
            fused[candidate] += 1 / (RANK_CONSTANT + rank)
    return dict(sorted(fused.items(), key=lambda item: (-item[1], item[0])))


def evidence(words: Mapping[int, float], meaning: Mapping[int, float], candidates: Iterable[int]) -> dict[int, float]:
    """Score candidates by BM25 and cosine together, each relative to the best one; what has no cosine, by its BM25 alone."""
    best_words = max(words.values(), default=0.0) or 1.0
    best_meaning = max(meaning.values(), default=0.0)
    best_meaning = best_meaning if best_meaning > 0 else 1.0
    scores = {}
    for candidate in candidates:
        share = MEANING_SHARE if candidate in meaning else 0.0
        of_words, of_meaning = words.get(candidate, 0.0) / best_words, meaning.get(candidate, 0.0) / best_meaning
        scores[candidate] = (1 - share) * of_words + share * of_meaning
    return scores


def in_one_measure(*scores: Mapping[int, float]) -> dict[int, float]:
    """Add scores of the same candidates, each with its mean taken off and divided by its deviation; best first."""
    total: defaultdict[int, float] = defaultdict(float)
    for each in scores:
        deviation = pstdev(each.values()) or 1.0
        mean = fmean(each.values())
        for candidate, score in each.items():
            total[candidate] += (score - mean) / deviation
    return dict(sorted(total.items(), key=lambda item: (-item[1], item[0])))
