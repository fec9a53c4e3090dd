"""The curve of what a night brings: its lessons are what corrections would teach, its points are kept and belong together."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from assistant.bench_curve import bench_curve, picture
from assistant.bench_training import lessons
from assistant.config import ChatSettings, DocumentSettings, EngineSettings, NightSettings, Settings
from assistant.home import Home
from assistant.prompt import Prepared
from feedback.errors import RunError
from feedback.records import Message, Passage
from feedback.wording import REFUSAL
from training.questions import QuestionRow

PASSAGE = Passage(number=1, document="a.md", document_version=1, chunk_id=1, title="A", text="It is 7.", score=0.9)
ASKED = Prepared(question="?", messages=(Message(role="user", content="?"),), passages=(PASSAGE,))


def row(name: str, *sources: str) -> QuestionRow:
    return QuestionRow(id=name, fact=name, question="?", answer="7" if sources else "", sources=sources)


def test_a_lesson_is_the_value_with_its_citation_or_the_refusal_and_none_where_the_page_was_not_found() -> None:
    silent = Prepared(question="?", messages=(), passages=(PASSAGE,))
    rows = lessons([(row("given", "a.md"), ASKED), (row("absent"), ASKED), (row("lost", "b.md"), ASKED), (row("no"), silent)])
    assert [(each["id"], each["completion"][0]["content"]) for each in rows] == [("given", "7 [1]"), ("absent", REFUSAL)]


def test_the_picture_is_svg_with_a_mark_and_an_interval_for_every_point() -> None:
    points = [{"examples": count, "gain": gain, "low": gain - 0.1, "high": gain + 0.1} for count, gain in ((0, 0.0), (50, 0.3))]
    drawn = ElementTree.fromstring(picture(points))
    marks = [each for each in drawn if each.tag.endswith("circle")]
    assert len(marks) == 2
    assert float(marks[0].attrib["cy"]) > float(marks[1].attrib["cy"]), "more is higher"
    assert {each.text for each in drawn if each.tag.endswith("text")} >= {"0", "50", "-0.20", "+0.40"}


@pytest.fixture
def curve(tiny_base: Path, tmp_path: Path) -> Callable[..., dict[str, Any]]:
    """The curve of a company with six rooms, whose questions a tiny random model is asked: `curve(points=, ...)`."""
    (tmp_path / "pages").mkdir()
    rows = []
    for number in range(6):
        (tmp_path / "pages" / f"{number}.md").write_text(
            f"# Room {number}\n\nRoom {number} seats {number + 20} people.\n", "utf-8"
        )
        row = {"id": f"r{number}", "fact": f"r{number}", "question": f"How many people does room {number} seat?"}
        rows.append(json.dumps({**row, "answer": f"{number + 20} people", "sources": [f"{number}.md"]}))
    (tmp_path / "practice.jsonl").write_text("\n".join(rows[:4]), "utf-8")
    (tmp_path / "sealed.jsonl").write_text("\n".join(rows[4:]), "utf-8")
    settings = Settings(
        documents=DocumentSettings(encoder="none", reranker="none"),
        engine=EngineSettings(kind="transformers", base_model=str(tiny_base), threads=1),
        chat=ChatSettings(prompt_tokens=800, passages=1, threshold=0, max_tokens=8),
        night=NightSettings(epochs=1.0, seed=7),
    )
    files = {"documents": tmp_path / "pages", "practice": tmp_path / "practice.jsonl", "sealed": tmp_path / "sealed.jsonl"}
    return partial(bench_curve, Home(tmp_path / "home"), settings, work=tmp_path / "work", **files)


def test_points_are_begun_within_the_minutes_kept_and_gone_on_with(curve: Callable[..., dict[str, Any]], tmp_path: Path) -> None:
    told: list[str] = []
    found = curve(points=[4, 3], minutes=0, tell=told.append)
    assert [point["examples"] for point in found["points"]] == [0] and found["not_begun"] == [3, 4]
    assert "minutes are over, before 3, 4 examples" in told[-1]

    found = curve(points=[3])
    assert [point["examples"] for point in found["points"]] == [0, 3] and found["not_begun"] == []
    assert (found["epochs"], found["seed"], found["start"], found["questions"]) == (1.0, 7, "base", 2)
    folder = tmp_path / "work" / "3"
    recipe, result = (json.loads((folder / name).read_text("utf-8")) for name in ("config.json", "result.json"))
    assert (recipe["epochs"], recipe["seed"]) == (1.0, 7)
    assert found["points"][1]["minutes"] == round(result["seconds"] / 60, 1)

    # killed during the examination, after a training that had been gone on with: its minutes are all that it took
    (folder / "examined.json").unlink()
    (folder / "result.json").write_text(json.dumps({**result, "seconds": 1200.0}), "utf-8")
    stamp = (folder / "adapter" / "adapter_model.safetensors").stat().st_mtime_ns
    found = curve(points=[3, 4], minutes=1e-6)
    assert [point["examples"] for point in found["points"]] == [0] and found["not_begun"] == [3, 4]
    assert curve(points=[3])["points"][1]["minutes"] == 20.0
    assert (folder / "adapter" / "adapter_model.safetensors").stat().st_mtime_ns == stamp


def test_a_work_folder_holds_the_points_of_one_curve(curve: Callable[..., dict[str, Any]], tmp_path: Path) -> None:
    curve(points=[])
    with pytest.raises(RunError, match=r"holds a curve of other settings \(limit 60, here 20\): name another folder"):
        curve(points=[], limit=20)
    (tmp_path / "work" / "curve.json").unlink()  # as an earlier release left it
    with pytest.raises(RunError, match="start unknown, here base"):
        curve(points=[])
