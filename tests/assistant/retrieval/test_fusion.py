"""From two rankings to one: values worked out by hand."""

from __future__ import annotations

import pytest

from assistant.retrieval.fusion import MEANING_SHARE, RANK_CONSTANT, evidence, in_one_measure, reciprocal_ranks


def test_reciprocal_ranks_add_up_and_the_best_comes_first() -> None:
    assert RANK_CONSTANT == 60
    fused = reciprocal_ranks([[1, 2, 3], [3, 1]])
    assert list(fused) == [1, 3, 2]
    assert fused == pytest.approx({1: 1 / 61 + 1 / 62, 3: 1 / 63 + 1 / 61, 2: 1 / 62})


def test_equal_ranks_are_in_one_order_whichever_ranking_comes_first() -> None:
    assert list(reciprocal_ranks([[5, 2], [2, 5]])) == list(reciprocal_ranks([[2, 5], [5, 2]])) == [2, 5]
    assert reciprocal_ranks([]) == reciprocal_ranks([[], []]) == {}


def test_evidence_is_relative_to_the_best_of_each_side() -> None:
    scores = evidence({1: 8.0, 2: 4.0}, {1: 0.3, 3: 0.6}, [1, 2, 3, 4])
    words, meaning = 1 - MEANING_SHARE, MEANING_SHARE
    assert scores == pytest.approx({1: words + meaning / 2, 2: 0.5, 3: meaning, 4: 0})


def test_evidence_of_one_side_alone_is_that_side() -> None:
    assert evidence({1: 8.0, 2: 4.0}, {}, [1, 2]) == pytest.approx({1: 1, 2: 0.5})
    assert evidence({}, {1: 0.2, 2: 0.4}, [1, 2]) == pytest.approx({1: MEANING_SHARE / 2, 2: MEANING_SHARE})
    assert evidence({}, {}, [7]) == {7: 0}


def test_what_is_far_in_meaning_does_not_turn_the_order_round() -> None:
    scores = evidence({}, {1: -0.1, 2: -0.4}, [1, 2])
    assert scores[1] > scores[2]
    assert evidence({1: 0.0, 2: 0.0}, {}, [1, 2]) == {1: 0, 2: 0}


def test_scores_of_two_kinds_weigh_the_same_in_one_measure() -> None:
    opposite = in_one_measure({1: 100.0, 2: 300.0, 3: 200.0}, {1: 0.75, 2: 0.25, 3: 0.5})
    assert opposite == pytest.approx({1: 0, 2: 0, 3: 0})
    assert list(in_one_measure({1: 0.0, 2: 100.0}, {1: 0.5, 2: 0.6})) == [2, 1]
    assert in_one_measure({1: 0.0, 2: 100.0}) == pytest.approx({2: 1, 1: -1})


def test_equal_scores_say_nothing_and_one_candidate_is_itself() -> None:
    assert in_one_measure({3: 0.1, 1: 0.1, 2: 0.1}) == pytest.approx({1: 0, 2: 0, 3: 0})
    assert list(in_one_measure({1: 0.1, 2: 0.1}, {1: 1.0, 2: 2.0})) == [2, 1]
    assert in_one_measure({1: 5.0}, {1: 2.0}) == {1: 0}
