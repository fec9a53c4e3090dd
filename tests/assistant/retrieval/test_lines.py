"""The lines of passages that lie closest to a question: how a text is cut, what is kept, and with what."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from assistant.retrieval.encoder import Encoded, Encoder
from assistant.retrieval.lines import SHORT, LineReader, lines_of

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


OTHER = (
    "Rest is part of the job. It is owed to everybody who has worked for fifteen days in a row. "
    "The canteen has no say in it at all, ever."
)


@pytest.mark.parametrize(
    ("question", "line"),
    [
        ("Up to what sum may a department head sign?", "| Department head | €10,000 |"),
        ("How old may the photos be?", "six months"),
    ],
)
def test_the_line_with_the_answer_is_kept_under_its_head(minilm: Encoder, question: str, line: str) -> None:
    kept, beside = LineReader(minilm).closest(question, [("Signing", PAGE, 0.6), ("Rest", OTHER, 0.2)], most=1)
    assert kept is not None and line in kept.text and len(kept.text) < len(PAGE) / 2
    assert ("| Role | May sign up to |" in kept.text) == ("Department" in line)
    assert beside is None, "a passage that holds none of the closest lines is not read"


def test_the_closest_line_is_found_in_whichever_passage_holds_it(minilm: Encoder) -> None:
    passages = [("Signing", PAGE, 0.5), ("Rest", OTHER, 0.45)]
    signing, rest = LineReader(minilm).closest("After how many days in a row is rest owed?", passages, most=1)
    assert signing is None and rest is not None and "fifteen days" in rest.text and rest.near > 0.4


def test_what_is_short_enough_stays_whole_and_lines_keep_their_order(minilm: Encoder) -> None:
    reader = LineReader(minilm)
    (whole,) = reader.closest("How old may the photos be?", [("Fees", PAGE, 0.5)], most=50)
    assert whole is not None and whole.text == PAGE and whole.near > 0.3
    (kept,) = reader.closest("What may a director and a team leader sign?", [("Fees", PAGE, 0.5)], most=4)
    assert kept is not None
    rows = [part for part in kept.text.split("\n") if part.startswith("|")]
    assert rows == [row for row in PAGE.split("\n") if row in rows] and len(rows) >= 3


def test_a_text_of_headings_alone_is_one_line(minilm: Encoder) -> None:
    heading = "# The opening hours of the canteen"
    first, _ = LineReader(minilm).closest("When does the canteen open?", [("Canteen", heading, 0.5), ("Fees", PAGE, 0.5)], most=1)
    assert first is not None and first.text == heading


class Counting:
    """An encoder that counts the texts that it is given."""

    def __init__(self, encoder: Encoder) -> None:
        self._encoder, self.name, self.max_tokens, self.texts = encoder, encoder.name, encoder.max_tokens, 0

    def encode(self, texts: Sequence[str], *, telling: bool, asked: bool = False) -> Encoded:
        self.texts += len(texts)
        return self._encoder.encode(texts, telling=telling, asked=asked)


def test_a_line_is_encoded_once_while_it_is_kept(minilm: Encoder) -> None:
    encoder = Counting(minilm)
    reader, lines = LineReader(encoder, kept=100), len(lines_of(PAGE))
    first = reader.closest("How old may the photos be?", [("Fees", PAGE, 0.5)], most=2)
    assert encoder.texts == 1 + lines
    again = reader.closest("How old may the photos be?", [("Fees", PAGE, 0.5)], most=2)
    assert encoder.texts == 2 + lines, "the question alone"
    assert again == first
    few = LineReader(encoder, kept=2)
    assert few.closest("How old may the photos be?", [("Fees", PAGE, 0.5)], most=2) == first
    few.closest("How old may the photos be?", [("Fees", PAGE, 0.5)], most=2)
    assert encoder.texts == 4 + lines + lines + lines - 2, "no more are kept than may be"


def test_a_question_without_a_telling_word_finds_something_all_the_same(minilm: Encoder) -> None:
    (kept,) = LineReader(minilm).closest("What is it?", [("Fees", PAGE, 0.5)], most=1)
    assert kept is not None and kept.text.split("\n")[-1] in PAGE
