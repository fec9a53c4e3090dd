"""A page of the documents as HTML, with the passage of an answer marked."""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from functools import cache
from html import escape
from typing import Any
from urllib.parse import quote

import nh3
from markdown_it import MarkdownIt
from markdown_it.token import Token

ANCHOR = "passage"
"""The id of the first marked block: a link ends in #passage."""

_ABSOLUTE = re.compile(r"[a-zA-Z][a-zA-Z0-9+.-]*:|/|#")
_MARKED = ("paragraph_open", "tr_open", "fence", "code_block", "html_block")
"""The smallest blocks that are marked: a paragraph (also one in a list item), a row of a table, a piece of code."""


@cache
def _markdown() -> MarkdownIt:
    return MarkdownIt("commonmark", {"html": False}).enable(["table", "strikethrough"])


def render_page(
    text: str,
    *,
    passage: str = "",
    place: tuple[int, int] = (0, 0),
    pages: Sequence[int] = (),
    page_word: str = "Page",
    collection: str = "",
) -> tuple[str, bool]:
    """Return the page's Markdown as safe HTML, and whether `passage` was found and marked in it.

    `place` are its offsets in `text` where they are known, else (0, 0); `pages` the offsets at which page 1, 2, ... begins,
    called `page_word`. Raw HTML in the page is shown as text. Relative links lead to the other pages of the documents,
    within `collection` where one is named.
    """
    tokens = _markdown().parse(text)
    if collection:
        _keep_within(tokens, collection)
    lines = _marked_lines(text, passage, place) if passage else frozenset()
    first = True
    for token in _blocks(tokens):
        if token.map and lines.intersection(range(*token.map)):
            token.attrJoin("class", "passage")
            if first:
                token.attrSet("id", ANCHOR)
                first = False
    tokens = _with_page_numbers(tokens, _lines_of(text, pages), page_word)
    html = _markdown().renderer.render(tokens, _markdown().options, {})
    return nh3.clean(str(html), attributes=_attributes(), link_rel="noopener noreferrer"), not first


def _with_page_numbers(tokens: list[Token], starts: list[int], word: str) -> list[Token]:
    """Put the number of each page before the first block of it; `starts` are the lines at which pages begin."""
    numbered: list[Token] = []
    done = 0
    for token in tokens:
        if token.level == 0 and token.map and token.nesting >= 0:
            begun = bisect_right(starts, token.map[0])
            if begun > done:
                numbered.append(Token("html_block", "", 0, content=f'<p class="page">{escape(word)} {begun}</p>\n'))
                done = begun
        numbered.append(token)
    return numbered


def _keep_within(tokens: list[Token], collection: str) -> None:
    """Let relative links name the collection."""
    for token in tokens:
        for inner in token.children or ():
            link = str(inner.attrGet("href") or "")
            if inner.type == "link_open" and link and not _ABSOLUTE.match(link):
                path, mark, anchor = link.partition("#")
                joined = "&" if "?" in path else "?"
                inner.attrSet("href", f"{path}{joined}collection={quote(collection, safe='')}{mark}{anchor}")


def _lines_of(text: str, offsets: Sequence[int]) -> list[int]:
    """Return the numbers of the lines at which the offsets, in their order, lie; one pass over the text."""
    lines: list[int] = []
    line = at = 0
    for offset in offsets:
        line += text.count("\n", at, offset)
        at = offset
        lines.append(line)
    return lines


def _line_of(text: str, offset: int) -> int:
    return text.count("\n", 0, offset)


def _marked_lines(text: str, passage: str, place: tuple[int, int]) -> frozenset[int]:
    """Return the numbers of the lines that the passage holds: at its place where it stands there, else where its text is."""
    start, end = place
    within = 0 <= start < end <= len(text)
    at_place = frozenset(range(_line_of(text, start), _line_of(text, end - 1) + 1)) if within else frozenset[int]()
    if at_place and _same_beginning(text[start:end], passage):
        return at_place
    return _passage_lines(text, passage) or at_place


def _same_beginning(found: str, passage: str) -> bool:
    """Say whether a text begins as the passage does: further on, a passage may leave out what stands between its pieces."""
    length = min(len(passage), 60)
    return " ".join(found.split())[:length] == " ".join(passage.split())[:length]


def _blocks(tokens: list[Token]) -> Iterator[Token]:
    """Yield the blocks that may be marked. Rows of a table carry no lines of their own before their cells do."""
    for token in tokens:
        if token.type == "paragraph_open" and token.hidden:
            continue  # the paragraph of a tight list is not rendered: its list item stands for it
        if token.type in _MARKED or (token.type == "list_item_open" and token.map):
            yield token


def _passage_lines(text: str, passage: str) -> frozenset[int]:
    """Return the numbers of the page's lines that the passage holds; none when the page does not hold the whole passage.

    A passage may join neighbouring pieces of a page whose headings were left out, so its lines are looked for in order.
    """
    wanted = [line.strip() for line in passage.splitlines() if line.strip()]
    page = [line.strip() for line in text.splitlines()]
    best: list[int] = []
    for start, line in enumerate(page):
        if not wanted or not _holds(line, wanted[0]):
            continue
        found = _follow(page, wanted, start)
        if len(found) == len(wanted) and (not best or found[-1] - found[0] < best[-1] - best[0]):
            best = found
    return frozenset(best)


def _follow(page: list[str], wanted: list[str], start: int) -> list[int]:
    found: list[int] = []
    at = start
    for line in wanted:
        while at < len(page) and not _holds(page[at], line):
            at += 1
        if at == len(page):
            break
        found.append(at)
    return found


def _holds(page_line: str, passage_line: str) -> bool:
    """Say whether a line of the page holds a line of a passage, which may begin or end within it."""
    return passage_line in page_line or passage_line.lstrip("# ") == page_line.lstrip("# ")


@cache
def _attributes() -> dict[str, set[str]]:
    allowed: dict[str, Any] = {tag: set(names) for tag, names in nh3.ALLOWED_ATTRIBUTES.items()}
    for tag in ("p", "li", "tr", "pre", "div"):
        allowed.setdefault(tag, set()).update({"class", "id"})
    for tag in ("th", "td"):
        allowed.setdefault(tag, set()).add("style")
    return allowed
