"""The second look: late interaction by hand-computed values, and a cross-encoder that is a real, tiny model."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from assistant.retrieval.reranker import BATCH, CrossEncoder, late_interaction, open_reranker
from feedback.errors import ModelError


def packed(*rows: list[int]) -> bytes:
    return np.packbits(np.array(rows, np.uint8), axis=1).tobytes()


def test_late_interaction_is_the_mean_of_the_nearest_tokens() -> None:
    question = np.eye(4, dtype=np.float32)[:2]  # two tokens
    both, one, none = packed([1, 0, 0, 0], [0, 1, 0, 0]), packed([1, 0, 1, 1]), packed([0, 0, 1, 1])
    scores = late_interaction(question, {7: none, 8: one, 9: both})
    assert list(scores) == [9, 8, 7]
    assert scores == pytest.approx({9: 0.5, 8: 0.0, 7: -0.5})  # a sign is 1 of the length 2 that four of them have


def test_a_width_that_fills_no_byte_is_cut_off() -> None:
    question = np.eye(3, dtype=np.float32)[:1]
    assert late_interaction(question, {1: packed([1, 0, 0])}) == pytest.approx({1: 1 / np.sqrt(3)})


def test_a_passage_without_telling_tokens_is_as_near_as_chance() -> None:
    question = np.eye(4, dtype=np.float32)[:1]
    scores = late_interaction(question, {1: b"", 2: packed([1, 1, 1, 1]), 3: packed([0, 1, 1, 1])})
    assert list(scores) == [2, 1, 3]
    assert scores[1] == 0
    assert late_interaction(question, {}) == {}


@pytest.mark.parametrize("name", ["late-interaction", "none"])
def test_what_needs_no_second_model_opens_none(name: str) -> None:
    assert open_reranker(name) is None


@pytest.mark.parametrize("name", ["", "cross-encoder:", "bge-reranker", "cross-encoder"])
def test_a_name_that_says_no_kind_is_one_sentence(name: str) -> None:
    with pytest.raises(ModelError, match=rf"documents\.reranker = '{name}' names no reranker") as caught:
        open_reranker(name)
    assert "\n" not in str(caught.value)


def test_a_cross_encoder_scores_each_passage_alike_alone_and_in_company(tiny_bert: Callable[..., Path]) -> None:
    reranker = open_reranker(f"cross-encoder:{tiny_bert(labels=1, positions=256, model_max=256)}")
    assert isinstance(reranker, CrossEncoder)
    passages = [f"{'hotel room ' * (number % 5)}price {'pump' if number % 2 else 'vpn'}" for number in range(BATCH + 3)]
    together = reranker.score("what is the hotel price ?", passages)
    assert len(together) == len(passages)
    for at in (0, 1, BATCH, BATCH + 2):
        assert reranker.score("what is the hotel price ?", [passages[at]]) == pytest.approx([together[at]], abs=1e-4)
    assert len({round(score, 4) for score in together}) > 4
    assert reranker.score("pump ?", passages[:1]) != pytest.approx(together[:1], abs=1e-4)
    assert reranker.score("hotel", []) == []


@pytest.mark.parametrize("positions", [24, 256])
def test_a_passage_longer_than_the_model_reads_is_cut(tiny_bert: Callable[..., Path], positions: int) -> None:
    reranker = open_reranker(f"cross-encoder:{tiny_bert(labels=1, positions=positions, model_max=positions)}")
    assert reranker is not None
    long, longer, short = reranker.score("hotel", ["room " * 400, "room " * 500, "room"])
    assert long == pytest.approx(longer, abs=1e-4)
    assert long != pytest.approx(short, abs=1e-4)
    (score,) = reranker.score("hotel room " * 300, ["price"])
    assert np.isfinite(score)


def test_a_classifier_with_several_scores_is_refused_in_a_sentence(tiny_bert: Callable[..., Path]) -> None:
    reranker = open_reranker(f"cross-encoder:{tiny_bert(labels=2)}")
    assert reranker is not None
    for _ in range(2):
        with pytest.raises(ModelError, match="gives 2 scores a passage: name one that gives one"):
            reranker.score("hotel", ["room"])


def test_a_folder_without_a_model_is_one_sentence(tmp_path: Path) -> None:
    reranker = open_reranker(f"cross-encoder:{tmp_path}")
    assert reranker is not None
    assert reranker.name == f"cross-encoder:{tmp_path}"
    with pytest.raises(ModelError, match=r"cannot be loaded .* set documents\.reranker") as caught:
        reranker.score("hotel", ["room"])
    assert "\n" not in str(caught.value)
