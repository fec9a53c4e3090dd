"""The benchmarks of search and answers measure what they say, on documents that are made here."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from assistant.bench_answers import bench_answers
from assistant.bench_retrieval import NAMED, STAGES, bench_retrieval, measures, missing_sources
from assistant.bench_scale import bench_scale
from assistant.cli import app
from assistant.config import ChatSettings, DocumentSettings, Settings
from assistant.home import Home
from assistant.library import Library
from assistant.models import BaseModel
from feedback.errors import AdapterError, DocumentError
from training.questions import QuestionRow

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
    assert found["missing_sources"] == [] and found["unread"] == []
    assert 0 <= found["unchanged_s"] < 10 and found["peak_mb"] > 0


@pytest.mark.parametrize(
    "spoil", [lambda page: page.unlink(), lambda page: page.write_text(""), lambda page: page.write_bytes(b"\x00\x01binary")]
)
def test_a_source_that_is_absent_empty_or_unreadable_counts_as_not_found_and_is_named(
    company: tuple[Path, Path], spoil: Callable[[Path], object]
) -> None:
    folder, questions = company
    spoil(folder / "vpn.md")
    found = bench_retrieval(folder, questions, stages=["fts"], encoder="none", reranker="none", chunk_tokens=140)
    assert found["missing_sources"] == ["vpn.md"]
    assert (found["stages"]["fts"]["questions"], found["stages"]["fts"]["recall@5"]) == (4, 0.75)


def test_questions_none_of_whose_sources_is_a_document_are_one_sentence(company: tuple[Path, Path], tmp_path: Path) -> None:
    _, questions = company
    other = tmp_path / "other"
    other.mkdir()
    (other / "page.md").write_text("# Page\n\nText.\n")
    with pytest.raises(DocumentError, match=r"None of the 3 sources .* 'hotels.md' for one"):
        bench_retrieval(other, questions, stages=["fts"], encoder="none", reranker="none", chunk_tokens=140)


def test_many_missing_sources_are_named_in_part_and_counted(tmp_path: Path) -> None:
    library = Library(tmp_path / "documents.db", encoder="none")
    rows = [QuestionRow(id=str(at), fact="f", question="?", sources=(f"{at:03}.md",)) for at in range(NAMED + 7)]
    found = missing_sources(rows, library)
    assert found == [*(f"{at:03}.md" for at in range(NAMED)), "and 7 more"]
    assert missing_sources(rows[:NAMED], library) == found[:NAMED]


def test_the_peak_is_that_of_a_child_where_a_child_had_more() -> None:
    code = (
        "import subprocess, sys; from assistant.bench_retrieval import peak_mb; own = peak_mb()\n"
        "subprocess.run([sys.executable, '-c', f'b\"x\" * {own + 100} * 2**20'], check=True); print(own, peak_mb())"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True).stdout
    own, peak = map(int, said.split())
    assert own + 90 < peak  # a process's own peak counts that of the one that started it


def test_the_command_prints_a_line_of_missing_sources_and_one_of_the_unchanged_folder(
    company: tuple[Path, Path], tmp_path: Path
) -> None:
    folder, questions = company
    (folder / "vpn.md").unlink()
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "nightschool.toml").write_text("[documents]\nencoder = 'none'\nreranker = 'none'\n")
    command = ["--home", str(tmp_path / "home"), "bench", "retrieval", "--documents", str(folder), "--questions", str(questions)]
    done = CliRunner().invoke(app, [*command, "--stages", "fts"])
    assert done.exit_code == 0, done.output
    lines = done.output.splitlines()
    assert "missing_sources: ['vpn.md']" in lines and any(line.startswith("unchanged_s: 0.") for line in lines)


def test_the_search_is_measured_as_it_grows() -> None:
    sizes = bench_scale([100, 300], queries=3)["sizes"]
    assert list(sizes) == ["100", "300"]
    assert all(figures["query_p50_ms"] > 0 and figures["fts_p50_ms"] > 0 for figures in sizes.values())
    assert sizes["300"]["index_mb"] >= sizes["100"]["index_mb"]


@pytest.fixture
def home(base: BaseModel, tmp_path: Path) -> Home:
    """A fresh home, but for the base model."""
    home = Home(tmp_path / "home")
    home.models.rmdir()
    home.models.symlink_to(base.path.parent)
    return home


@pytest.fixture
def settings() -> Settings:
    return Settings(documents=DocumentSettings(encoder="none"), chat=ChatSettings(max_tokens=16, prompt_tokens=200))


@pytest.mark.model
def test_answers_are_measured_as_served(home: Home, settings: Settings, company: tuple[Path, Path]) -> None:
    folder, questions = company
    found = bench_answers(home, settings, documents=folder, questions=questions)
    assert (found["questions"], found["answerable"], found["adapter"]) == (5, 4, "base")
    assert found["refusal_recall"] == 1.0, "nothing of the canteen stands in the documents: no model is asked"
    assert found["found"] == 1.0 and 0 <= found["accuracy"] <= 1 and found["tok_s"] > 0 and found["missing_sources"] == []
    with pytest.raises(AdapterError, match="v0042"):
        bench_answers(home, settings, documents=folder, questions=questions, adapter="v0042")


@pytest.mark.model
def test_answers_are_sought_in_all_the_documents_and_one_whose_source_is_missing_counts_as_not_found(
    home: Home, settings: Settings, company: tuple[Path, Path], tmp_path: Path
) -> None:
    folder, _ = company
    (folder / "vpn.md").write_text("")
    questions = tmp_path / "elsewhere.jsonl"
    questions.write_text("".join(f"{json.dumps(row | {'collection': 'branch'})}\n" for row in ROWS), encoding="utf-8")
    found = bench_answers(home, settings, documents=folder, questions=questions)
    assert (found["questions"], found["found"], found["missing_sources"]) == (5, 0.75, ["vpn.md"])


@pytest.mark.model
def test_the_answers_of_the_starter_adapter_are_measured_in_a_fresh_home(home: Home, company: tuple[Path, Path]) -> None:
    folder, questions = company
    home.settings.write_text("[documents]\nencoder = 'none'\n[chat]\nmax_tokens = 16\nprompt_tokens = 200\n", encoding="utf-8")
    command = ["--home", str(home.root), "bench", "answers", "--documents", str(folder), "--questions", str(questions)]
    done = CliRunner().invoke(app, [*command, "--adapter", "v0001", "--limit", "1", "--json"])
    assert done.exit_code == 0, (done.output, done.exception)
    assert json.loads(done.stdout)["adapter"] == "v0001"
