"""Documents in Markdown become chunks with a heading path, offsets and a page number, sized in tokens."""

from __future__ import annotations

import itertools
import re
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

_HEADING = re.compile(r"^(#{1,6})[ \t]+(.+?)[ \t]*#*$", re.MULTILINE)
_FENCE = re.compile(r"^(```|~~~).*?^\1", re.MULTILINE | re.DOTALL)
LEAST_SHARE = 0.6
"""A chunk is filled to this share of the size at least, where its section is long enough."""
SMALL_SHARE = 0.35
"""A chunk smaller than this share of the size joins its neighbour, where both fit in one."""
CHARS_A_TOKEN = 4
"""Of English prose; what a size in tokens is taken for where there is no tokenizer."""


@dataclass(frozen=True, kw_only=True)
class Chunk:
    """A piece of a document: `text` is document[start:end]; `title` is its title and the heading path at its start."""

    title: str
    text: str
    start: int
    end: int
    page: int | None = None


class Splitter:
    """Cuts documents into chunks of at most `tokens` tokens of `tokenizer` (a `tokenizers.Tokenizer`; None: by characters)."""

    def __init__(self, tokens: int, tokenizer: Any = None, tokenizer_name: str = "characters") -> None:
        self._tokens = tokens
        self._tokenizer = tokenizer
        self.name = f"2:{tokens}:{tokenizer_name}"  # the number counts the changes of how this class cuts

    def __call__(self, text: str, *, fallback_title: str, pages: Sequence[int] = ()) -> list[Chunk]:
        """Cut a document at the boundaries that Markdown gives; a chunk never goes over the end of a page.

        A chunk that is only headings is left out: its words are in the titles of the chunks below it. Small neighbours
        are merged; the headings between them stay in the text.
        """
        outline = _Outline(text, fallback_title)
        starts = [0, *[start for start in pages if start > 0], len(text)] if pages else [0, len(text)]
        chunks: list[Chunk] = []
        for begin, end in itertools.pairwise(starts):
            page = bisect_right(pages, begin) if pages else None
            on_page = [outline.chunk(begin + offset, raw) for offset, raw in self._pieces(text[begin:end])]
            merged = self._merged([chunk for chunk in on_page if chunk.text], text, outline)
            chunks.extend(replace(chunk, page=page) for chunk in merged)
        return chunks

    @cached_property
    def _splitter(self) -> Any:
        from semantic_text_splitter import MarkdownSplitter

        if self._tokenizer is None:
            most = self._tokens * CHARS_A_TOKEN
            return MarkdownSplitter((int(most * LEAST_SHARE), most))
        return MarkdownSplitter.from_huggingface_tokenizer(self._tokenizer, (int(self._tokens * LEAST_SHARE), self._tokens))

    def _pieces(self, text: str) -> Iterator[tuple[int, str]]:
        return iter(self._splitter.chunk_indices(text)) if text.strip() else iter(())

    def _count(self, text: str) -> float:
        if self._tokenizer is None:
            return len(text) / CHARS_A_TOKEN
        return len(self._tokenizer.encode(text, add_special_tokens=False).ids)

    def _merged(self, chunks: list[Chunk], text: str, outline: _Outline) -> list[Chunk]:
        sizes = [self._count(chunk.text) for chunk in chunks]
        merged: list[tuple[Chunk, float]] = []
        for chunk, size in zip(chunks, sizes, strict=True):
            if merged:
                last, last_size = merged[-1]
                if min(size, last_size) < SMALL_SHARE * self._tokens:
                    both = text[last.start : chunk.end]
                    together = self._count(both)
                    if together <= self._tokens:
                        merged[-1] = (outline.chunk(last.start, both, keep_headings=True), together)
                        continue
            merged.append((chunk, size))
        return [chunk for chunk, _ in merged]


class _Outline:
    """The headings of one document, and the heading path at any place of it."""

    def __init__(self, text: str, fallback_title: str) -> None:
        fenced = [match.span() for match in _FENCE.finditer(text)]
        self._headings = [
            (match.start(), len(match[1]), match[2].strip())
            for match in _HEADING.finditer(text)
            if not any(start <= match.start() < end for start, end in fenced)
        ]
        self.title = self._headings[0][2] if self._headings else fallback_title
        self._starts = [at for at, _, _ in self._headings]
        self._paths: list[str] = []
        path: dict[int, str] = {}
        for _, level, name in self._headings:
            path = {known: above for known, above in path.items() if known < level}
            path[level] = name
            self._paths.append(" > ".join([self.title, *(each for each in path.values() if each != self.title)]))

    def chunk(self, start: int, raw: str, *, keep_headings: bool = False) -> Chunk:
        """Return text[start:start + len(raw)] as a chunk without outer white space, and without the headings it begins with."""
        text = raw.strip() if keep_headings else _without_leading_headings(raw)
        begin = start + (raw.index(text) if keep_headings else raw.rindex(text))
        at = bisect_right(self._starts, begin) - 1
        return Chunk(title=self._paths[at] if at >= 0 else self.title, text=text, start=begin, end=begin + len(text))


def page_title(text: str, fallback: str) -> str:
    """Return the first heading of a document, or `fallback`."""
    return _Outline(text, fallback).title


Split = Callable[..., list[Chunk]]
"""What `Splitter` is: (text, *, fallback_title, pages) -> chunks."""


def _without_leading_headings(raw: str) -> str:
    """Drop a chunk's leading headings, which its title repeats; a heading further down stays."""
    text = raw.strip()
    while match := _HEADING.match(text):
        text = text[match.end() :].strip()
    return text
