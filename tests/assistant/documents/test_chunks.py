"""Chunks: where they are cut, what their titles say, and that nothing of a document is lost on the way."""

from __future__ import annotations

import itertools
import random
import re
import time
from collections.abc import Sequence
from typing import Any

import pytest

from assistant.documents.chunks import CHARS_A_TOKEN, MOST_CHARS_A_TOKEN, SMALL_SHARE, Chunk, Splitter, page_title
from assistant.retrieval.encoder import load_tokenizer

TOKENS = 60
_WORD = re.compile(r"\w+")


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return load_tokenizer("minilm")


@pytest.fixture(scope="module")
def split(tokenizer: Any) -> Splitter:
    return Splitter(TOKENS, tokenizer, "minilm")


def words_from(begin: int, count: int) -> str:
    return " ".join(f"word{number}" for number in range(begin, begin + count))


def a_document(seed: int) -> tuple[str, list[int]]:
    """Return a document of odd blocks, in which every word occurs once, and where its pages begin."""
    chance = random.Random(seed)
    number = itertools.count(1, 200)

    def block() -> str:
        at, kind = next(number), chance.randrange(9)
        lines = [words_from(at + 8 * line, chance.randint(1, 8)) for line in range(chance.randint(1, 12))]
        if kind <= 2:
            return f"{'#' * chance.randint(1, 6)} {words_from(at, chance.randint(1, 4))}"
        if kind == 3:
            return "| a | b |\n| --- | --- |\n" + "\n".join(f"| {line} | x |" for line in lines)
        if kind == 4:
            return "\n".join(f"{'  ' * chance.randint(0, 3)}- {line}" for line in lines)
        if kind == 5:
            return "```sh\n" + "\n".join(f"# {line}" for line in lines) + "\n```"
        if kind == 6:
            return words_from(at, chance.randint(1, 190))
        return "\n".join(lines)

    pages, text = [], ""
    for _ in range(chance.randint(1, 4)):
        pages.append(len(text))
        text += "\n\n".join(block() for _ in range(chance.randint(1, 9))) + "\n\n"
    return text, pages if len(pages) > 1 else []


ODD = {
    "nothing": "",
    "blank": " \n\t\n",
    "one word": "word",
    "only a heading": "# Title",
    "headings alone": "# A\n\n## B\n\n### C\n\n## D\n",
    "no headings": words_from(0, 30),
    "one giant paragraph": words_from(0, 900),
    "an open fence": "# T\n\n```\n# one\ntext\n# two",
    "a fence of tildes in a list": "# T\n\n- item\n\n  ~~~\n  # one\n  ~~~\n\n## Last\n\ntext",
    "a table without an end": "| a | b |\n| - | - |\n" + "\n".join(f"| cell{n} | value{n} |" for n in range(200)),
    "nested lists": "\n".join(f"{'  ' * (n % 5)}* item{n} of the list" for n in range(80)),
    "CJK": "# 手册\n\n" + "".join(f"第{n}条规定员工可以休假。" for n in range(60)),
    "emoji": "# 😀\n\n" + " ".join(f"\U0001f469\u200d\U0001f4bb n{n}" for n in range(80)),
    "right to left": "# דף\n\n" + " ".join(f"מילה{n}" for n in range(80)),
    "odd blanks": "\u3000# not a heading\n\n\xa0text\xa0\n\n#\n\n# \n\n##no heading\n\n####### seven\n",
    "many empty lines": "a\n" + "\n" * 500 + "b",
    "rules and quotes": "> # quoted\n>\n> text\n\n---\n\n***\n\nafter",
}


def check(text: str, chunks: Sequence[Chunk], *, size: Any, pages: Sequence[int] = ()) -> None:
    for chunk in chunks:
        assert text[chunk.start : chunk.end] == chunk.text == chunk.text.strip() != ""
        assert size(chunk.text) <= TOKENS
        assert chunk.title
    for one, two in itertools.pairwise(chunks):
        assert one.end <= two.start
    ends = [*pages[1:], len(text)]
    for chunk in chunks:
        assert (chunk.page is None) == (not pages)
        if chunk.page is not None:
            assert pages[chunk.page - 1] <= chunk.start < chunk.end <= ends[chunk.page - 1]
    kept = set(_WORD.findall("\n".join(f"{chunk.title}\n{chunk.text}" for chunk in chunks)))
    assert set(_WORD.findall(text)) <= kept


@pytest.mark.parametrize("odd", ODD)
def test_every_chunk_is_a_piece_of_its_document_and_no_word_is_lost(split: Splitter, tokenizer: Any, odd: str) -> None:
    text = ODD[odd]
    check(text, split(text, fallback_title="page"), size=lambda piece: len(tokenizer.encode(piece, add_special_tokens=False)))


@pytest.mark.parametrize("seed", range(40))
def test_whatever_a_document_is_made_of_its_chunks_fit_and_hold_all_of_it(split: Splitter, tokenizer: Any, seed: int) -> None:
    text, pages = a_document(seed)

    def size(piece: str) -> int:
        return len(tokenizer.encode(piece, add_special_tokens=False))

    chunks = split(text, fallback_title="page", pages=pages)
    check(text, chunks, size=size, pages=pages)
    for one, two in itertools.pairwise(chunks):  # a small one stands beside a neighbour only where both do not fit in one
        if one.page == two.page and min(size(one.text), size(two.text)) < SMALL_SHARE * TOKENS:
            assert size(text[one.start : two.end]) > TOKENS


def test_a_document_is_cut_by_characters_where_there_is_no_tokenizer() -> None:
    text, pages = a_document(3)
    by_characters = Splitter(TOKENS)
    check(
        text, by_characters(text, fallback_title="page", pages=pages), size=lambda piece: len(piece) / CHARS_A_TOKEN, pages=pages
    )


@pytest.mark.parametrize("unbroken", ["x" * 50_000, "\U0001f600" * 5_000, "data " + "Zm9v" * 9_000])
def test_what_a_tokenizer_takes_for_one_token_is_still_cut(split: Splitter, unbroken: str) -> None:
    chunks = split(f"# Picture\n\n{unbroken}\n", fallback_title="page")
    assert max(len(chunk.text) for chunk in chunks) <= TOKENS * MOST_CHARS_A_TOKEN
    assert "".join(chunk.text for chunk in chunks).replace(" ", "") == unbroken.replace(" ", "")


def test_small_neighbours_are_one_chunk_with_the_headings_between_them(split: Splitter) -> None:
    text = "# Travel\n\n## Trains\n\nSecond class.\n\n## Planes\n\nEconomy.\n"
    (chunk,) = split(text, fallback_title="page")
    assert chunk.title == "Travel > Trains"
    assert chunk.text == "Second class.\n\n## Planes\n\nEconomy."


def test_a_title_is_the_path_of_headings_at_the_start_of_a_chunk(split: Splitter) -> None:
    long = words_from(0, 20)
    text = (
        f"# Doc\n\n{long}\n\n## A\n\n{long}\n\n### A1\n\n{long}\n\n## B ##\n\n{long}\n\n#### B deep\n\n{long}\n\n# C#\n\n{long}"
    )
    assert [chunk.title for chunk in split(text, fallback_title="page")] == [
        *("Doc", "Doc > A", "Doc > A > A1", "Doc > B", "Doc > B > B deep", "Doc > C#")
    ]


def test_a_document_without_headings_has_the_title_of_its_file(split: Splitter) -> None:
    text = "##none\n\n    # indented code\n\n```\n# in a fence\n```\n\ntext"
    assert [chunk.title for chunk in split(text, fallback_title="prices")] == ["prices"]
    assert page_title(text, "prices") == "prices"
    assert page_title(f"before\n\n## First heading\n\n{text}", "prices") == "First heading"


def test_a_line_in_a_fence_is_no_heading_and_the_fence_is_kept_whole_in_its_pieces(split: Splitter) -> None:
    code = "\n".join(f"# step{number}: run the command of this step and wait" for number in range(40))
    chunks = split(f"# Setup\n\n```sh\n{code}\n```\n\n## After\n\n{words_from(0, 20)}", fallback_title="page")
    assert len(chunks) > 3
    assert {chunk.title for chunk in chunks} == {"Setup", "Setup > After"}
    assert [int(number) for number in re.findall(r"# step(\d+)", "\n".join(chunk.text for chunk in chunks))] == list(range(40))


def test_a_heading_stands_in_the_text_only_where_no_title_below_it_names_it(split: Splitter) -> None:
    long = words_from(0, 20)
    (chunk,) = split(f"# Doc\n\n## Phone 4120\n\n## Fax 4121\n\n{long}\n", fallback_title="page")
    assert (chunk.title, chunk.text) == ("Doc > Fax 4121", f"## Phone 4120\n\n## Fax 4121\n\n{long}")
    assert split("# Doc\n\n## A\n\ntext", fallback_title="page")[0].text == "text"


def test_a_heading_whose_text_is_on_the_next_page_is_no_chunk(split: Splitter) -> None:
    text = f"# Doc\n\n{words_from(0, 28)}\n\n## Fees\n\n"
    whole = f"{text}Ten euros.\n"
    chunks = split(whole, fallback_title="page", pages=[0, len(text)])
    assert [(chunk.title, chunk.page, chunk.text) for chunk in chunks] == [
        ("Doc", 1, words_from(0, 28)),
        ("Doc > Fees", 2, "Ten euros."),
    ]


def test_an_empty_page_counts(split: Splitter) -> None:
    chunks = split("one\n\n\n\nthree", fallback_title="page", pages=[0, 5, 7])
    assert [(chunk.text, chunk.page) for chunk in chunks] == [("one", 1), ("three", 3)]


@pytest.mark.parametrize("line", ["# " + " " * 60_000, "# a" + " #" * 60_000, "# " + "long " * 2_000])
def test_a_line_that_begins_like_a_heading_takes_no_time_and_is_no_title_without_end(line: str) -> None:
    started = time.monotonic()
    assert len(page_title(f"{line}\n\ntext\n", "page")) <= 200
    assert time.monotonic() - started < 2


def test_the_time_of_a_long_line_grows_with_its_length_not_with_its_square(split: Splitter) -> None:
    assert seconds(split, "a." * 10_000) < 8 * seconds(split, "a." * 2_500)


def seconds(split: Splitter, text: str) -> float:
    started = time.process_time()
    assert split(text, fallback_title="page")
    return time.process_time() - started


def test_the_name_of_a_cut_changes_with_what_it_depends_on(tokenizer: Any) -> None:
    names = {Splitter(60).name, Splitter(61).name, Splitter(60, tokenizer, "minilm").name, Splitter(60, tokenizer, "other").name}
    assert len(names) == 4
