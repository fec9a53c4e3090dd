"""Answers against their passages: citations that hold, sentences that are supported, and what is refused after the model."""

from __future__ import annotations

import random
import re

import pytest

from assistant.grounding import CitationFilter, check, closest_pages, sentences, settle
from feedback.records import Passage
from feedback.wording import CITATION, REFUSAL

QUESTION = "How much may a dinner with customers cost?"
RANGE_OR_FOOTNOTE = re.compile(r"\[(?:\^\d{1,4}|[1-9]\d?[-\u2013]\^?\d{1,2})\]")


def passage(number: int, text: str, *, document: str = "", title: str = "Page", score: float = 0.4) -> Passage:
    return Passage(
        number=number,
        document=document or f"{number}.md",
        document_version=1,
        chunk_id=number,
        title=title,
        text=text,
        score=score,
    )


PASSAGES = (
    passage(1, "For a dinner with customers the ceiling is €68 a head; the host books it. Parking costs €12."),
    passage(2, "Everybody has 27 days of annual leave a year. The Payroll Lead answers questions."),
)


def streamed(text: str, count: int, sizes: list[int]) -> list[str]:
    citations = CitationFilter(count)
    pieces, at = [], 0
    for size in sizes:
        pieces.append(citations.feed(text[at : at + size]))
        at += size
    return [*pieces, citations.feed(text[at:]), citations.flush()]


@pytest.mark.parametrize(
    ("text", "filtered"),
    [
        ("€68 [1] a head [2].", "€68 [1] a head [2]."),
        ("€68 [3].", "€68."),
        ("€68 [0] [1] [12]", "€68 [1]"),
        ("€68 [1, 7].", "€68 [1]."),
        ("€68 [7, 9] a head", "€68 a head"),
        ("€68 [2,1 ; 7]", "€68 [2][1]"),
        ("€68[3]", "€68"),
        ("in [2019] and [1] and [x] and [", "in [2019] and [1] and [x] and ["),
        ("see [1", "see [1"),
        ("a  line \n[2] and [3]\n", "a  line \n[2] and\n"),
        ("[guide](page.md) [4]", "[guide](page.md)"),
        ("€68 [1-7].", "€68 [1][2]."),
        ("€68 [1\u20133] a head", "€68 [1][2] a head"),
        ("€68 [ 2 \u2014 1 ]", "€68 [1][2]"),
        ("€68 [3-9].", "€68."),
        ("€68 [2, 4-7; 1-2]", "€68 [2][1][2]"),
        ("€68 [^1] a head [^3].", "€68 [1] a head."),
        ("€68 [^1-^3, ^120]", "€68 [1][2]"),
        ("grade [0-9] or [^0-9]", "grade [0-9] or [^0-9]"),  # sets of characters
        ("at [100] or [1-100] of [1990-1995]", "at [100] or [1-100] of [1990-1995]"),  # values: a prompt has no such passage
        ("see [1-", "see [1-"),
        ("see [^", "see [^"),
    ],
)
def test_citations_of_passages_that_were_not_given_go_with_the_space_before_them(text: str, filtered: str) -> None:
    assert "".join(streamed(text, 2, [])) == filtered
    assert "".join(streamed(text, 2, [1] * len(text))) == filtered


def test_a_stream_cut_anywhere_shows_the_same_text_without_a_false_citation() -> None:
    chance = random.Random(3)
    for _ in range(6000):
        text = "".join(chance.choice("[[[]]]0123,;-\u2013^ ab\n") for _ in range(chance.randrange(30)))
        whole = "".join(streamed(text, 2, []))
        assert "".join(streamed(text, 2, [chance.randrange(5) for _ in range(12)])) == whole
        assert all(number in ("1", "2", "01", "02") for number in CITATION.findall(whole)), (text, whole)
        assert not RANGE_OR_FOOTNOTE.search(whole), (text, whole)


def test_only_what_may_become_a_citation_is_held_back() -> None:
    citations = CitationFilter(1)
    assert citations.feed("The ceiling is") == "The ceiling is"
    assert citations.feed(" €68 [") == " €68"
    assert citations.feed("1") == ""
    assert citations.feed("]") == " [1]"
    assert citations.feed(" [see") == " [see"
    assert citations.feed(" [1-") == "" and citations.feed("x]") == " [1-x]"
    assert citations.feed(" [^a") == " [^a"
    assert citations.feed(" [100") == " [100"


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("One. Two! Three?", ["One.", "Two!", "Three?"]),
        ("It costs 7.50 euros, e.g. for lunch. Ask Mr. Smith.", ["It costs 7.50 euros, e.g. for lunch.", "Ask Mr. Smith."]),
        (
            "Closed at 4 p.m. on Friday. Open at 8 a.m. Come early.",
            ["Closed at 4 p.m. on Friday.", "Open at 8 a.m.", "Come early."],
        ),
        ("Is it allowed? No. See no. 5, p. 12.", ["Is it allowed?", "No.", "See no. 5, p. 12."]),
        ("First. [1] Second. [1][2]", ["First. [1]", "Second. [1][2]"]),
        ("First [1]. [2] is next.", ["First [1].", "[2] is next."]),
        ("Three things:\n- one thing\n2. Another. More\n", ["Three things:", "- one thing", "2. Another.", "More"]),
        ("| Item | Fee |\n| --- | --- |\n| Lunch. Big | €12 |", ["| Item | Fee |", "| Lunch. Big | €12 |"]),
        ('He said "yes." Then he left.', ['He said "yes."', "Then he left."]),
        ("", []),
        (" \n\n ... \n", []),
    ],
)
def test_sentences_end_where_a_reader_ends_them(text: str, parts: list[str]) -> None:
    assert [text[start:end] for start, end in sentences(text)] == parts


def test_each_sentence_is_checked_against_what_it_cites() -> None:
    text = "A dinner may cost €68 a head [1]. You have 27 days of leave [1]. Parking costs €90 [1]. It is the Payroll Lead."
    found = check(text, PASSAGES, QUESTION)
    assert [(each.cited, each.supported, each.number) for each in found] == [
        ((1,), True, 1),
        ((1,), False, 2),  # it stands in the other passage
        ((1,), False, None),
        ((), True, 2),  # it cites none: any passage may hold it
    ]
    assert [each.support > 0 for each in found] == [True, False, False, True]
    assert text[found[1].start : found[1].end] == "You have 27 days of leave [1]."


def test_a_sentence_may_draw_on_all_the_passages_that_it_cites_but_not_on_those_that_it_does_not() -> None:
    both = "A dinner costs €68 and there are 27 days of leave"
    assert [each.supported for each in check(f"{both} [1][2].", PASSAGES, "")] == [True]
    assert [each.supported for each in check(f"{both}.", PASSAGES, "")] == [False]


def test_the_refusal_is_supported_and_what_only_introduces_is_not_checked() -> None:
    (refusal,) = check(REFUSAL, PASSAGES, QUESTION)
    assert (refusal.supported, refusal.support, refusal.number) == (True, 1.0, None)
    assert [each.supported for each in check("The answer to the question is:\n€68 [1]", PASSAGES, QUESTION)] == [True]
    assert [each.supported for each in check("The answer to your question is: The ceiling is €68.", PASSAGES, "")] == [True]


@pytest.mark.parametrize(
    "text",
    [
        "€75 [1]",
        "A dinner may cost 75 dollars a head.",
        "The answer is: 9. The answer is: 9.",
        "Ask the Treasurer of the Board [2].",
        "I couldn't find this anywhere.",
    ],
)
def test_an_answer_that_no_passage_holds_is_refused_and_what_was_written_is_kept(text: str) -> None:
    settled = settle(f" {text}\n", PASSAGES, QUESTION, finish_reason="stop")
    assert (settled.text, settled.written, settled.refused) == (REFUSAL, text, True)
    assert [each.supported for each in settled.checks] == [True]


@pytest.mark.parametrize(
    "text",
    [
        "€68 [1]",
        "€68 [2]",  # the wrong passage: marked, not refused
        "The customer pays nothing and we pay at most €68, which is generous, said the Board in its last letter.",
        "As far as the author of this can tell it would be the Payroll Lead",
        "It may cost €75 a head. The host books the dinner [1].",
    ],
)
def test_an_answer_of_which_a_passage_holds_a_sentence_or_a_value_is_not_refused(text: str) -> None:
    settled = settle(text, PASSAGES, QUESTION, finish_reason="stop")
    assert (settled.text, settled.written, settled.refused) == (text, None, False)


def test_an_answer_that_is_not_held_by_passages_that_fit_the_question_is_marked_instead() -> None:
    fitting = (passage(1, PASSAGES[0].text, score=0.8),)
    settled = settle("€75 [1]", fitting, QUESTION, finish_reason="stop")
    assert (settled.text, settled.refused) == ("€75 [1]", False)
    assert [each.supported for each in settled.checks] == [False]


def test_a_value_that_the_question_named_itself_is_no_answer_unless_it_could_be_chosen() -> None:
    pages = (passage(1, "Flights with Aerolux are booked in Pennant. Trains are booked in Harbour."),)
    assert settle("Pennant [1]", pages, "Which discount does Pennant have?", finish_reason="stop").refused
    assert not settle("Pennant [1]", pages, "Are flights booked in Pennant or in Harbour?", finish_reason="stop").refused


def test_a_refusal_with_words_around_it_is_the_refusal_unless_a_passage_holds_some_of_them() -> None:
    assert settle(f"The answer is: [1]. {REFUSAL} [2]", PASSAGES, QUESTION, finish_reason="stop").text == REFUSAL
    half = f"Parking costs €12 [1]. {REFUSAL}"
    assert settle(half, PASSAGES, QUESTION, finish_reason="stop").text == half


@pytest.mark.parametrize("finish_reason", ["stopped", "failed"])
def test_an_answer_without_its_end_is_filtered_and_checked_but_never_replaced(finish_reason: str) -> None:
    settled = settle("€75 [9] a", PASSAGES, QUESTION, finish_reason=finish_reason)  # type: ignore[arg-type]
    assert (settled.text, settled.written, settled.refused) == ("€75 a", "€75 [9] a", False)
    assert [each.supported for each in settled.checks] == [False]


def test_an_answer_that_claims_nothing_or_has_no_passage_is_refused() -> None:
    fitting = (passage(1, PASSAGES[0].text, score=0.8),)
    for text in ("", "[1]", "The answer is: [1].", " [9] "):
        assert settle(text, fitting, QUESTION, finish_reason="stop").text == REFUSAL
    assert settle("It is €75 [1].", (), QUESTION, finish_reason="stop").refused


def test_anything_that_a_model_may_write_can_be_settled() -> None:
    chance = random.Random(5)
    bits = [
        "[",
        "1",
        "]",
        ". ",
        "\n",
        "€",
        "68",
        "| ",
        "- ",
        "The answer is: ",
        "\u200b",
        "\ud83d",
        "é",
        "Mr. ",
        "?",
        " " * 40,
        "[7, ",
    ]
    for _ in range(300):
        text = "".join(chance.choice(bits) for _ in range(chance.randrange(40)))
        settled = settle(text, PASSAGES, QUESTION, finish_reason="stop")
        assert all(settled.text[each.start : each.end].strip() for each in settled.checks)


def test_the_closest_pages_are_distinct_documents_in_the_order_of_the_passages() -> None:
    found = [
        passage(1, "x", document="a.md", title="Travel > Dinner"),
        passage(2, "x", document="a.md", title="Travel > Lunch"),
        passage(3, "x", document="b.md", title="Gifts"),
        passage(4, "x", document="c.md"),
        passage(5, "x", document="d.md"),
    ]
    assert closest_pages(found) == (("a.md", "Travel"), ("b.md", "Gifts"), ("c.md", "Page"))
    assert closest_pages(found, limit=1) == (("a.md", "Travel"),)
    assert closest_pages(()) == ()
