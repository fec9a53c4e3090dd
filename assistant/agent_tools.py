"""The three tools of the agent: search the documentation, read a document, list the documents; all within one collection."""

from __future__ import annotations

import json
from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from assistant.agent_calls import Call
from assistant.engines.base import Tool
from assistant.library import Library
from assistant.prompt import passage_of
from feedback.errors import DocumentError
from feedback.records import Passage
from feedback.wording import MAX_QUESTION_CHARS

SEARCH, READ, LIST = "search_documentation", "read_document", "list_documents"
READ_CHARS = 2_400
"""Most characters of one piece of a document."""
LISTED = 40
"""Most documents of one list."""
LEAST_CHARS = 80
"""A passage is cut to no fewer characters: less would say nothing."""
CUT = "(The rest was left out to make room.)"
SEEN = "(It is shown above.)"


def _tool(name: str, description: str, arguments: dict[str, dict[str, str]], required: Sequence[str]) -> Tool:
    parameters = {"type": "object", "properties": arguments, "required": list(required)}
    return {"type": "function", "function": {"name": name, "description": description, "parameters": parameters}}


TOOLS: tuple[Tool, ...] = (
    _tool(SEARCH, "Find numbered passages.", {"query": {"type": "string", "description": "a few words"}}, ["query"]),
    _tool(
        READ,
        "Read a piece of a document.",
        {"name": {"type": "string"}, "start": {"type": "integer", "description": "first character, 0 by default"}},
        ["name"],
    ),
    _tool(LIST, "List names and titles of documents.", {"query": {"type": "string", "description": "words of the title"}}, []),
)
"""What the model is told of the tools; short, since every request carries it."""

_ARGUMENTS: dict[str, dict[str, str | int | None]] = {
    SEARCH: {"query": None},
    READ: {"name": None, "start": 0},
    LIST: {"query": ""},
}
"""The arguments of each tool with their defaults; None: it must be given."""


@dataclass(frozen=True, kw_only=True)
class Block:
    """A part of a result: a heading line, "" for none, and its text; and the passage that the text is, if it is one."""

    heading: str = ""
    text: str
    passage: Passage | None = None
    is_new: bool = False  # a passage that no step found before

    def __str__(self) -> str:
        return f"{self.heading}\n{self.text}" if self.heading else self.text


@dataclass(frozen=True, kw_only=True)
class Result:
    """What a tool gives back, as far as there is room: whole blocks, the best first, and a sentence under them."""

    blocks: tuple[Block, ...]
    note: str = ""

    def __str__(self) -> str:
        between = "\n\n" if any(block.passage for block in self.blocks) else "\n"
        return "\n\n".join(part for part in (between.join(map(str, self.blocks)), self.note) if part)

    @property
    def found(self) -> tuple[Passage, ...]:
        """The passages that are new with this result."""
        return tuple(block.passage for block in self.blocks if block.passage is not None and block.is_new)

    def fitted(self, fits: Callable[[str], bool]) -> Result:
        """Return as much of the result as fits, and say what was left out; without any block when nothing does."""
        if fits(str(self)):
            return self
        for kept in range(len(self.blocks) - 1, 0, -1):
            fewer = Result(blocks=self.blocks[:kept], note=f"({len(self.blocks) - kept} more were left out: there is no room.)")
            if fits(str(fewer)):
                return fewer
        if self.blocks:
            first = self.blocks[0]
            length = longest(len(first.text), lambda length: fits(str(_cut(first, length))))
            if length >= LEAST_CHARS:
                return _cut(first, length)
        return Result(blocks=(), note="(There is no room for this result: answer with what you have.)")


def _cut(block: Block, length: int) -> Result:
    text = at_a_word(block.text, length)
    passage = block.passage
    if passage is not None and block.is_new:  # what is kept of it is what the model was given
        is_exact = passage.end - passage.start == len(passage.text)
        passage = replace(passage, text=text, end=passage.start + len(text) if is_exact else passage.end)
    return Result(blocks=(replace(block, text=text, passage=passage),), note=CUT)


def at_a_word(text: str, length: int) -> str:
    """Return at most `length` characters of a text, cut where a word ends."""
    if length >= len(text):
        return text
    space = max(text.rfind(" ", 0, length + 1), text.rfind("\n", 0, length + 1))
    return text[: space if space > 0 else length].rstrip()


def longest(most: int, fits: Callable[[int], bool]) -> int:
    """Return the largest length up to `most` that fits, by halving; 0 when none does."""
    least, too_much = 0, most + 1
    while too_much - least > 1:
        middle = (least + too_much) // 2
        if fits(middle):
            least = middle
        else:
            too_much = middle
    return least


class Toolbox:
    """The tools of one answer. It knows the passages that were found, so that each keeps its number.

    `collection` "" is all of them; `limit` and `following` size a search as in the fixed plan.
    """

    def __init__(self, library: Library, *, collection: str, passages: Sequence[Passage], limit: int, following: int = 0) -> None:
        self._library = library
        self._collection = collection
        self._limit = limit
        self._following = following
        self._passages = list(passages)

    def keep(self, passages: Sequence[Passage]) -> None:
        """Remember passages that the model was given."""
        self._passages.extend(passages)

    def run(self, call: Call, seen: str) -> tuple[Result, dict[str, str | int]]:
        """Run a call; returns its result, and the arguments as they were taken. What is wrong is said in the result.

        A passage that stands in `seen`, which is what the model has before it, is not given a second time.
        """
        if call.problem:
            return Result(blocks=(), note=call.problem), _plain(call.arguments)
        arguments, problem = _checked(call)
        if problem:
            return Result(blocks=(), note=problem), _plain(call.arguments)
        if call.name == SEARCH:
            return self._search(str(arguments["query"]), seen), arguments
        if call.name == READ:
            return self._read(str(arguments["name"]), int(arguments["start"]), seen), arguments
        return self._list(str(arguments["query"])), arguments

    def _search(self, query: str, seen: str) -> Result:
        hits = self._library.search(query, limit=self._limit, following=self._following, collection=self._collection)
        blocks: list[Block] = []
        for hit in hits:
            blocks.append(self._block(passage_of(self._next(blocks), hit), seen))
        note = "" if blocks else f"Nothing was found for {query!r}: try other words, or list the documents."
        return Result(blocks=tuple(blocks), note=note)

    def _read(self, name: str, start: int, seen: str) -> Result:
        rows = self._library.store.describe(self._collection)
        named = [row for row in rows if row["path"] == name] or [
            row for row in rows if str(row["path"]).casefold().endswith(f"/{name}".casefold()) or row["title"] == name
        ]
        if not named:
            return Result(blocks=(), note=f"There is no document {name!r}: take a name from {LIST} or from a passage.")
        known = {(passage.collection, passage.document) for passage in self._passages}
        row = next((row for row in named if (row["collection"], row["path"]) in known), named[0])
        try:
            document = self._library.store.document(str(row["path"]), collection=str(row["collection"]))
        except DocumentError as error:  # it was removed a moment ago
            return Result(blocks=(), note=str(error))
        if not 0 <= start < max(len(document.text), 1):
            return Result(blocks=(), note=f"{document.name} has {len(document.text)} characters: start is from 0 to before that.")
        piece = document.text[start : start + READ_CHARS + 1]
        text = at_a_word(piece, READ_CHARS).rstrip()
        begin = start + len(text) - len(text.lstrip())
        passage = Passage(
            number=self._next([]),
            document=document.name,
            document_version=document.version,
            chunk_id=0,
            title=document.title,
            text=text.lstrip(),
            score=0.0,  # it was asked for by name: how well it answers was not weighed
            collection=document.collection,
            page=bisect_right(document.pages, begin) or None,
            start=begin,
            end=start + len(text),
        )
        if not passage.text:
            return Result(blocks=(), note=f"{document.name} holds no text from character {start} on.")
        rest = len(document.text[passage.end :].rstrip())
        note = f"(These are its characters {begin} to {passage.end}; {rest} more follow.)" if rest else ""
        return Result(blocks=(self._block(passage, seen),), note=note)

    def _list(self, query: str) -> Result:
        rows = self._library.store.describe(self._collection)
        words = query.casefold().split()
        listed = [row for row in rows if all(word in f"{row['path']} {row['title']}".casefold() for word in words)]
        if not listed:
            note = f"None of the {len(rows)} documents has {query!r} in its name or title: use fewer words."
            return Result(blocks=(), note=note if rows else "There are no documents.")
        blocks = tuple(Block(text=f"{row['path']}: {row['title']}") for row in listed[:LISTED])
        more = len(listed) - len(blocks)
        return Result(blocks=blocks, note=f"(and {more} more: add words of the title)" if more else "")

    def _block(self, passage: Passage, seen: str) -> Block:
        """Lay a passage out under its number: the one that it has already, if it was found before."""
        known = next((each for each in self._passages if _key(each) == _key(passage)), None)
        if known is None:
            return Block(heading=_heading(passage), text=passage.text, passage=passage, is_new=True)
        return Block(heading=_heading(known), text=SEEN if known.text in seen else known.text, passage=known)

    def _next(self, blocks: Sequence[Block]) -> int:
        """Return the number that a passage gets if it is new, after the passages known and the new ones of `blocks`."""
        last = max((passage.number for passage in self._passages), default=0)
        return last + 1 + sum(block.is_new for block in blocks)


def passage_block(passage: Passage) -> str:
    """Return a passage as the model reads it: its number and title, the document that it is from, and its text."""
    return f"{_heading(passage)}\n{passage.text}"


def _heading(passage: Passage) -> str:
    return f"[{passage.number}] {passage.title} ({passage.document})"


def _key(passage: Passage) -> tuple[Any, ...]:
    if passage.chunk_id:
        return ("chunk", passage.chunk_id, passage.document_version)
    return (passage.collection, passage.document, passage.document_version, passage.start)


def _checked(call: Call) -> tuple[dict[str, str | int], str]:
    """Return the arguments of a call as its tool takes them, or one sentence that says what is wrong."""
    wanted = _ARGUMENTS.get(call.name)
    if wanted is None:
        return {}, f"There is no tool {call.name[:60]!r}: use {SEARCH}, {READ} or {LIST}."
    taken: dict[str, str | int] = {}
    for name, default in wanted.items():
        value = call.arguments.get(name, default)
        if isinstance(default, int):
            number = _whole_number(value)
            if number is None:
                return {}, f"{call.name} takes {name} as a whole number, not {value!r:.60}."
            taken[name] = number
        elif isinstance(value, str) and (value.strip() or default is not None):
            taken[name] = value.strip()[:MAX_QUESTION_CHARS]
        else:
            return {}, f"{call.name} needs {name}, a text: give it, like {{{json.dumps(name)}: ...}}."
    return taken, ""


def _whole_number(value: Any) -> int | None:
    if isinstance(value, str) and value.strip().isdecimal() and len(value) < 12:
        return int(value)
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _plain(arguments: dict[str, Any]) -> dict[str, str | int]:
    """Return the arguments of a call that was not run, for its record."""
    return {str(name)[:60]: value if isinstance(value, str) else json.dumps(value)[:200] for name, value in arguments.items()}
