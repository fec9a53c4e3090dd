"""PDF to Markdown, page by page: headings by the size of their letters, lists by their bullets, table rows by their columns.

A PDF holds letters at places and no structure, so all of it is inferred; what cannot be told stays a line of text.
"""

from __future__ import annotations

import itertools
import math
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from assistant.documents.text import Refused, table

if TYPE_CHECKING:
    from pypdf import PageObject, PdfReader

MARGIN = 0.09
"""Share of a page's height, at its top and at its bottom, in which running headers and footers stand."""
MIN_REPEATS = 3
"""On fewer pages than this nothing is taken for a running header."""
HEADING_SIZE = 1.15
"""A line whose letters are so much larger than most letters of the document is a heading."""
HEADING_CHARS = 120
MAX_HEADING_SHARE = 0.4
"""Where more lines than this are large, their size says nothing."""
PARAGRAPH_GAP = 1.4
"""Lines that stand further apart than this many usual line distances belong to two paragraphs."""
COLUMN_SHIFT = 3.0
"""Cells of one column start at most so many points apart."""
LEADER = "..."
"""What is left of the dots that lead to a page number in a table of contents."""
CELL_GAP = 0.5
"""Words that stand further apart than this share of their size may be cells of a table."""
LETTER_WIDTH = 0.5
"""Width of a usual letter as a share of its size."""

_BULLET = re.compile(r"^[•‣◦▪▫●○■□–—·*\uf0b7\uf0a7]\s+")
_MARKER = re.compile(r"[•‣◦▪▫●○■□–—·*\uf0b7\uf0a7-]|\(?\w{1,3}[.)]")
_DOTS = re.compile(r"(?:\s?[.·…]){4,}")
_HYPHEN = re.compile(r"(\w*[^\W\d_])-\n([a-zà-ÿ]\w*)")
_LIGATURES = str.maketrans({"ﬀ": "ff", "ﬁ": "fi", "ﬂ": "fl", "ﬃ": "ffi", "ﬄ": "ffl", "ﬅ": "st", "ﬆ": "st", "\xad": ""})
_BOMB = "has a part that is beyond all measure when it is inflated (a bomb?): print it to PDF anew"
_SCAN = "holds no text, only pictures (a scan?): run it through OCR first"


@dataclass
class Line:
    """A line of a page: its cells (text and x of each), its height, the size of its letters and its end, in points."""

    cells: list[tuple[float, str]] = field(default_factory=list)
    y: float = 0.0
    size: float = 0.0
    end: float = 0.0
    edge: bool = False

    @property
    def text(self) -> str:
        """The whole line."""
        return " ".join(text for _, text in self.cells)

    @property
    def pattern(self) -> str:
        """The line with its numbers taken out, by which a running header is known again."""
        return re.sub(r"\d+", "#", self.text)


def pdf_pages(file: Path, *, max_pages: int) -> list[str]:
    """Return the pages of a PDF as Markdown.

    Raises Refused for one that is encrypted, broken, too long or without text, and for one whose streams inflate too far.
    """
    from pypdf.errors import LimitReachedError

    try:
        return _pages(_opened(file), max_pages=max_pages)
    except LimitReachedError as error:
        raise Refused(_BOMB) from error


def _pages(reader: PdfReader, *, max_pages: int) -> list[str]:
    if len(reader.pages) > max_pages:
        raise Refused(f"has {len(reader.pages):,} pages, more than the {max_pages:,} that are read: split it")
    pages: list[list[Line]] = []
    for number, page in enumerate(reader.pages, 1):
        if number > max_pages:
            raise Refused(f"has more than the {max_pages:,} pages that are read: split it")
        pages.append(list(_lines(page)))
    if not any(pages):
        raise Refused(_SCAN if reader.pages else "has no pages")
    body = _body_size(pages)
    running = _running(pages, body)
    pages = [[line for line in page if not (line.edge and line.pattern in running)] for page in pages]
    if not any(pages):
        raise Refused(_SCAN)
    levels = _heading_levels(pages, body)
    return _without_hyphens([_markdown(page, levels) for page in pages])


def _opened(file: Path) -> PdfReader:
    from pypdf import PdfReader
    from pypdf.errors import DependencyError, FileNotDecryptedError

    try:
        reader = PdfReader(file)
        # a PDF that only forbids editing opens with the empty password, in every viewer
        if reader.is_encrypted and not reader.decrypt(""):
            raise Refused("is encrypted: save it without a password")
    except (DependencyError, FileNotDecryptedError, NotImplementedError) as error:
        raise Refused("is encrypted: save it without a password") from error
    return reader


def _lines(page: PageObject) -> Iterator[Line]:
    """Yield the lines of a page in the order of its content."""
    pieces: list[tuple[str, float, float, float]] = []

    def visit(text: str, cm: Sequence[float], tm: Sequence[float], _font: Any, size: float) -> None:
        x = tm[4] * cm[0] + tm[5] * cm[2] + cm[4]
        y = tm[4] * cm[1] + tm[5] * cm[3] + cm[5]
        scale = math.hypot(tm[2], tm[3]) * math.hypot(cm[2], cm[3])
        pieces.append((text, x, y, size * scale))

    page.extract_text(visitor_text=visit)
    bottom, height = float(page.mediabox.bottom), float(page.mediabox.height) or 1.0
    line = Line()
    for text, x, y, size in pieces:
        for number, part in enumerate(text.translate(_LIGATURES).split("\n")):
            if number and line.cells:
                yield _placed(line, bottom, height)
            if number:
                line = Line()
            _append(line, part, x, y, size)
    if line.cells:
        yield _placed(line, bottom, height)


def _append(line: Line, text: str, x: float, y: float, size: float) -> None:
    """Add a piece to a line: to its last cell where it goes on, as a cell of its own past a gap."""
    if not text.strip():
        if line.cells:
            line.cells[-1] = (line.cells[-1][0], line.cells[-1][1] + text)
        return
    if not line.cells:
        line.y = y
        line.cells.append((x, text.lstrip()))
    else:
        start, before = line.cells[-1]
        apart = (text[0].isspace() or before[-1].isspace()) and x > line.end + CELL_GAP * size
        if apart and not _MARKER.fullmatch(before.strip()):
            line.cells.append((x, text.lstrip()))
        else:
            line.cells[-1] = (start, before + text)
    line.size = max(line.size, size)
    line.end = max(line.end, x + LETTER_WIDTH * size * len(text.strip()))


def _placed(line: Line, bottom: float, height: float) -> Line:
    line.cells = [(x, " ".join(_DOTS.sub(f" {LEADER} ", text).split())) for x, text in line.cells]
    place = (line.y - bottom) / height
    line.edge = place < MARGIN or place > 1 - MARGIN
    return line


def _body_size(pages: Iterable[Sequence[Line]]) -> int:
    """Return the size, in whole points, of most letters of a document."""
    chars: Counter[int] = Counter()
    for page in pages:
        for line in page:
            chars[round(line.size)] += len(line.text)
    return max(chars, key=lambda size: (chars[size], -size))


def _running(pages: Sequence[Sequence[Line]], body: int) -> frozenset[str]:
    """Return the patterns of lines that stand at the edge of several pages; in large letters, of most pages.

    A chapter's name in small letters is on the pages of that chapter alone; a slide's title may be on three.
    """
    counts = Counter(pattern for page in pages for pattern in {line.pattern for line in page if line.edge})
    large = {line.pattern for page in pages for line in page if line.edge and line.size >= HEADING_SIZE * body}
    most = max(MIN_REPEATS, len(pages) // 2 + 1)
    return frozenset(pattern for pattern, count in counts.items() if count >= (most if pattern in large else MIN_REPEATS))


def _heading_levels(pages: Iterable[Sequence[Line]], body: int) -> dict[int, int]:
    """Return the level of a heading for each size of letters, in whole points, that is larger than the text's."""
    lines = Counter(round(line.size) for page in pages for line in page)
    larger = sorted((size for size in lines if size >= HEADING_SIZE * body), reverse=True)
    if sum(lines[size] for size in larger) > MAX_HEADING_SHARE * sum(lines.values()):
        return {}
    return {size: min(level, 4) for level, size in enumerate(larger, 1)}


def _markdown(lines: Sequence[Line], levels: dict[int, int]) -> str:
    distances = sorted(above.y - below.y for above, below in itertools.pairwise(lines) if above.y > below.y)
    usual = distances[len(distances) // 2] if distances else 0.0
    pieces: list[str] = []
    before: Line | None = None
    level_before = 0
    at = 0
    while at < len(lines):
        line = lines[at]
        rows = _rows_from(lines, at)
        level = 0 if rows else _level(line, levels)
        if rows:
            pieces.append("\n\n" + table([[text for _, text in row.cells] for row in rows]) + "\n")
        elif level and level == level_before:  # a heading that was too long for one line
            pieces.append(" " + line.text)
        elif level:
            pieces.append(f"\n\n{'#' * level} {line.text}")
        else:
            apart = before is None or level_before or not 0 < before.y - line.y <= PARAGRAPH_GAP * usual
            pieces.append(("\n\n" if apart else "\n") + _BULLET.sub("- ", line.text))
        at += len(rows) or 1
        before, level_before = lines[at - 1], level
    return "".join(pieces).strip("\n")


def _level(line: Line, levels: dict[int, int]) -> int:
    if len(line.cells) > 1 or len(line.text) > HEADING_CHARS or LEADER in line.text or not re.search(r"[^\W\d_]", line.text):
        return 0
    return levels.get(round(line.size), 0)


def _rows_from(lines: Sequence[Line], at: int) -> list[Line]:
    """Return the rows of the table that begins at a line: lines with the same columns; none where there is no table.

    The first may be a header, which has as many cells but is often centred over its columns.
    """
    cells = len(lines[at].cells)
    body = at if at + 1 < len(lines) and _same_columns(lines[at], lines[at + 1]) else at + 1
    if cells < 2 or body >= len(lines) or len(lines[body].cells) != cells:
        return []
    end = body + 1
    while end < len(lines) and _same_columns(lines[body], lines[end]):
        end += 1
    return list(lines[at:end]) if end - body > 1 else []


def _same_columns(one: Line, other: Line) -> bool:
    """Say whether two lines have their cells in the same columns, of which each is aligned to the left or to the right."""
    return len(one.cells) == len(other.cells) and all(
        abs(a - b) <= COLUMN_SHIFT
        or abs(a + LETTER_WIDTH * one.size * len(text) - b - LETTER_WIDTH * other.size * len(below)) <= COLUMN_SHIFT
        for (a, text), (b, below) in zip(one.cells, other.cells, strict=True)
    )


def _without_hyphens(pages: Sequence[str]) -> list[str]:
    """Join words that were divided at the end of a line; a hyphen stays where the document writes the word with it."""
    hyphenated = set(re.findall(r"\w+-\w+", "\n".join(pages)))

    def joined(match: re.Match[str]) -> str:
        whole = f"{match[1]}-{match[2]}"
        return whole if whole in hyphenated else match[1] + match[2]

    return [_HYPHEN.sub(joined, page) for page in pages]
