"""Documents in Markdown become chunks with a heading path, offsets and a page number, sized in tokens."""

from __future__ import annotations

import itertools
import re
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

# a longer line is text: nobody finds his way by it, and it would stand in the title of every chunk below it
_HEADING = re.compile(r"^(#{1,6})[ \t]+(\S.{0,199}?)(?:[ \t]+#+)?[ \t]*$", re.MULTILINE)
_FENCE = re.compile(r"^[ \t]*(`{3,}|~{3,})[^`\n]*$.*?(?:^[ \t]*\1|\Z)", re.MULTILINE | re.DOTALL)
LEAST_SHARE = 0.6
"""A chunk is filled to this share of the size at least, where its section is long enough."""
SMALL_SHARE = 0.35
"""A chunk smaller than this share of the size joins its neighbour, where both fit in one."""
CHARS_A_TOKEN = 4
"""Of English prose; what a size in tokens is taken for where there is no tokenizer."""
LONG = 4_000
"""Characters of a line past which a text is first cut into parts of that size."""
MOST_CHARS_A_TOKEN = 12
"""Past it a text counts by its characters: a tokenizer may take a picture of a megabyte, written as letters, for one token."""


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

        A chunk that is only headings is left out: its words are in the titles of the chunks below it, or else it stays. Small
        neighbours are merged; the headings between them stay in the text.
        """
        outline = _Outline(text, fallback_title)
        starts = [0, *[start for start in pages if start > 0], len(text)] if pages else [0, len(text)]
        chunks: list[Chunk] = []
        for begin, end in itertools.pairwise(starts):
            page = bisect_right(pages, begin) if pages else None
            on_page = [outline.chunk(begin + offset, raw) for offset, raw in self._pieces(text[begin:end])]
            chunks.extend(replace(chunk, page=page) for chunk in self._merged([each for each in on_page if each.text], text))
        return chunks

    @cached_property
    def _splitter(self) -> Any:
        from semantic_text_splitter import MarkdownSplitter

        if self._tokenizer is None:
            return self._by_characters
        return MarkdownSplitter.from_huggingface_tokenizer(self._tokenizer, (int(self._tokens * LEAST_SHARE), self._tokens))

    @cached_property
    def _by_characters(self) -> Any:
        from semantic_text_splitter import MarkdownSplitter

        most = self._tokens * CHARS_A_TOKEN
        return MarkdownSplitter((int(most * LEAST_SHARE), most))

    def _pieces(self, text: str) -> Iterator[tuple[int, str]]:
        for begin, part in _parts(text):
            for offset, piece in self._splitter.chunk_indices(part):
                if len(piece) <= self._tokens * MOST_CHARS_A_TOKEN:
                    yield begin + offset, piece
                else:
                    yield from ((begin + offset + below, each) for below, each in self._by_characters.chunk_indices(piece))

    def _count(self, text: str) -> float:
        if self._tokenizer is None:
            return len(text) / CHARS_A_TOKEN
        return max(len(self._tokenizer.encode(text, add_special_tokens=False).ids), len(text) / MOST_CHARS_A_TOKEN)

    def _merged(self, chunks: list[Chunk], text: str) -> list[Chunk]:
        sizes = [self._count(chunk.text) for chunk in chunks]
        merged: list[tuple[Chunk, float]] = []
        for chunk, size in zip(chunks, sizes, strict=True):
            if merged:
                last, last_size = merged[-1]
                if min(size, last_size) < SMALL_SHARE * self._tokens:
                    both = text[last.start : chunk.end]
                    together = self._count(both)
                    if together <= self._tokens:
                        merged[-1] = (replace(last, text=both, end=chunk.end), together)
                        continue
            merged.append((chunk, size))
        return [chunk for chunk, _ in merged]


class _Outline:
    """The headings of one document, and the heading path at any place of it."""

    def __init__(self, text: str, fallback_title: str) -> None:
        fences = [match.span() for match in _FENCE.finditer(text)]
        fence_starts = [start for start, _ in fences]
        self._headings: list[re.Match[str]] = []
        for match in _HEADING.finditer(text):
            before = bisect_right(fence_starts, match.start()) - 1
            if before < 0 or match.start() >= fences[before][1]:
                self._headings.append(match)
        self.title = self._headings[0][2].strip() if self._headings else fallback_title
        self._starts = [match.start() for match in self._headings]
        self._empty = self._without_text(text)
        self._paths: list[str] = []
        path: dict[int, str] = {}
        for match in self._headings:
            path = {known: above for known, above in path.items() if known < len(match[1])}
            path[len(match[1])] = match[2].strip()
            self._paths.append(" > ".join([self.title, *(each for each in path.values() if each != self.title)]))

    def _without_text(self, text: str) -> list[bool]:
        """Say of each heading whether nothing but headings stands in its section: no title of a chunk would name it then."""
        ends = [*self._starts, len(text)][1:]
        empty = [not text[match.end() : end].strip() for match, end in zip(self._headings, ends, strict=True)]
        for at in range(len(empty) - 2, -1, -1):  # a section is as empty as those directly below it, which follow one another
            below = at + 1
            while empty[at] and below < len(empty) and len(self._headings[below][1]) > len(self._headings[at][1]):
                empty[at] = empty[below]
                below += 1
        return empty

    def chunk(self, start: int, raw: str) -> Chunk:
        """Return text[start:start + len(raw)] as a chunk without outer white space, and without the headings it begins with.

        A heading without text below it stays, with what follows it: nothing else says its words.
        """
        end = start + len(raw.rstrip())
        body = kept = end - len(raw.strip())
        keep = False
        at = bisect_left(self._starts, body)
        while at < len(self._starts) and self._starts[at] == body < end:
            keep = keep or self._empty[at]
            body = end - len(raw[min(self._headings[at].end(), end) - start :].strip())
            kept = kept if keep else body
            at += 1
        above = bisect_right(self._starts, body if body < end else kept) - 1
        title = self._paths[above] if above >= 0 else self.title
        return Chunk(title=title, text=raw[kept - start : end - start], start=kept, end=end)


def _parts(text: str) -> Iterable[tuple[int, str]]:
    """Cut a text that has a long line into parts of bounded size: the time to cut that grows with its square."""
    from semantic_text_splitter import MarkdownSplitter

    if not text.strip():
        return []
    if max(map(len, text.split("\n"))) <= LONG:
        return [(0, text)]
    return MarkdownSplitter((int(LONG * LEAST_SHARE), LONG), trim=False).chunk_indices(text)


def page_title(text: str, fallback: str) -> str:
    """Return the first heading of a document, or `fallback`."""
    return _Outline(text, fallback).title


Split = Callable[..., list[Chunk]]
"""What `Splitter` is: (text, *, fallback_title, pages) -> chunks."""
