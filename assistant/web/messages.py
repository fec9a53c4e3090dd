"""From turns and events to what the chat shows: pure functions, no store, no engine, no Gradio.

A message is a dict in Gradio's shape. An answer has three parts: the agent's steps (where there are some) and what stands
under the answer are blocks of HTML made here, in which every value is escaped; its text is Markdown that Gradio sanitises.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from html import escape
from pathlib import PurePosixPath
from typing import Any

from assistant.documents.store import MAIN
from assistant.grounding import closest_pages
from assistant.web.answer_text import answer_markdown, passage_link, plain, unsupported
from feedback.records import Answer, Feedback, OpenQuestion, Passage, Step, Turn
from feedback.wording import cited_numbers, is_refusal

Message = dict[str, Any]
Block = Callable[[str], object]
"""Wraps HTML as a component of the chat: the page gives Gradio's, tests give `str`."""

NOTES: Mapping[str, str] = {
    "refused": "The documents do not seem to cover this, so the model was not asked.",
    "stopped": "You stopped this answer.",
    "length": "This answer was cut off at the length limit.",
    "failed": "This answer failed. Ask again; if it keeps failing, tell an admin.",
    "interrupted": "The server was stopped before this answer was finished. Ask again.",
}
TAKEN_BACK = "The documents did not support what the model wrote, so it is not shown."
MARKED = "Marked sentences were not found in the sources: check them before you rely on them."
WAITING = "Still being written, perhaps in another window. Reload the page to see it."
MOST_OF_A_STEP = 1_500
"""Characters of what a step gave back that the page shows."""

_PAGES: Mapping[str, str] = {".pptx": "slide", ".xlsx": "sheet"}


def when(moment: str | None) -> str:
    """Return a stored time (ISO 8601, UTC) in this machine's zone, as people read it; "" for None."""
    return datetime.fromisoformat(moment).astimezone().strftime("%d %b %Y, %H:%M") if moment else ""


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


def question_state(turn_id: str, sent: OpenQuestion | None) -> dict[str, str]:
    """Return what became of a refused question, as the element that sends it and the API show it; `sent` "": not sent."""
    if sent is None:
        return {"turn": turn_id, "sent": "", "note": "", "closed": ""}
    closed = f"{sent.closed_by} closed it on {when(sent.closed_at)}: {sent.resolution}" if sent.closed_at else ""
    return {"turn": turn_id, "sent": f"Sent on {when(sent.sent_at)}.", "note": sent.note, "closed": closed}


def question_message(question: str) -> Message:
    """Return the message that shows a question."""
    return {"role": "user", "content": plain(question)}


def waiting_message(passages: Sequence[Passage]) -> Message:
    """Return the message that stands while the model reads."""
    titles = list(dict.fromkeys(passage.title.split(" > ")[0] for passage in passages))
    reading = f"Reading {', '.join(titles)} …" if titles else "Looking through the documents …"
    return {"role": "assistant", "content": f"*{plain(reading)}*"}


def writing_message(
    text: str, *, turn_id: str, passages: Sequence[Passage], steps: Sequence[Step] = (), block: Block | None = None
) -> Message:
    """Return the message of an answer while it is written, under the steps that the agent has taken."""
    written = answer_markdown(text, turn_id=turn_id, passages=passages) if text.strip() else "*Thinking …*"
    if not steps or block is None:
        return {"role": "assistant", "content": written}
    return {"role": "assistant", "content": [block(steps_html(turn_id, steps)), written]}


def turn_messages(
    turn: Turn, feedback: Feedback | None, *, block: Block, not_learned: str = "", sent: OpenQuestion | None = None
) -> list[Message]:
    """Return the messages of a stored turn: the question, and the answer with its steps, its sources and its rating.

    `not_learned` is the reason why the last night did not learn from the rating, "" when it did or nothing is known; `sent`
    is what became of the question when its asker sent it to the document owner.
    """
    question = question_message(turn.asked.question)
    answer = turn.answer
    if answer is None:
        return [question, {"role": "assistant", "content": f"*{WAITING}*"}]
    text = answer_markdown(answer.text, turn_id=turn.id, passages=turn.passages, checks=answer.checks)
    html = "".join(
        (
            _note_html(turn, answer),
            sources_html(turn),
            _searched_html(turn),
            _send_html(turn, sent) if is_refused(answer) else "",
            rating_html(turn, feedback, not_learned=not_learned),
        )
    )
    parts: list[object] = [block(steps_html(turn.id, answer.steps))] if answer.steps else []
    if text:
        parts.append(text)
    return [question, {"role": "assistant", "content": [*parts, block(f'<div class="ns-after">{html}</div>')]}]


def is_refused(answer: Answer) -> bool:
    """Say whether an answer is a refusal, by the score, by the support of what was written, or by the model itself."""
    return answer.finish_reason == "refused" or (answer.finish_reason == "stop" and is_refusal(answer.text))


def _note_html(turn: Turn, answer: Answer) -> str:
    note = NOTES.get(answer.finish_reason, "")
    if answer.finish_reason == "refused" and _was_asked(turn):
        note = TAKEN_BACK
    marked = MARKED if unsupported(answer.text, answer.checks) else ""
    kinds = ((note, f"ns-{answer.finish_reason}"), (marked, "ns-marked"))
    return "".join(f'<p class="ns-note {css}">{escape(text)}</p>' for text, css in kinds if text)


def _was_asked(turn: Turn) -> bool:
    """Say whether a model had a part in the answer."""
    return bool(turn.asked.messages or (turn.answer and turn.answer.steps))


def steps_html(turn_id: str, steps: Sequence[Step]) -> str:
    """Return the agent's steps, each folded under one line that says what it did."""
    items = "".join(f"<li>{_step_html(turn_id, step)}</li>" for step in steps)
    return f'<ol class="ns-steps" aria-label="What was done before the answer">{items}</ol>'


def _step_html(turn_id: str, step: Step) -> str:
    line = f'<span class="ns-title">{escape(step_line(step))}</span>'
    if step.passages:
        links = "".join(
            f'<li><a href="{escape(passage_link(turn_id, each))}" target="_blank" rel="noopener">'
            f"[{each.number}] {escape(_title(each))}</a></li>"
            for each in step.passages
        )
        body = f"<ul>{links}</ul>"
    else:
        more = " …" if len(step.result) > MOST_OF_A_STEP else ""
        body = f"<blockquote>{escape(step.result[:MOST_OF_A_STEP])}{more}</blockquote>" if step.result.strip() else ""
    return f"<details><summary>{line}</summary>{body}</details>" if body else f"<p>{line}</p>"


def step_line(step: Step) -> str:
    """Return what a step did: "Searched the documents for 'hotel London': 3 passages"."""
    found = f"{len(step.passages)} passage{'' if len(step.passages) == 1 else 's'}"
    arguments = [str(value) for value in step.arguments.values() if value not in (None, "")]
    first = f"'{arguments[0]}'" if arguments else "nothing"
    match step.name:
        case "thought":
            return "Thought about it"
        case "search_documentation":
            return f"Searched the documents for {first}: {found}"
        case "read_document":
            return f"Read {first}: {found}"
        case "list_documents":
            return "Looked at the list of documents"
        case "shortened":
            return "Shortened an earlier result, to make room"
        case _:
            return f"Tried {step.name}"


def sources_html(turn: Turn) -> str:
    """Return the passages that the model was given, each with its text and a link to its page; cited ones stand out.

    Under a refusal, the pages that came closest stand instead, each once.
    """
    assert turn.answer is not None
    refused = is_refused(turn.answer)
    passages = closest_passages(turn.passages) if refused else turn.passages
    if not passages:
        return ""
    cited = () if refused else cited_numbers(turn.answer.text)
    heading = "Closest pages" if refused else "Sources"
    items = "".join(_source_html(turn.id, passage, cited=passage.number in cited, numbered=not refused) for passage in passages)
    return f'<section class="ns-sources" aria-label="{heading}"><h4>{heading}</h4><ul>{items}</ul></section>'


def closest_passages(passages: Sequence[Passage]) -> tuple[Passage, ...]:
    """Return the best passage of each of the pages that came closest."""
    return tuple(next(each for each in passages if each.document == name) for name, _ in closest_pages(passages))


def _source_html(turn_id: str, passage: Passage, *, cited: bool, numbered: bool) -> str:
    label = '<span class="ns-cited">cited</span>' if cited else ""
    number = f'<span class="ns-number">[{passage.number}]</span> ' if numbered else ""
    return (
        f'<li class="{"ns-is-cited" if cited else "ns-is-read"}"><details><summary>'
        f'{number}<span class="ns-title">{escape(_title(passage))}</span>{_place_html(passage)}{label}</summary>'
        f"<blockquote>{escape(passage.text)}</blockquote>"
        f'<p><a href="{escape(passage_link(turn_id, passage))}" target="_blank" rel="noopener">Open the page'
        f'<span class="ns-path"> {escape(passage.document)}</span></a></p></details></li>'
    )


def _title(passage: Passage) -> str:
    return passage.title.replace(" > ", " › ")


def _place_html(passage: Passage) -> str:
    """Return where in its document and in which collection a passage stands: "page 3, hr"."""
    page = f"{page_word(passage.document)} {passage.page}" if passage.page is not None else ""
    collection = "" if passage.collection == MAIN else passage.collection
    place = ", ".join(part for part in (page, collection) if part)
    return f'<span class="ns-place">{escape(place)}</span>' if place else ""


def page_word(document: str) -> str:
    """Return what the numbered parts of a document are called: "page", "slide" or "sheet"."""
    return _PAGES.get(PurePosixPath(document).suffix.lower(), "page")


def _searched_html(turn: Turn) -> str:
    """Return what was searched and where, when that is not the question itself, everywhere."""
    asked = turn.asked
    query = asked.searched if asked.searched != asked.question else ""
    place = f" in {asked.collection}" if asked.collection else ""
    if not query and not place:
        return ""
    return f'<p class="ns-searched">Searched{escape(place)}{": " if query else ""}{escape(query)}</p>'


def _send_html(turn: Turn, sent: OpenQuestion | None) -> str:
    """Return the element that sends a refused question to the document owner (see static/question.js)."""
    state = json.dumps(question_state(turn.id, sent))
    return f'<ns-question data-turn="{escape(turn.id)}" data-state="{escape(state)}"></ns-question>'


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
    if not _was_asked(turn):
        return f"No model was asked ({version_name(turn.asked.adapter)} was in service)"
    return f"Answered by {version_name(turn.asked.adapter)} in {answer.total_s:.1f} s"


def version_name(version: str) -> str:
    """Return what people read for a version."""
    return "the base model" if version == "base" else version
