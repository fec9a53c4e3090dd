"""The lines of a few passages that lie closest to a question: what a small model is given to read, instead of the whole.

A line is a sentence, an item of a list or a row of a table. A small reader that has the right passage before it often takes a
value from its neighbourhood; an encoder points at the right line more often than that reader finds it (docs/LOG.md), and a
shorter prompt is read sooner.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from assistant.grounding import sentences
from assistant.retrieval.encoder import Encoder

SHORT = 60
"""Characters under which a sentence is read with the next one of its paragraph: "Lost one?" says nothing by itself."""

_RULE = re.compile(r"[\s|:+=-]+")
_HEADING = re.compile(r"#{1,6}\s.*|\*\*[^*]+\*\*")
_ITEM = re.compile(r"\s*(?:[-*+•]|\d{1,2}[.)])\s")

Span = tuple[int, int]


@dataclass(frozen=True, kw_only=True)
class Line:
    """One line of a text, text[start:end]; `heads` say what it is about: its heading, a table's first row, "You need:"."""

    start: int
    end: int
    heads: tuple[Span, ...] = ()


def lines_of(text: str) -> list[Line]:
    """Cut a text into its lines; headings and the rules of tables are none."""
    found: list[Line] = []
    heading: tuple[Span, ...] = ()
    lead: tuple[Span, ...] = ()  # a table's first row, or what ends with a colon before a list
    was_row = False
    for parts in _paragraphs(text):
        start, end = parts[0][0], parts[-1][1]
        paragraph = text[start:end]
        is_row, is_item = paragraph.startswith("|"), _ITEM.match(text[text.rfind("\n", 0, start) + 1 : end]) is not None
        if _RULE.fullmatch(paragraph):
            continue
        if _HEADING.fullmatch(paragraph):
            heading, lead, was_row = ((start, end),), (), False
            continue
        if is_row != was_row or not (is_row or is_item):
            lead = ()
        found.extend(Line(start=first, end=last, heads=heading + lead) for first, last in _merged(parts))
        if (is_row and not was_row) or (not is_row and not is_item and paragraph.endswith(":")):
            lead = ((start, end) if is_row else parts[-1],)
        was_row = is_row
    return found


def _paragraphs(text: str) -> Iterator[list[Span]]:
    """Yield the sentences of each paragraph, list item or row of a text."""
    parts: list[Span] = []
    for span in sentences(text):
        if parts and "\n" in text[parts[-1][1] : span[0]]:
            yield parts
            parts = []
        parts.append(span)
    if parts:
        yield parts


def _merged(parts: Sequence[Span]) -> list[Span]:
    """Return the sentences of a paragraph, short ones together with the next, or at its end with the one before."""
    merged: list[Span] = []
    for start, end in parts:
        if merged and merged[-1][1] - merged[-1][0] < SHORT:
            merged[-1] = (merged[-1][0], end)
        else:
            merged.append((start, end))
    if len(merged) > 1 and merged[-1][1] - merged[-1][0] < SHORT:
        (start, _), (_, end) = merged[-2:]
        merged[-2:] = [(start, end)]
    return merged


def closest_lines(
    question: str, passages: Sequence[tuple[str, str, float]], encoder: Encoder, *, most: int
) -> list[tuple[str, float]]:
    """Return each passage's text with only those of its lines that lie closest to the question, in their order.

    Beside it stands the cosine, in [-1, 1], of its closest line, read under the passage's title. A passage is (title, text,
    score). Of all passages together `most` lines are kept, of each at least one, and what says what those are about; a line's
    rank is its cosine and its passage's score. Raises ModelError when the encoder cannot be loaded.
    """
    places = [(at, line) for at, (_, text, _) in enumerate(passages) for line in lines_of(text)]
    bare = sorted(set(range(len(passages))) - {at for at, _ in places})  # of headings alone: such a text stays whole
    read = [f"{passages[at][0]}\n{passages[at][1][line.start : line.end]}" for at, line in places]
    vectors = encoder.encode([question, *read, *(f"{passages[at][0]}\n{passages[at][1]}" for at in bare)], telling=False).whole
    near = vectors[1:] @ vectors[0]
    of = [*(at for at, _ in places), *bare]
    best = [max(float(near[each]) for each, at in enumerate(of) if at == passage) for passage in range(len(passages))]
    if len(places) <= most:
        return [(text, close) for (_, text, _), close in zip(passages, best, strict=True)]
    ranks = near[: len(places)] + np.array([passages[at][2] for at, _ in places], np.float32)
    order = [int(each) for each in np.argsort(-ranks, kind="stable")]
    first = {places[each][0]: each for each in reversed(order)}  # the best line of each passage
    kept = list(first.values())
    kept += [each for each in order if each not in kept][: max(0, most - len(kept))]
    spans: list[set[Span]] = [set() for _ in passages]
    for each in kept:
        at, line = places[each]
        spans[at].update([(line.start, line.end), *line.heads])
    return [
        (_joined(text, sorted(chosen)) if chosen else text, close)
        for (_, text, _), chosen, close in zip(passages, spans, best, strict=True)
    ]


def _joined(text: str, spans: Sequence[tuple[int, int]]) -> str:
    """Return those parts of a text; what stood on lines of their own still does."""
    parts = [text[slice(*spans[0])]]
    for (_, before), (start, end) in itertools.pairwise(spans):
        parts += ["\n" if "\n" in text[before:start] else " ", text[start:end]]
    return "".join(parts)
