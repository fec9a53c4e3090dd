"""From two rankings to one: reciprocal rank fusion, and a second look that uses the scores themselves.

Reciprocal rank fusion (Cormack, Clarke and Buettcher 2009) chooses the candidates: it needs no scale. Among them the scores
say more than the ranks (Bruch, Gai and Ingber 2023), and a page with a second good chunk is likelier to be the right one.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping

RANK_CONSTANT = 60
MEANING_SHARE = 0.6
"""Of a candidate's evidence, the share of its cosine; the rest is its BM25. Both are relative to the best of the question."""
SECOND_SHARE = 0.3
"""How much of its document's second best chunk a candidate is given."""


def reciprocal_ranks(rankings: Iterable[Iterable[int]]) -> dict[int, float]:
    """Fuse rankings (best first) into one score a candidate, best first."""
    fused: defaultdict[int, float] = defaultdict(float)
    for ranking in rankings:
        for rank, candidate in enumerate(ranking, start=1):
            fused[candidate] += 1 / (RANK_CONSTANT + rank)
    return dict(sorted(fused.items(), key=lambda item: (-item[1], item[0])))


def evidence(
    words: Mapping[int, float], meaning: Mapping[int, float], documents: Mapping[int, int], candidates: Iterable[int]
) -> dict[int, float]:
    """Score candidates by BM25 and cosine together, and by the second best chunk of the same document; best first.

    `words` and `meaning` hold the candidates' BM25 and cosine (missing: 0), `documents` the document of each.
    """
    best_words = max(words.values(), default=0.0) or 1.0
    best_meaning = max(meaning.values(), default=0.0)
    best_meaning = best_meaning if best_meaning > 0 else 1.0
    share = MEANING_SHARE if meaning else 0.0
    own = {
        candidate: (1 - share) * words.get(candidate, 0.0) / best_words + share * meaning.get(candidate, 0.0) / best_meaning
        for candidate in candidates
    }
    by_document: defaultdict[int, list[float]] = defaultdict(list)
    for candidate, score in own.items():
        by_document[documents[candidate]].append(score)
    second = {document: sorted(scores)[-2] if len(scores) > 1 else 0.0 for document, scores in by_document.items()}
    total = {candidate: score + SECOND_SHARE * second[documents[candidate]] for candidate, score in own.items()}
    return dict(sorted(total.items(), key=lambda item: (-item[1], item[0])))
