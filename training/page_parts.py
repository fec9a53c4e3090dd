"""A page of Markdown as sections of paragraphs, lists and tables, in plain words."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

_ABBREVIATION = re.compile(
    r"(?:\b(?:e\.g|i\.e|etc|approx|no|nos|dr|mr|mrs|ms|st|vs|p|fig|incl|max|min)|\b[A-Z])\.$", re.IGNORECASE
)
_SENTENCE_END = re.compile(r"(?:(?<=[.!?])|(?<=[.!?][\"')\u201d]))\s+(?=[\"'(\u201c]?[A-Z0-9])")


@dataclass(frozen=True, kw_only=True)
class Text:
    """A paragraph, or an item of a list. `lead` is what stands in bold (or as a term) at its start, without its colon."""

    words: str  # without the lead
    lead: str = ""

    @property
    def whole(self) -> str:
        """The text as it reads."""
        return f"{self.lead}: {self.words}" if self.lead else self.words


@dataclass(frozen=True, kw_only=True)
class Listing:
    """A list. `intro` is the line before it where that ends in a colon."""

    items: tuple[Text, ...]
    intro: str = ""


@dataclass(frozen=True, kw_only=True)
class Table:
    """A table with its header row; every row is as long as the header."""

    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


@dataclass(kw_only=True)
class Section:
    """What stands under one heading, up to the next. The first section of a page has the page's title."""

    heading: str
    blocks: list[Text | Listing | Table] = field(default_factory=list)


def sections(markdown: str, *, fallback_title: str) -> list[Section]:
    """Return the sections of a page in their order, the first under its title; code and raw HTML are left out."""
    from markdown_it import MarkdownIt

    tokens = MarkdownIt("commonmark").enable("table").parse(markdown)
    found = [Section(heading=fallback_title)]
    at = 0
    while at < len(tokens):
        token = tokens[at]
        end = _closing(tokens, at)
        inside = tokens[at + 1 : end]
        if token.type == "heading_open":
            heading = _plain(inside[0])
            if len(found) == 1 and not found[0].blocks and found[0].heading == fallback_title:
                found[0].heading = heading
            else:
                found.append(Section(heading=heading))
        elif token.type == "paragraph_open":
            found[-1].blocks.extend(_paragraphs(inside[0]))
        elif token.type in ("bullet_list_open", "ordered_list_open"):
            found[-1].blocks.append(_listing(inside, found[-1].blocks))
        elif token.type == "table_open":
            found[-1].blocks.append(_table(inside))
        at = end + 1
    return found


def sentences(text: str) -> list[str]:
    """Cut a text into its sentences; an abbreviation ends none."""
    found: list[str] = []
    for part in _SENTENCE_END.split(text.strip()):
        if found and _ABBREVIATION.search(found[-1]):
            found[-1] = f"{found[-1]} {part}"
        elif part.strip():
            found.append(part.strip())
    return found


def _closing(tokens: Sequence[Any], at: int) -> int:
    """Return the place of the token that closes the one at `at`, or `at` where it stands by itself."""
    if tokens[at].nesting != 1:
        return at
    return next(place for place in range(at + 1, len(tokens)) if tokens[place].level == tokens[at].level)


def _paragraphs(inline: Any) -> Iterator[Text]:
    """Yield a paragraph, or the lines of one that is laid out in lines (an address, a term with its meaning)."""
    text = _text(inline)
    lines = inline.content.split("\n")
    if len(lines) > 1 and not text.lead and all(len(line) < 60 for line in lines) and not lines[0].rstrip().endswith((".", ",")):
        yield from (Text(words=" ".join(line.replace("*", "").split())) for line in lines if line.strip())
    else:
        yield text


def _text(inline: Any) -> Text:
    """Return a text with its lead: bold words that a colon, a dash or a new line parts from the rest."""
    children = [child for child in inline.children or () if child.type != "text" or child.content]
    whole = _plain(inline)
    if not children or children[0].type != "strong_open":
        term, mark, meaning = whole.partition(": ")
        is_term = bool(mark) and 0 < len(term.split()) <= 5 and "," not in term and "." not in term and bool(meaning)
        return Text(words=meaning.strip(), lead=term.strip()) if is_term else Text(words=whole)
    close = next(
        place for place, child in enumerate(children) if child.type == "strong_close" and child.level == children[0].level
    )
    bold = " ".join("".join(child.content for child in children[1:close]).split())
    rest = whole.removeprefix(bold).strip()
    parted = re.match(r"[:\u2013\u2014]\s*|-\s+", rest)
    if rest and (parted or bold.endswith((":", "."))):
        words = rest[parted.end() :] if parted else rest
        lead = re.sub(r"^[A-Z]?\d+[.)]\s+", "", bold.rstrip(":. ")).strip()
        return Text(words=words, lead=lead)
    return Text(words=whole)


def _listing(tokens: Sequence[Any], before: list[Text | Listing | Table]) -> Listing:
    """Return a list; of nested lists the items of the outer one alone. A line before it that introduces it goes with it."""
    level = tokens[0].level if tokens else 0
    items = [token for token in tokens if token.type == "inline" and token.level == level + 2]
    intro = ""
    if before and isinstance(before[-1], Text) and before[-1].words.endswith(":") and not before[-1].lead:
        last = sentences(before[-1].words)
        intro = last[-1].rstrip(":")
        before[-1] = Text(words=" ".join(last[:-1]))
        if not before[-1].words:
            before.pop()
    return Listing(items=tuple(_text(item) for item in items), intro=intro)


def _table(tokens: Sequence[Any]) -> Table:
    rows: list[list[str]] = []
    for token in tokens:
        if token.type == "tr_open":
            rows.append([])
        elif token.type == "inline":
            rows[-1].append(_plain(token))
    return Table(header=tuple(rows[0]), rows=tuple(tuple(row) for row in rows[1:] if len(row) == len(rows[0])))


def _plain(inline: Any) -> str:
    """Return the words of inline Markdown: links by their text, marks gone, one line."""
    parts = []
    for child in inline.children or ():
        if child.type in ("text", "code_inline"):
            parts.append(child.content)
        elif child.type in ("softbreak", "hardbreak"):
            parts.append(" ")
    return re.sub(r"^\[[ xX]\] ", "", " ".join("".join(parts).split()))
