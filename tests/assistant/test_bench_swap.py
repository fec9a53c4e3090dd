"""The swap benchmark: nothing mixes under a real engine, and the benchmark would see it if it did."""

from __future__ import annotations

from pathlib import Path

import pytest

from assistant.bench_swap import WORDS, is_mixed, measure, parrot_adapter
from assistant.engines.llama_cpp import LlamaCppEngine
from assistant.models import BaseModel
from feedback.errors import EngineError


def test_a_mixed_answer_is_told_from_a_clean_one() -> None:
    own, other = WORDS
    assert not is_mixed(f"{own} {own} {own}", own)
    assert is_mixed(f"{own} {own} {other}", own)
    assert is_mixed(f"{other} {other}", own)
    assert is_mixed("", own)


def test_an_engine_that_mixes_is_caught(speaking_engine, tmp_path: Path) -> None:
    """It speaks its version's name, so no answer holds the word of its version."""
    figures = measure(speaking_engine, dict.fromkeys(WORDS, tmp_path), streams=20, swaps=3)
    assert (figures["streams"], figures["swaps"], figures["mixed"], figures["failed"]) == (20, 3, 20, 0)


def test_an_engine_that_fails_is_counted(speaking_engine, tmp_path: Path) -> None:
    def failing(request, adapter):
        raise EngineError("no")

    speaking_engine.stream = failing
    assert measure(speaking_engine, dict.fromkeys(WORDS, tmp_path), streams=5, swaps=1)["failed"] == 5


@pytest.mark.model
def test_streams_under_swaps_never_mix_two_adapters(base: BaseModel, pytestconfig: pytest.Config) -> None:
    assert pytestconfig.cache is not None
    kept = pytestconfig.cache.mkdir("parrots") / base.sha256[:16]  # training them takes most of the test's time
    adapters = {word: parrot_adapter(base, kept / word, word) for word in WORDS}
    engine = LlamaCppEngine(base, threads=2, slots=8, context=256)
    try:
        figures = measure(engine, adapters, streams=32, swaps=5, max_tokens=10)
    finally:
        engine.close()
    assert (figures["streams"], figures["swaps"], figures["mixed"], figures["failed"]) == (32, 5, 0, 0)
