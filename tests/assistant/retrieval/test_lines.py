"""The lines of passages that lie closest to a question: how a text is cut, what is kept, and with what."""

from __future__ import annotations

import pytest

from assistant.retrieval.encoder import Encoder
from assistant.retrieval.lines import SHORT, closest_lines, lines_of

PAGE = """A visitor signs the book at the gate before anything else, whoever has invited him. Lost it? Ask at the desk.
## Fees
You need:
- a passport which is valid for half a year
- two photos, which may not be older than six months

| Role | May sign up to |
|---|---|
| Team leader | €1,000 |
| Department head | €10,000 |
| Director | €50,000 |
After the table comes a sentence that is long enough to be read alone."""


def cut(text: str) -> dict[str, list[str]]:
    return {text[line.start : line.end]: [text[start:end] for start, end in line.heads] for line in lines_of(text)}


def test_a_line_is_a_sentence_an_item_or_a_row_with_what_it_is_about() -> None:
    found = cut(PAGE)
    assert found["- a passport which is valid for half a year"] == ["## Fees", "You need:"]
    assert found["| Director | €50,000 |"] == ["## Fees", "| Role | May sign up to |"]
    assert found["After the table comes a sentence that is long enough to be read alone."] == ["## Fees"]
    assert not any(line.startswith(("##", "|---")) for line in found)


def test_a_short_sentence_is_not_read_alone() -> None:
    first = "A visitor signs the book at the gate before anything else, whoever has invited him."
    assert next(iter(cut(PAGE))) == f"{first} Lost it? Ask at the desk."
    assert list(cut("Rest is part of the job. It is owed to everybody who has worked for fifteen days in a row.")) == [
        "Rest is part of the job. It is owed to everybody who has worked for fifteen days in a row."
    ]
    assert all(len(line) >= SHORT for line in cut("One two three four. " * 40))


def test_nothing_of_a_text_is_lost_but_its_rules() -> None:
    words = [word for word in PAGE.split() if word not in ("|", "|---|---|")]
    kept = " ".join(part for line, heads in cut(PAGE).items() for part in (*heads, line)).split()
    assert set(words) <= set(kept)


@pytest.mark.parametrize(
    ("question", "line"),
    [
        ("Up to what sum may a department head sign?", "| Department head | €10,000 |"),
        ("How old may the photos be?", "six months"),
    ],
)
def test_the_line_with_the_answer_is_kept_under_its_head(minilm: Encoder, question: str, line: str) -> None:
    other = (
        "Rest is part of the job. It is owed to everybody who has worked for fifteen days in a row. "
        "The canteen has no say in it at all, ever."
    )
    (kept, near), (beside, far) = closest_lines(question, [("Signing", PAGE, 0.6), ("Rest", other, 0.2)], minilm, most=2)
    assert near > far  # how close the best line of each passage comes
    assert line in kept and len(kept) < len(PAGE) / 2
    assert ("| Role | May sign up to |" in kept) == ("Department" in line)
    assert beside and beside in other  # each passage keeps a line, so that its number stands for something


def test_what_is_short_enough_stays_whole_and_lines_keep_their_order(minilm: Encoder) -> None:
    ((whole, near),) = closest_lines("How old may the photos be?", [("Fees", PAGE, 0.5)], minilm, most=50)
    assert whole == PAGE and near > 0.3
    ((kept, _),) = closest_lines("What may a director and a team leader sign?", [("Fees", PAGE, 0.5)], minilm, most=4)
    rows = [part for part in kept.split("\n") if part.startswith("|")]
    assert rows == [row for row in PAGE.split("\n") if row in rows] and len(rows) >= 3


def test_a_text_without_any_line_stays_as_it_is(minilm: Encoder) -> None:
    heading = "# Only a heading"
    assert closest_lines("What?", [("Page", heading, 0.5), ("Fees", PAGE, 0.5)], minilm, most=1)[0][0] == heading
