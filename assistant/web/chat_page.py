"""The chat page: handlers that drain `Chat.ask`, and the Gradio components that they fill."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Any

import gradio as gr

from assistant.chat import Done, Piece, Sources, StepDone
from assistant.prompt import check_question
from assistant.services import Services
from assistant.web.header import header_html
from assistant.web.messages import Message, is_refused, question_message, turn_messages, waiting_message, writing_message
from assistant.web.notice import notice_html
from assistant.web.who import signed_in
from feedback.errors import NightschoolError
from feedback.records import Passage, Step, User

_log = logging.getLogger(__name__)

PIECE_SECONDS = 0.05
"""Text goes to the page at most this often; the server's ceiling is about 320 events a second, for everybody together."""

SHOWN_TURNS = 30
"""How many turns of a conversation the page shows: each event carries what changed, but the server lays out all of them."""

SAMPLE_QUESTIONS = (
    ("travel/booking-trips.md", "How many days ahead should a domestic trip be booked?"),
    ("expenses/claiming-expenses.md", "How soon do I have to hand in an expense claim?"),
    ("it/service-desk.md", "How do I reach the IT service desk?"),
    ("leave/annual-leave.md", "How many days of annual leave do I have?"),
)
"""Questions that an empty chat offers where the sample handbook is indexed; elsewhere it offers titles of pages."""

EMPTY = "## What do you want to know?\n\nAnswers come from the company's documents, with the page they are from."
EVERYTHING = "All documents"
HISTORY_INFO = "Off: each question is answered by itself."


class Stops:
    """Tells running answers to stop, by conversation."""

    def __init__(self) -> None:
        self._events: dict[str, set[threading.Event]] = {}
        self._lock = threading.Lock()

    @contextmanager
    def watching(self, conversation_id: str) -> Iterator[threading.Event]:
        """Yield an event that `stop` sets."""
        event = threading.Event()
        with self._lock:
            self._events.setdefault(conversation_id, set()).add(event)
        try:
            yield event
        finally:
            with self._lock:
                self._events[conversation_id].discard(event)
                if not self._events[conversation_id]:
                    del self._events[conversation_id]

    def stop(self, conversation_id: str) -> None:
        """Set the events of this conversation."""
        with self._lock:
            for event in self._events.get(conversation_id, ()):
                event.set()


def html_block(html: str) -> dict[str, Any]:
    """Return `html` as a part of a chat message, in the shape that Gradio gives to a component: making one each time is slow."""
    return {"type": "component", "component": "html", "value": html, "constructor_args": {}, "props": _block_props()}


def _block_props() -> dict[str, Any]:
    return {
        "html_template": "${value}",
        "css_template": "",
        "js_on_load": None,
        "apply_default_css": False,
        "padding": False,
        "props": {},
    }


class ChatPage:
    """The handlers of the chat page. Everything shown comes from the store; what the browser sends is a question alone."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._store = services.store
        self._stops = Stops()

    def open(self, request: gr.Request) -> tuple[Any, ...]:
        """Show the header and the last conversation with its ratings: (header, chat, conversation, history, collection)."""
        user = signed_in(request)
        latest = next(iter(self._store.conversations(user.id, 1)), None)
        turns = self._store.turns(latest.id) if latest else []
        chat = gr.Chatbot(value=self._messages(latest.id if latest else "", user), examples=self._examples())
        history = turns[-1].asked.history if turns else False
        choices = collection_choices(self._services)
        before = turns[-1].asked.collection if turns else ""
        chosen = before if before in [value for _, value in choices] else ""
        collection = gr.update(choices=choices, value=chosen, visible=len(choices) > 2)
        return header_html(user, page="chat"), chat, latest.id if latest else "", history, collection

    def ask(
        self, question: str, history: bool, collection: str | None, conversation_id: str, request: gr.Request
    ) -> Iterator[tuple[Any, ...]]:
        """Answer a question: (chat, question box, conversation, notice, send, stop), again and again until it is done."""
        user = signed_in(request)
        skip = gr.skip()
        try:
            check_question(question or "")
            conversation_id = conversation_id or self._store.start_conversation(user.id, history=history)
            earlier = self._messages(conversation_id, user)
            asked = [*earlier, question_message(question.strip())]
            yield [*asked, waiting_message(())], "", conversation_id, "", gr.update(visible=False), gr.update(visible=True)
            with self._stops.watching(conversation_id) as stopped:
                answer = self._answer(
                    user, conversation_id, question, history=history, collection=collection or "", stopped=stopped
                )
                for message in answer:
                    yield [*asked, message], skip, skip, skip, skip, skip
            chat, box, notice = self._messages(conversation_id, user), skip, ""
        except NightschoolError as error:
            # nothing was stored: the question goes back into its box
            chat = self._messages(conversation_id, user) if conversation_id else skip
            box, notice = question, notice_html(str(error))
        except Exception as error:  # the outer edge of the page: it must not stay in its waiting state
            _log.exception("A question could not be answered")
            chat = skip
            box, notice = question, notice_html(f"Something failed ({type(error).__name__}): ask again, and tell an admin.")
        yield chat, box, conversation_id, notice, gr.update(visible=True), gr.update(visible=False)

    def stop(self, conversation_id: str, request: gr.Request) -> None:
        """Stop the answer that is being written; what was written stays."""
        signed_in(request)
        self._stops.stop(conversation_id)  # the id is the server's own state: nobody can name another's

    def start_over(self, request: gr.Request) -> tuple[list[Message], str, str]:
        """Show an empty conversation; the store gets one when a question is asked."""
        signed_in(request)
        return [], "", ""

    def _answer(
        self, user: User, conversation_id: str, question: str, *, history: bool, collection: str, stopped: threading.Event
    ) -> Iterator[Message]:
        """Yield the message of the answer as it grows, at most every PIECE_SECONDS."""
        turn_id, passages, steps, text, shown_at = "", tuple[Passage, ...](), tuple[Step, ...](), "", 0.0
        asked = self._services.chat.ask(
            user_id=user.id, conversation_id=conversation_id, question=question, history=history, collection=collection
        )
        with closing(asked) as events:  # type: ignore[type-var]
            for event in events:
                match event:
                    case Sources():
                        turn_id, passages = event.turn_id, event.passages
                        yield waiting_message(passages)
                    case StepDone():
                        steps, passages = (*steps, event.step), (*passages, *event.step.passages)
                        text = ""  # what the model said before a step is in the step
                        yield writing_message(text, turn_id=turn_id, passages=passages, steps=steps, block=html_block)
                    case Piece():
                        text += event.text
                        if text.strip() and time.monotonic() - shown_at >= PIECE_SECONDS:
                            shown_at = time.monotonic()
                            yield writing_message(text, turn_id=turn_id, passages=passages, steps=steps, block=html_block)
                    case Done():
                        return
                if stopped.is_set():
                    return

    def _messages(self, conversation_id: str, user: User) -> list[Message]:
        """Return the newest turns of a conversation of this user, as they are stored, with what he says of them."""
        turns = [turn for turn in self._store.turns(conversation_id) if turn.asked.user_id == user.id][-SHOWN_TURNS:]
        reasons = self._not_learned() if turns else {}
        sent = self._store.sent_questions(user.id) if any(turn.answer and is_refused(turn.answer) for turn in turns) else {}
        return [
            message
            for turn in turns
            for message in turn_messages(
                turn,
                self._store.feedback(turn.id, user.id),
                block=html_block,
                not_learned=reasons.get((turn.id, user.id), ""),
                sent=sent.get(turn.id),
            )
        ]

    def _not_learned(self) -> dict[tuple[str, str], str]:
        """Return why the last night did not learn from a rating, by turn and rater."""
        last = self._services.ledger.last()
        refusals = self._services.ledger.refusals(last.id) if last else []
        return {(each.turn_id, each.user_id): each.reason for each in refusals}

    def _examples(self) -> list[dict[str, str]]:
        titles = {str(row["path"]): str(row["title"]) for row in self._services.documents.describe()}
        questions = [question for path, question in SAMPLE_QUESTIONS if path in titles]
        if not questions:
            questions = [f"What should I know about {title[:80]}?" for title in list(titles.values())[:4]]
        return [{"text": question} for question in questions]


def collection_choices(services: Services) -> list[tuple[str, str]]:
    """Return what can be searched: (label, value); "" is all documents."""
    return [(EVERYTHING, ""), *((name, name) for name in services.documents.collections())]


def chat_page(services: Services) -> gr.Blocks:
    """Build the chat page."""
    page = ChatPage(services)
    with gr.Blocks(title="Nightschool", fill_height=True, analytics_enabled=False) as blocks:
        header = gr.HTML(header_html(None, page="chat"))
        conversation = gr.State("")
        chat = gr.Chatbot(
            elem_id="ns-chat",
            label="Conversation",
            show_label=False,
            height=None,
            scale=1,
            layout="bubble",
            placeholder=EMPTY,
            buttons=[],
            feedback_options=None,
            latex_delimiters=[],
            allow_tags=False,
            group_consecutive_messages=False,
        )
        notice = gr.HTML("", elem_id="ns-notice")
        with gr.Row(elem_id="ns-ask"):
            question = gr.Textbox(
                elem_id="ns-question",
                label="Your question",
                show_label=False,
                container=False,
                placeholder="Your question",
                lines=1,
                max_lines=6,
                autofocus=True,
                scale=1,
            )
            send = gr.Button("Ask", variant="primary", elem_id="ns-send")
            stop = gr.Button("Stop", variant="stop", visible=False, elem_id="ns-stop")
        with gr.Row(elem_id="ns-under"):
            history = gr.Checkbox(label="Use earlier questions", info=HISTORY_INFO, elem_id="ns-history", container=False)
            choices = collection_choices(services)
            collection = gr.Dropdown(
                label="Answer from",
                choices=choices,
                value="",
                visible=len(choices) > 2,
                filterable=False,
                elem_id="ns-from",
                min_width=160,
                scale=0,
            )
            new = gr.Button("New conversation", size="sm", elem_id="ns-new")
        _connect(page, blocks, header, chat, question, history, collection, conversation, notice, send, stop, new)
    return blocks.queue(default_concurrency_limit=None)


def _connect(
    page: ChatPage,
    blocks: gr.Blocks,
    header: gr.HTML,
    chat: gr.Chatbot,
    question: gr.Textbox,
    history: gr.Checkbox,
    collection: gr.Dropdown,
    conversation: gr.State,
    notice: gr.HTML,
    send: gr.Button,
    stop: gr.Button,
    new: gr.Button,
) -> None:
    """Connect the components with the handlers. `Chat` has the queue that counts; Gradio's lets everybody through."""
    hidden: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}
    asking: dict[str, Any] = {
        "inputs": [question, history, collection, conversation],
        "outputs": [chat, question, conversation, notice, send, stop],
        "concurrency_limit": None,
        **hidden,
    }
    blocks.load(page.open, None, [header, chat, conversation, history, collection], **hidden)
    gr.on([question.submit, send.click], page.ask, trigger_mode="once", **asking)
    chat.example_select(_chosen, None, question, **hidden).then(page.ask, **asking)
    stop.click(page.stop, conversation, None, queue=False, **hidden)
    new.click(page.start_over, None, [chat, conversation, notice], queue=False, **hidden)


def _chosen(event: gr.SelectData) -> str:
    return str(event.value["text"])
