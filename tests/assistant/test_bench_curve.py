"""The curve of what a night brings: its lessons are what corrections would teach, and its picture shows every point."""

from __future__ import annotations

from xml.etree import ElementTree

from assistant.bench_curve import picture
from assistant.bench_training import lessons
from assistant.prompt import Prepared
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
    assert {each.text for each in drawn if each.tag.endswith("text")} >= {"0", "50"}
