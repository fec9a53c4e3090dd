"""The admin page's open questions: what employees sent to the document owner, and what came of it."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import Any

import gradio as gr

from assistant.services import Services
from assistant.web.admin_view import panel
from assistant.web.answer_text import passage_link
from assistant.web.messages import closest_passages, when
from assistant.web.notice import notice_html
from assistant.web.who import require_admin
from feedback.errors import NightschoolError, StoreError
from feedback.records import OpenQuestion, Passage

SHOWN = 50


class QuestionsPanel:
    """The handlers of the open questions."""

    def __init__(self, services: Services) -> None:
        self._store = services.store

    def show(self, request: gr.Request) -> tuple[Any, ...]:
        """Show the open questions: (list, question to close, form)."""
        require_admin(request)
        return self._shown()

    def close(self, turn_id: str | None, resolution: str | None, request: gr.Request) -> tuple[Any, ...]:
        """Close one: (notice, resolution, list, question to close, form)."""
        user = require_admin(request)
        try:
            if not turn_id:
                raise StoreError("No question is chosen: choose the one to close.")
            closed = self._store.close_question(turn_id, user.name, resolution or "")
        except NightschoolError as error:
            return notice_html(str(error)), gr.skip(), *self._shown()
        notice = notice_html(f"Closed. {closed.user_name} reads this under the answer.", bad=False)
        return notice, "", *self._shown(forget=True)

    def _shown(self, *, forget: bool = False) -> tuple[Any, ...]:
        questions = self._store.open_questions(SHOWN)
        closest = {each.turn_id: closest_passages(self._store.turn(each.turn_id).passages) for each in questions}
        choices = [(f"{each.question[:90]} ({each.user_name})", each.turn_id) for each in questions]
        value: dict[str, Any] = {"value": None} if forget else {}  # a refresh must not undo what somebody is choosing
        if len(choices) == 1:
            value = {"value": choices[0][1]}
        return questions_html(questions, closest), gr.update(choices=choices, **value), gr.update(visible=bool(questions))


def questions_html(questions: Sequence[OpenQuestion], closest: dict[str, tuple[Passage, ...]]) -> str:
    """Return the open questions, newest first, each with who asked, the note and the pages that came closest (by turn)."""
    if not questions:
        empty = "None. When the documents do not answer a question, its asker can send it here."
        return panel("Open questions", f'<p class="ns-empty">{empty}</p>')
    items = "".join(_question_html(each, closest.get(each.turn_id, ())) for each in questions)
    more = f'<p class="ns-empty">The newest {SHOWN} are shown.</p>' if len(questions) == SHOWN else ""
    return panel("Open questions", f'<ul class="ns-questions">{items}</ul>{more}')


def _question_html(question: OpenQuestion, closest: Sequence[Passage]) -> str:
    pages = ", ".join(
        f'<a href="{escape(passage_link(question.turn_id, passage))}" target="_blank" rel="noopener">'
        f"{escape(passage.document)}</a>"
        for passage in closest
    )
    note = f"<blockquote>{escape(question.note)}</blockquote>" if question.note else ""
    return (
        f"<li><p><b>{escape(question.question)}</b></p>{note}"
        f'<p class="ns-empty">{escape(question.user_name)}, {escape(when(question.sent_at))}. '
        f"Closest pages: {pages or 'none'}.</p></li>"
    )


def build(services: Services, blocks: gr.Blocks, *, slow_seconds: float) -> None:
    """Lay out the open questions in the page that is being built, and connect them."""
    panel_ = QuestionsPanel(services)
    questions = gr.HTML(questions_html((), {}))
    with gr.Row(elem_id="ns-resolve", equal_height=False, visible=False) as form:
        question = gr.Dropdown(
            label="Question to close", choices=[], value=None, elem_id="ns-open-question", scale=2, min_width=240
        )
        resolution = gr.Textbox(
            label="What came of it (its asker reads this)",
            placeholder="Say where it is written now, or who knows it",
            elem_id="ns-resolution",
            scale=3,
            min_width=240,
        )
        close = gr.Button("Close the question", elem_id="ns-close", scale=0, min_width=160)
    notice = gr.HTML("", elem_id="ns-closed", elem_classes="ns-said-here")
    hidden: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}
    shown = [questions, question, form]
    blocks.load(panel_.show, None, shown, **hidden)
    gr.Timer(slow_seconds).tick(panel_.show, None, shown, queue=False, **hidden)
    closing: dict[str, Any] = {"trigger_mode": "once", **hidden}
    gr.on([close.click, resolution.submit], panel_.close, [question, resolution], [notice, resolution, *shown], **closing)
