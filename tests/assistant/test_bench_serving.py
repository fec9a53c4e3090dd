"""The serving benchmark measures both paths on the sample company."""

from __future__ import annotations

import pytest

from assistant.bench_serving import bench_serving
from assistant.models import BaseModel
from feedback.errors import EngineError

pytestmark = pytest.mark.model


def test_both_paths_are_measured(base: BaseModel) -> None:
    figures = bench_serving(base=base, streams=(2,), blocks=1, block=2)["streams"]["2"]
    assert figures["ours_tok_s"] > 0
    assert figures["bare_tok_s"] > 0
    assert figures["ratio"] == pytest.approx(figures["ours_tok_s"] / figures["bare_tok_s"], rel=0.05)
    assert figures["ttft_ms"] > 0


def test_too_few_questions_are_said(base: BaseModel) -> None:
    with pytest.raises(EngineError, match=r"needs 2000 questions that reach the model, and has \d+"):
        bench_serving(base=base, streams=(1,), blocks=199, block=10)
