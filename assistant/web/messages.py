"""From turns and events to what the chat shows: pure functions, no store, no engine, no Gradio.

A message is a dict in Gradio's shape. An answer has two parts: its text, as Markdown that Gradio sanitises, and a block of
HTML made here (sources, how it was answered, and the element that takes ratings), in which every value is escaped.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from html import escape
from typing import Any
from urllib.parse import quote

from assistant.documents.store import MAIN
from feedback.records import Answer, Feedback, Passage, Turn
from feedback.wording import CITATION, cited_numbers

Message = dict[str, Any]
Block = Callable[[str], object]
"""Wraps HTML as a component of the chat: the page gives Gradio's, tests give `str`."""

_MARKDOWN_LINK = re.compile(r"!?\[([^\]\n]*)\]\([^)\n]*\)")
_LIVE = re.compile(
    rf"{CITATION.pattern}|```[^`\n]*\n(?P<block>[^`]*)(?:```|\Z)|`(?P<code>[^`\n]+)`|[\[\]@`]|!(?=\[)|:(?=//)|(?<=www)\.",
    re.IGNORECASE,
)
"""Citations, code, and all that begins a link, an image or a reference, or makes an address of bare text."""
_MARKDOWN_MARKS = re.compile(r"([\\`*_#\[\]|~$])")
_BULLET = re.compile(r"^(\s*)([-+])(?=\s)", re.MULTILINE)
_NUMBERED = re.compile(r"^(\s*\d+)([.)])(?=\s)", re.MULTILINE)

NOTES: Mapping[str, str] = {
    "refused": "The documents do not seem to cover this, so the model was not asked.",
    "stopped": "You stopped this answer.",
    "length": "This answer was cut off at the length limit.",
    "failed": "This answer failed. Ask again; if it keeps failing, tell an admin.",
    "interrupted": "The server was stopped before this answer was finished. Ask again.",
}
WAITING = "Still being written, perhaps in another window. Reload the page to see it."


def plain(text: str) -> str:
    """Return `text` as Markdown that shows it as it was typed."""
    escaped = _MARKDOWN_MARKS.sub(r"\\\1", text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;"))
    return _NUMBERED.sub(r"\1\\\2", _BULLET.sub(r"\1\\\2", escaped))


def answer_markdown(text: str, *, turn_id: str, passages: Sequence[Passage]) -> str:
    """Return an answer's text as Markdown: its citations link to the passages, and nothing else links or loads anything.

    What a model writes may come from a document: other links keep their words alone, and images and HTML become text.
    """
    known = {passage.number: passage for passage in passages}
    quiet = _MARKDOWN_LINK.sub(r"\1", text).replace("&", "&amp;").replace("<", "&lt;")

    def settle(match: re.Match[str]) -> str:
        passage = known.get(int(match[1])) if match[1] else None
        if passage is not None:
            return f"[\\[{passage.number}\\]]({passage_link(turn_id, passage)})"
        if match["block"] is not None:
            return f"<pre><code>{_code(match['block'])}</code></pre>"
        if match["code"]:
            return f"<code>{_code(match['code'])}</code>"
        # as entities: what a backslash does depends on the one that may stand before it
        return "".join(f"&#{ord(character)};" for character in match[0])

    return _LIVE.sub(settle, quiet)


def _code(escaped: str) -> str:
    """Return code, already escaped for HTML, with no mark of Markdown: in a code span of its own entities would show."""
    return re.sub(r"[^\w\s&;]|_", lambda mark: f"&#{ord(mark[0])};", escaped)


def passage_link(turn_id: str, passage: Passage) -> str:
    """Return the address of the passage's page, with the passage marked."""
    where = "" if passage.collection == MAIN else f"collection={quote(passage.collection, safe='')}&"
    return f"/documents/{quote(passage.document)}?{where}turn={quote(turn_id)}&passage={passage.number}#passage"


def feedback_state(turn_id: str, feedback: Feedback | None) -> dict[str, Any]:
    """Return what a user says of a turn now, as the rating element and the API show it."""
    said = feedback or Feedback(turn_id=turn_id, user_id="")
    return {
        "turn": turn_id,
        "thumb": said.thumb,
        "reasons": list(said.reasons),
        "comment": said.comment,
        "correction": said.correction,
        "verified": said.verified,
    }


def question_message(question: str) -> Message:
    """Return the message that shows a question."""
    return {"role": "user", "content": plain(question)}


def waiting_message(passages: Sequence[Passage]) -> Message:
    """Return the message that stands while the model reads."""
    titles = list(dict.fromkeys(passage.title.split(" > ")[0] for passage in passages))
    reading = f"Reading {', '.join(titles)} …" if titles else "Looking through the documents …"
    return {"role": "assistant", "content": f"*{plain(reading)}*"}


def writing_message(text: str, *, turn_id: str, passages: Sequence[Passage]) -> Message:
    """Return the message of an answer while it is written."""
    return {"role": "assistant", "content": answer_markdown(text, turn_id=turn_id, passages=passages)}


def turn_messages(turn: Turn, feedback: Feedback | None, *, block: Block, not_learned: str = "") -> list[Message]:
    """Return the messages of a stored turn: the question, and the answer with its sources and its rating.

    `not_learned` is the reason why the last night did not learn from the rating, "" when it did or nothing is known.
    """
    question = question_message(turn.asked.question)
    if turn.answer is None:
        return [question, {"role": "assistant", "content": f"*{WAITING}*"}]
    text = answer_markdown(turn.answer.text, turn_id=turn.id, passages=turn.asked.passages)
    note = NOTES.get(turn.answer.finish_reason, "")
    html = "".join(
        (
            f'<p class="ns-note ns-{turn.answer.finish_reason}">{escape(note)}</p>' if note else "",
            sources_html(turn),
            rating_html(turn, feedback, not_learned=not_learned),
        )
    )
    parts = [text] if text else []
    return [question, {"role": "assistant", "content": [*parts, block(f'<div class="ns-after">{html}</div>')]}]


def sources_html(turn: Turn) -> str:
    """Return the passages that the model was given, each with its text and a link to its page; cited ones stand out."""
    if not turn.asked.passages:
        return ""
    answer = turn.answer.text if turn.answer else ""
    cited = cited_numbers(answer)
    heading = "Sources" if turn.asked.messages else "Closest pages"
    items = "".join(_source_html(turn.id, passage, cited=passage.number in cited) for passage in turn.asked.passages)
    return f'<section class="ns-sources" aria-label="{heading}"><h4>{heading}</h4><ul>{items}</ul></section>'


def _source_html(turn_id: str, passage: Passage, *, cited: bool) -> str:
    label = '<span class="ns-cited">cited</span>' if cited else ""
    return (
        f'<li class="{"ns-is-cited" if cited else "ns-is-read"}"><details><summary>'
        f'<span class="ns-number">[{passage.number}]</span> '
        f'<span class="ns-title">{escape(passage.title.replace(" > ", " › "))}</span>{label}</summary>'
        f"<blockquote>{escape(passage.text)}</blockquote>"
        f'<p><a href="{escape(passage_link(turn_id, passage))}" target="_blank" rel="noopener">Open the page'
        f'<span class="ns-path"> {escape(passage.document)}</span></a></p></details></li>'
    )


def rating_html(turn: Turn, feedback: Feedback | None, *, not_learned: str = "") -> str:
    """Return the line under an answer: how it was answered, and the element that takes ratings (see static/rating.js)."""
    assert turn.answer is not None
    state = {**feedback_state(turn.id, feedback), "not_learned": not_learned}
    return (
        f'<ns-rating data-turn="{escape(turn.id)}" data-state="{escape(json.dumps(state))}">'
        f'<span class="ns-how">{escape(how(turn, turn.answer))}</span></ns-rating>'
    )


def how(turn: Turn, answer: Answer) -> str:
    """Return who answered and how long it took: "Answered by v0003 in 2.1 s"."""
    if not turn.asked.messages:
        return f"No model was asked ({version_name(turn.asked.adapter)} was in service)"
    return f"Answered by {version_name(turn.asked.adapter)} in {answer.total_s:.1f} s"


def version_name(version: str) -> str:
    """Return what people read for a version."""
    return "the base model" if version == "base" else version
