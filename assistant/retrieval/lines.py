"""The lines of a few passages that lie closest to a question: what a small model is given to read, instead of the whole.

A line is a sentence, an item of a list or a row of a table. A small reader that has the right passage before it often takes a
value from its neighbourhood; an encoder points at the right line more often than that reader finds it (docs/LOG.md), and a
shorter prompt is read sooner.
"""

from __future__ import annotations

import itertools
import re
import threading
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from assistant.grounding import sentences
from assistant.retrieval.encoder import Encoder, Vectors

SHORT = 60
"""Characters under which a sentence is read with the next one of its paragraph: "Lost one?" says nothing by itself."""
LATE_WEIGHT = 2.0
"""What the late interaction of a line counts beside its cosine and its passage's score."""
KEPT_LINES = 4000
"""Lines whose vectors are kept, of about 15 kB each: the same pages are asked for again and again."""

_RULE = re.compile(r"[\s|:+=-]+")
_HEADING = re.compile(r"#{1,6}\s.*|\*\*[^*]+\*\*")
_ITEM = re.compile(r"\s*(?:[-*+•]|\d{1,2}[.)])\s")

Span = tuple[int, int]
Halves = npt.NDArray[np.float16]


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


@dataclass(frozen=True, kw_only=True)
class Excerpt:
    """What is read of a passage. `near`, in [-1, 1], is how close its best line comes to the question; `rank` orders passages."""

    text: str
    near: float
    rank: float


class LineReader:
    """Finds the lines of passages that lie closest to a question; keeps the vectors of the last lines that it saw."""

    def __init__(self, encoder: Encoder, *, kept: int = KEPT_LINES) -> None:
        self._encoder = encoder
        self._kept: OrderedDict[str, tuple[Vectors, Halves]] = OrderedDict()
        self._most = kept
        self._lock = threading.Lock()

    def closest(self, question: str, passages: Sequence[tuple[str, str, float]], *, most: int) -> list[Excerpt | None]:
        """Return of each passage those of the `most` closest lines of all that are its own, in their order; None without any.

        A passage is (title, text, score). A line is read under its title and with what says what it is about, which is kept with
        it. Its rank is its cosine, its late interaction with the question (twice) and its passage's score: see docs/LOG.md.
        Passages that have no more lines together stay whole. Raises ModelError when the encoder cannot be loaded.
        """
        places = [(at, line) for at, (_, text, _) in enumerate(passages) for line in lines_of(text) or _whole(text)]
        asked = self._encoder.encode([question], telling=True, asked=True)
        read = [self._read(passages[at], line) for at, line in places]
        vectors = self._vectors(read)
        cosine = np.array([float(vectors[text][0] @ asked.whole[0]) for text in read])
        late = np.array([_late(asked.tokens[0], vectors[text][1]) for text in read])
        near = (cosine + late) / 2
        ranks = cosine + LATE_WEIGHT * late + np.array([passages[at][2] for at, _ in places])
        spans: list[set[Span]] = [set() for _ in passages]
        for each in np.argsort(-ranks, kind="stable")[:most]:
            at, line = places[int(each)]
            spans[at].update([(line.start, line.end), *line.heads])
        found: list[Excerpt | None] = []
        for passage, (_, text, _) in enumerate(passages):
            own = [each for each, (at, _) in enumerate(places) if at == passage]
            read_text = text if len(places) <= most else _joined(text, sorted(spans[passage])) if spans[passage] else ""
            best = Excerpt(text=read_text, near=float(near[own].max()), rank=float(ranks[own].max()))
            found.append(best if read_text else None)
        return found

    @staticmethod
    def _read(passage: tuple[str, str, float], line: Line) -> str:
        title, text, _ = passage
        return "\n".join([title, *(text[start:end] for start, end in (*line.heads, (line.start, line.end)))])

    def _vectors(self, texts: Sequence[str]) -> dict[str, tuple[Vectors, Halves]]:
        """Return the vectors of texts: of the whole, and of the tokens that tell something; those not kept are encoded."""
        with self._lock:
            found = {text: self._kept[text] for text in texts if text in self._kept}
        missing = [text for text in dict.fromkeys(texts) if text not in found]
        encoded = self._encoder.encode(missing, telling=True)
        found |= {
            text: (whole, tokens.astype(np.float16))
            for text, whole, tokens in zip(missing, encoded.whole, encoded.tokens, strict=True)
        }
        with self._lock:
            for text in texts:
                self._kept[text] = found[text]
                self._kept.move_to_end(text)
            while len(self._kept) > self._most:
                self._kept.popitem(last=False)
        return found


def _whole(text: str) -> list[Line]:
    """Return a text of headings alone as one line."""
    return [Line(start=0, end=len(text))]


def _late(question: Vectors, line: Halves) -> float:
    """Return the mean, over the question's telling tokens, of the nearest one of a line; 0 where either has none."""
    if not len(question) or not len(line):
        return 0.0
    return float((question @ line.astype(np.float32).T).max(axis=1).mean())


def _joined(text: str, spans: Sequence[tuple[int, int]]) -> str:
    """Return those parts of a text; what stood on lines of their own still does."""
    parts = [text[slice(*spans[0])]]
    for (_, before), (start, end) in itertools.pairwise(spans):
        parts += ["\n" if "\n" in text[before:start] else " ", text[start:end]]
    return "".join(parts)
