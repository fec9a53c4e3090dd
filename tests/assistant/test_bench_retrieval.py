"""The benchmarks of search and answers measure what they say, on documents that are made here."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from assistant.bench_answers import bench_answers
from assistant.bench_retrieval import STAGES, bench_retrieval, measures
from assistant.bench_scale import bench_scale
from assistant.config import ChatSettings, DocumentSettings, Settings
from assistant.home import Home
from assistant.models import BaseModel
from feedback.errors import AdapterError, DocumentError

PAGES = {
    "hotels.md": "# Hotels\n\nA room in London may cost up to 140 euros a night.\n",
    "leave.md": "# Annual leave\n\nEverybody has 27 days of annual leave a year.\n",
    "vpn.md": "# VPN\n\nThe client closes idle connections after 8 hours.\n",
}
ROWS = [
    {"id": "a", "question": "What may a room in London cost?", "answer": "140 euros", "sources": ["hotels.md"]},
    {"id": "b", "question": "How many days of annual leave are there?", "answer": "27 days", "sources": ["leave.md"]},
    {"id": "c", "question": "When does the client close connections?", "sources": ["vpn.md"]},
    {
        "id": "d",
        "question": "And in London?",
        "history": [{"role": "user", "content": "What may a room cost?"}, {"role": "assistant", "content": "It depends."}],
        "answer": "140 euros",
        "sources": ["hotels.md"],
    },
    {"id": "e", "question": "Who painted the ceiling of the canteen?", "sources": []},
]


@pytest.fixture
def company(tmp_path: Path) -> tuple[Path, Path]:
    folder = tmp_path / "pages"
    folder.mkdir()
    for name, text in PAGES.items():
        (folder / name).write_text(text, encoding="utf-8")
    questions = tmp_path / "questions.jsonl"
    questions.write_text("".join(f"{json.dumps(row)}\n" for row in ROWS), encoding="utf-8")
    return folder, questions


def test_measures_are_those_of_a_ranking_worked_out_by_hand() -> None:
    found = measures(["x", "a", "y", "z", "b", "c"], {"a", "b", "c"})
    assert (found["hit@1"], found["hit@3"], found["recall@5"], found["recall@10"]) == (0.0, 1.0, pytest.approx(2 / 3), 1.0)
    gained, ideal = 0.63093 + 0.38685, 1 + 0.63093 + 0.5
    assert found["ndcg@5"] == pytest.approx(gained / ideal, abs=1e-4)
    assert set(measures(["a"], {"a"}).values()) == {1.0} and set(measures([], {"a"}).values()) == {0.0}


def test_every_stage_is_measured_over_the_answerable_questions(company: tuple[Path, Path]) -> None:
    folder, questions = company
    found = bench_retrieval(folder, questions, stages=STAGES, encoder="minilm", reranker="late-interaction", chunk_tokens=140)
    assert list(found["stages"]) == ["fts", "dense", "hybrid", "rerank"]
    for figures in found["stages"].values():
        assert (figures["questions"], figures["recall@5"]) == (4, 1.0)
        assert 0 < figures["query_p50_ms"] <= figures["query_p99_ms"]
    assert found["stages"]["rerank"]["hit@1"] == 1.0, "the follow-up too: its history says what is asked"
    assert (found["documents"], found["chunks"]) == (3, 3) and found["index_mb"] > 0 and found["embed_p50_ms"] > 0


def test_a_source_that_is_no_document_is_one_sentence(company: tuple[Path, Path]) -> None:
    folder, questions = company
    (folder / "vpn.md").unlink()
    with pytest.raises(DocumentError, match=r"1 sources .* 'vpn.md' for one"):
        bench_retrieval(folder, questions, stages=["fts"], encoder="none", reranker="none", chunk_tokens=140)


def test_the_search_is_measured_as_it_grows() -> None:
    sizes = bench_scale([100, 300], queries=3)["sizes"]
    assert list(sizes) == ["100", "300"]
    assert all(figures["query_p50_ms"] > 0 and figures["fts_p50_ms"] > 0 for figures in sizes.values())
    assert sizes["300"]["index_mb"] >= sizes["100"]["index_mb"]


@pytest.mark.model
def test_answers_are_measured_as_served(base: BaseModel, company: tuple[Path, Path], tmp_path: Path) -> None:
    folder, questions = company
    home = Home(tmp_path / "home")
    home.models.rmdir()
    home.models.symlink_to(base.path.parent)
    settings = Settings(documents=DocumentSettings(encoder="none"), chat=ChatSettings(max_tokens=16, prompt_tokens=200))
    found = bench_answers(home, settings, documents=folder, questions=questions)
    assert (found["questions"], found["answerable"], found["adapter"]) == (5, 4, "base")
    assert found["refusal_recall"] == 1.0, "nothing of the canteen stands in the documents: no model is asked"
    assert found["found"] == 1.0 and 0 <= found["accuracy"] <= 1 and found["tok_s"] > 0
    with pytest.raises(AdapterError, match="v0042"):
        bench_answers(home, settings, documents=folder, questions=questions, adapter="v0042")
