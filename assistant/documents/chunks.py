"""Markdown and text pages become chunks with a heading path and offsets."""

from __future__ import annotations

import re
from dataclasses import dataclass

_HEADING = re.compile(r"^(#{1,6})[ \t]+(.+?)[ \t]*#*$", re.MULTILINE)
_FENCE = re.compile(r"^(```|~~~).*?^\1", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True, kw_only=True)
class Chunk:
    """A piece of a page: `text` is page[start:end]; `title` is the page title and the heading path at its start."""

    title: str
    text: str
    start: int
    end: int


def _headings(page: str) -> list[tuple[int, int, str]]:
    fenced = [match.span() for match in _FENCE.finditer(page)]
    return [
        (match.start(), len(match[1]), match[2].strip())
        for match in _HEADING.finditer(page)
        if not any(start <= match.start() < end for start, end in fenced)
    ]


def page_title(page: str, fallback: str) -> str:
    """Return the first heading of a page, or `fallback`."""
    headings = _headings(page)
    return headings[0][2] if headings else fallback


def split_page(page: str, *, fallback_title: str, max_chars: int) -> list[Chunk]:
    """Split a page into chunks of at most `max_chars` characters at the boundaries that Markdown gives.

    A chunk that is only headings is left out: its words are in the titles of the chunks below it.
    """
    from semantic_text_splitter import MarkdownSplitter

    headings = _headings(page)
    title = page_title(page, fallback_title)
    chunks: list[Chunk] = []
    for offset, raw in MarkdownSplitter((max_chars * 3 // 5, max_chars)).chunk_indices(page):
        text = _without_leading_headings(raw)
        if not text:
            continue
        start = offset + raw.rindex(text)
        path: dict[int, str] = {}
        for at, level, name in headings:
            if at > start:
                break
            path = {known: above for known, above in path.items() if known < level}
            path[level] = name
        names = [name for name in path.values() if name != title]
        chunks.append(Chunk(title=" > ".join([title, *names]), text=text, start=start, end=start + len(text)))
    return chunks


def _without_leading_headings(raw: str) -> str:
    """Drop a chunk's leading headings, which its title repeats; a heading further down stays."""
    text = raw.strip()
    while match := _HEADING.match(text):
        text = text[match.end() :].strip()
    return text
