"""Calls of tools in what a model writes: read while it streams, so that no call is ever shown as an answer.

Three ways of writing one are read: `<tool_call>` with JSON or with `<function=...>` tags inside (Hermes, Qwen), a bare object
with a name and arguments or parameters (Llama 3), and such an object in a fence. `<think>` blocks are set apart as well.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from typing import Any, Literal

CALL, END_CALL, THINK, END_THINK = "<tool_call>", "</tool_call>", "<think>", "</think>"
UNREADABLE = "unreadable call"
"""The name of a call whose tool could not be read."""

_CANDIDATE = re.compile(r"[<`{\[]")
_FENCE = re.compile(r"```[\w-]*\s*")
_PART_OF_FENCE = re.compile(r"`{1,2}|```[\w-]*\s*")
_OBJECTS = tuple(
    f'{bracket}{{"{key}"' for bracket in ("", "[") for key in ("name", "type", "function", "arguments", "parameters")
)
_FUNCTION = re.compile(r"<function=([^>\s]+)>(.*?)(?:</function>|\Z)", re.DOTALL)
_PARAMETER = re.compile(r"<parameter=([^>\s]+)>\n?(.*?)\n?</parameter>", re.DOTALL)
_DECODER = json.JSONDecoder(strict=False)
_SHAPE = '{"name": "search_documentation", "arguments": {"query": "a few words"}}'

Opening = Literal["call", "think", "end of thinking", "undecided", "none"]


@dataclass(frozen=True, kw_only=True)
class Call:
    """A call as the model meant it; `problem` is one sentence for the model when it could not be read."""

    name: str
    arguments: dict[str, Any] = field(default_factory=dict)
    problem: str = ""


class Listener:
    """Takes apart what a model writes in one request: speech that can be shown at once, thoughts, and its first call.

    Only what may still become a call, or a tag, is held back.
    """

    def __init__(self) -> None:
        self.written = ""  # all of it; up to its end when a call was made
        self.call: Call | None = None
        self.preface = ""  # the speech so far
        self._shown = ""  # of it, what the last piece gave
        self._decided = 0  # how much of `written` is known to be speech, or a thought
        self._call_at: int | None = None
        self._think_at: int | None = None
        self._thoughts: list[str] = []

    def feed(self, piece: str) -> str:
        """Return what can be shown now, possibly "". Once `call` is set, the model need not be heard any further."""
        self.written += piece
        return self._read(final=False)

    def finish(self) -> str:
        """Return what was held back and is no call, at the end of what the model wrote."""
        return self._read(final=True)

    def thoughts(self) -> list[str]:
        """Return the thoughts that ended since the last time. What was shown before one that had no beginning is part of it."""
        ended, self._thoughts = [each.strip() for each in self._thoughts if each.strip()], []
        return ended

    def _read(self, *, final: bool) -> str:
        self._shown = ""
        while self.call is None and self._decided < len(self.written):
            before = (self._decided, self._call_at, self._think_at)
            if self._think_at is not None:
                self._think(final=final)
            elif self._call_at is not None:
                self._look(final=final)
            else:
                self._speech(final=final)
            if before == (self._decided, self._call_at, self._think_at):
                break
        return self._shown

    def _say(self, end: int) -> None:
        """Give out what is known to be speech: up to `end` of what was written."""
        said, self._decided = self.written[self._decided : end], end
        self._shown += said
        self.preface += said

    def _speech(self, *, final: bool) -> None:
        for candidate in _CANDIDATE.finditer(self.written, self._decided):
            at = candidate.start()
            opening = _opening(self.written[at:])
            if opening == "none" or (opening == "undecided" and final):
                continue
            self._say(at)
            if opening == "call":
                self._call_at = at
            elif opening == "think":
                self._think_at = at
            elif opening == "end of thinking":  # it began in the prompt: what was said so far was a thought
                self._thoughts.append(self.preface)
                self.preface, self._shown, self._decided = "", "", at + len(END_THINK)
            return
        self._say(len(self.written))

    def _think(self, *, final: bool) -> None:
        assert self._think_at is not None
        begin = self._think_at + len(THINK)
        end = self.written.find(END_THINK, begin)
        if end < 0 and not final:
            return
        stop = end if end >= 0 else len(self.written)
        self._thoughts.append(self.written[begin:stop])
        self._decided, self._think_at = min(stop + len(END_THINK), len(self.written)), None

    def _look(self, *, final: bool) -> None:
        """Read the call when it is complete; an object that turned out to be none is given out."""
        assert self._call_at is not None
        rest = self.written[self._call_at :]
        if rest.startswith(CALL):
            end = rest.find(END_CALL)
            if end >= 0 or final:
                self._made(_tagged(rest[len(CALL) : end if end >= 0 else None]), end + len(END_CALL) if end >= 0 else len(rest))
            return
        fence = _FENCE.match(rest)
        value, end = _decoded(rest, fence.end() if fence else 0)
        if end < 0:
            if final:
                self._made(_unreadable(), len(rest))
            return
        call = _call(value, bare=True)
        if call is None:
            self._say(self._call_at + end)
            self._call_at = None
            return
        after = rest[end:].lstrip()
        if fence and not final and "```".startswith(after[:3]) and len(after) < 3:
            return  # the fence is closed in a moment
        self._made(call, rest.index("```", end) + 3 if fence and after.startswith("```") else end)

    def _made(self, call: Call, end: int) -> None:
        assert self._call_at is not None
        self.call = call
        self.written = self.written[: self._call_at + end]


def _opening(rest: str) -> Opening:
    """Say what begins with `rest`: "undecided" when more must be read to know."""
    tags: dict[str, Opening] = {CALL: "call", THINK: "think", END_THINK: "end of thinking"}
    for tag, opening in tags.items():
        if rest.startswith(tag):
            return opening
        if tag.startswith(rest):
            return "undecided"
    if _PART_OF_FENCE.fullmatch(rest):
        return "undecided"
    fence = _FENCE.match(rest)
    squeezed = re.sub(r"\s+", "", rest[fence.end() if fence else 0 :][:80])
    if any(squeezed.startswith(each) for each in _OBJECTS):
        return "call"
    return "undecided" if any(each.startswith(squeezed) for each in _OBJECTS) else "none"


def _decoded(text: str, start: int) -> tuple[Any, int]:
    """Return the JSON value at `start` and where it ends; -1 when there is none."""
    try:
        return _DECODER.raw_decode(text, start)
    except (ValueError, RecursionError):
        return None, -1


def _tagged(body: str) -> Call:
    """Read what stands inside the tags of a call."""
    if function := _FUNCTION.search(body):
        return Call(name=function[1], arguments=dict(_PARAMETER.findall(function[2])))
    start = re.search(r"[{\[]", body)
    value, end = _decoded(body, start.start()) if start else (None, -1)
    return (_call(value, bare=False) if end >= 0 else None) or _unreadable()


def _call(value: Any, *, bare: bool) -> Call | None:
    """Read a call from a JSON value; None when it is something else. A bare one must have its arguments."""
    if isinstance(value, list) and value:
        value = value[0]
    if isinstance(value, dict) and isinstance(value.get("function"), dict):
        value = value["function"]
    if not isinstance(value, dict) or not isinstance(value.get("name"), str):
        return None
    if bare and not ("arguments" in value or "parameters" in value):
        return None
    name, arguments = value["name"].strip(), value.get("arguments", value.get("parameters"))
    if isinstance(arguments, str):
        decoded, end = _decoded(arguments.strip(), 0) if arguments.strip() else ({}, 0)
        arguments = decoded if end >= 0 else arguments
    if arguments is None:
        arguments = {}
    if not isinstance(arguments, dict):
        return Call(name=name, problem=f"The arguments of {name} are not an object: write {_SHAPE}.")
    return Call(name=name, arguments=arguments)


def _unreadable() -> Call:
    return Call(name=UNREADABLE, problem=f"This call cannot be read: write it as JSON, like {_SHAPE}.")
