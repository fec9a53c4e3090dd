"""Text as Markdown for the chat: a question as it was typed, an answer with linked citations and marked sentences."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from urllib.parse import quote

from assistant.documents.store import MAIN
from feedback.records import Passage, SentenceCheck
from feedback.wording import CITATION, is_refusal

_MARKDOWN_LINK = re.compile(r"!?\[([^\]\n]*)\]\([^)\n]*\)")
_LIVE = re.compile(
    rf"{CITATION.pattern}|```[^`\n]*\n(?P<block>[^`]*)(?:```|\Z)|`(?P<code>[^`\n]+)`|[\[\]@`]|!(?=\[)|:(?=//)|(?<=www)\.",
    re.IGNORECASE,
)
"""Citations, code, and all that begins a link, an image or a reference, or makes an address of bare text."""
_MARKDOWN_MARKS = re.compile(r"([\\`*_#\[\]|~$])")
_BULLET = re.compile(r"^(\s*)([-+])(?=\s)", re.MULTILINE)
_NUMBERED = re.compile(r"^(\s*\d+)([.)])(?=\s)", re.MULTILINE)

_BEGIN, _END = "\ue000", "\ue001"
"""Stand for the tags around a marked sentence while its Markdown is made; private-use characters, which no text needs."""
_PREFIX = re.compile(r"[ \t]*(?:(?:[-*+]|\d{1,3}[.)]|#{1,6}|>)[ \t]+)*")
_CELL = re.compile(r"(?<=\|)\s*((?:\\.|[^|\\\n])*?)\s*(?=\||$)")
_FENCED = re.compile(r"```[^`\n]*\n([^`]*)(?:```|\Z)")
_INDENTED = re.compile(r"(?: {4}|\t)")
UNSUPPORTED = "ns-unsupported"
"""The class of what no passage supports."""
_MARK_OPEN = f'<span class="{UNSUPPORTED}">'
_MARK_CLOSE = '</span><span class="ns-spoken"> (not found in the sources)</span>'


def plain(text: str) -> str:
    """Return `text` as Markdown that shows it as it was typed."""
    escaped = _MARKDOWN_MARKS.sub(r"\\\1", text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;"))
    return _NUMBERED.sub(r"\1\\\2", _BULLET.sub(r"\1\\\2", escaped))


def answer_markdown(text: str, *, turn_id: str, passages: Sequence[Passage], checks: Sequence[SentenceCheck] = ()) -> str:
    """Return an answer's text as Markdown: its citations link to the passages, and nothing else links or loads anything.

    What a model writes may come from a document: other links keep their words alone, and images and HTML become text.
    Sentences that no passage supports, by `checks`, are marked.
    """
    known = {passage.number: passage for passage in passages}
    marked = _with_marks(re.sub(f"[{_BEGIN}{_END}]", "\ufffd", text), checks)  # as long as before: the checks name places
    quiet = _MARKDOWN_LINK.sub(_words_of_link, marked).replace("&", "&amp;").replace("<", "&lt;")

    def settle(match: re.Match[str]) -> str:
        passage = known.get(int(match[1])) if match[1] else None
        if passage is not None:
            return f"[\\[{passage.number}\\]]({passage_link(turn_id, passage)})"
        if match["block"] is not None:
            marks = f' class="{UNSUPPORTED}"' if match["block"].startswith(_BEGIN) else ""
            return f"<pre{marks}><code>{_code(re.sub(f'[{_BEGIN}{_END}]', '', match['block']))}</code></pre>"
        if match["code"]:
            return f"<code>{_code(match['code'])}</code>"
        # as entities: what a backslash does depends on the one that may stand before it
        return "".join(f"&#{ord(character)};" for character in match[0])

    return _LIVE.sub(settle, quiet).replace(_BEGIN, _MARK_OPEN).replace(_END, _MARK_CLOSE)


def unsupported(text: str, checks: Sequence[SentenceCheck]) -> list[SentenceCheck]:
    """Return the checks of the sentences to mark: those without support, in an answer that is no refusal."""
    if is_refusal(text):
        return []
    return [each for each in checks if not each.supported and not is_refusal(text[each.start : each.end])]


def _with_marks(text: str, checks: Sequence[SentenceCheck]) -> str:
    """Put marks around the sentences without support: inside of list items, headings and cells, and before code."""
    places = {place for each in unsupported(text, checks) for place in _places(text, each.start, each.end)}
    for start, end in sorted(places, reverse=True):
        text = f"{text[:start]}{_BEGIN}{text[start:end]}{_END}{text[end:]}"
    return text


def _places(text: str, start: int, end: int) -> Iterator[tuple[int, int]]:
    """Yield what of a sentence can stand between tags."""
    if code := next((code for code in _FENCED.finditer(text) if code.start() < end and start < code.end()), None):
        yield code.start(1), code.start(1)  # the whole piece of code is marked: no tag can stand in it
        return
    line_start = text.rfind("\n", 0, start) + 1
    prefix = _PREFIX.match(text, line_start)
    at_line_start = not text[line_start:start].strip()
    if at_line_start and text[start : start + 1] == "|":
        yield from (cell.span(1) for cell in _CELL.finditer(text, start, end) if re.search(r"\w", cell[1]))
        return
    if _INDENTED.match(text, line_start) and prefix and not prefix[0].strip():
        return  # Markdown reads an indented block as code
    begin = max(start, prefix.end()) if prefix and at_line_start else start
    if begin < end:
        yield begin, end


def _words_of_link(link: re.Match[str]) -> str:
    """Return a link's words, with the marks of sentences that stood in its address."""
    return link[1] + "".join(mark for mark in link[0][link.end(1) - link.start() :] if mark in (_BEGIN, _END))


def _code(escaped: str) -> str:
    """Return code, already escaped for HTML, with no mark of Markdown: in a code span of its own entities would show."""
    return re.sub(rf"[^\w\s&;{_BEGIN}{_END}]|_", lambda mark: f"&#{ord(mark[0])};", escaped)


def passage_link(turn_id: str, passage: Passage) -> str:
    """Return the address of the passage's page, with the passage marked."""
    where = "" if passage.collection == MAIN else f"collection={quote(passage.collection, safe='')}&"
    return f"/documents/{quote(passage.document)}?{where}turn={quote(turn_id)}&passage={passage.number}#passage"
