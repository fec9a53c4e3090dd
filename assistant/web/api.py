"""What the pages' script and other programs call: health, ratings, and the pages of the documents."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse, JSONResponse, Response
from pydantic import BaseModel, ConfigDict

from assistant.documents.store import MAIN, Document
from assistant.services import Services
from assistant.web import pages
from assistant.web.document_view import render_page
from assistant.web.guard import LOGIN_FIRST, current_user, problem_response
from assistant.web.messages import feedback_state, page_word, question_state
from feedback.errors import DocumentError, NotYourTurn, UnknownTurn
from feedback.records import Feedback, Passage, Thumb, User
from feedback.store import FeedbackStore

CHANGED = "This page has changed since the answer was written, so the passage is not marked."
OLD = "This is the page as it was when the answer was written; it has changed since."


class RatingBody(BaseModel):
    """What somebody says of an answer. A field that is left out stays as it is; null (or "") withdraws it."""

    model_config = ConfigDict(extra="forbid")

    thumb: Thumb | None = None
    reasons: tuple[str, ...] = ()
    comment: str = ""
    correction: str | None = None


class QuestionBody(BaseModel):
    """What goes to the document owner with a question."""

    model_config = ConfigDict(extra="forbid")

    note: str = ""


def health(services: Services) -> dict[str, Any]:
    """Return what runs: the state of the server, what serves, and the night that is running (or None)."""
    running = services.ledger.running()
    return {
        "status": "ok",
        "adapter": services.pool.current,
        "base": services.base.name,
        "engine": services.engine.name,
        "night": None if running is None else {"run": running.id, "state": running.state, "step": running.step},
    }


def save_rating(store: FeedbackStore, *, turn_id: str, user: User, body: RatingBody) -> Feedback:
    """Record what `body` names, and return what the user says of the turn now.

    Raises UnknownTurn, NotYourTurn, and StoreError for a value that cannot be stored.
    """
    said = body.model_fields_set
    now = store.feedback(turn_id, user.id) or Feedback(turn_id=turn_id, user_id=user.id)
    if said & {"thumb", "reasons", "comment"}:
        now = store.rate(
            turn_id,
            user.id,
            body.thumb if "thumb" in said else now.thumb,
            reasons=body.reasons if "reasons" in said else now.reasons,
            comment=body.comment if "comment" in said else now.comment,
        )
    if "correction" in said:
        now = store.correct(turn_id, user.id, (body.correction or "").strip() or None, verified=user.role == "admin")
    return now


def api_routes(services: Services) -> APIRouter:
    """Return the routes /health, /api/turns/{id}/rating, /api/turns/{id}/question and /documents/{path}."""
    router = APIRouter()
    store = services.store

    @router.get("/health")
    def show_health() -> dict[str, Any]:
        return health(services)

    @router.post("/api/turns/{turn_id}/rating")
    def rate(request: Request, turn_id: str, body: RatingBody) -> Response:
        user = current_user(request)
        if user is None:
            return JSONResponse({"error": LOGIN_FIRST}, status_code=401)
        now = save_rating(store, turn_id=turn_id, user=user, body=body)
        return JSONResponse(feedback_state(turn_id, now))

    @router.post("/api/turns/{turn_id}/question")
    def send_question(request: Request, turn_id: str, body: QuestionBody) -> Response:
        user = current_user(request)
        if user is None:
            return JSONResponse({"error": LOGIN_FIRST}, status_code=401)
        return JSONResponse(question_state(turn_id, store.send_question(turn_id, user.id, body.note)))

    @router.get("/documents/{path:path}", response_class=HTMLResponse)
    def show_document(request: Request, path: str, collection: str = MAIN, turn: str = "", passage: int = 0) -> Response:
        marked = _passage(store, current_user(request), turn_id=turn, number=passage, path=path, collection=collection)
        try:
            document = services.documents.document(
                path, collection=collection, version=marked.document_version if marked else None
            )
        except DocumentError:
            return problem_response(request, 404, f"There is no page {path!r} any more: it was removed, or the link is wrong.")
        return HTMLResponse(_document_page(document, marked))

    return router


def _document_page(document: Document, marked: Passage | None) -> str:
    """Return the page of a document, with a passage marked: at its place in the version that the turn saw, else by its text."""
    same = marked is not None and marked.document_version == document.version
    body, found = render_page(
        document.text,
        passage=marked.text if marked else "",
        place=(marked.start, marked.end) if marked and same else (0, 0),
        pages=document.pages,
        page_word=page_word(document.name).capitalize(),
        collection="" if document.collection == MAIN else document.collection,
    )
    note = "" if document.current else OLD
    if marked and not found:
        note = CHANGED
    where = f"/documents/{quote(document.name)}?collection={quote(document.collection, safe='')}"
    return pages.document(
        title=document.title,
        path=document.name,
        collection="" if document.collection == MAIN else document.collection,
        version=document.version,
        body=body,
        note=note,
        now="" if document.current else where,
    )


def _passage(store: FeedbackStore, user: User | None, *, turn_id: str, number: int, path: str, collection: str) -> Passage | None:
    """Return the passage of a turn to mark, None when none is asked for. Raises NotYourTurn.

    Passages are found by their text as the turn stored it: the ids of chunks change when a page is indexed anew.
    """
    if not turn_id or user is None:
        return None
    try:
        turn = store.turn(turn_id)
    except UnknownTurn:
        return None
    if turn.asked.user_id != user.id and user.role != "admin":
        raise NotYourTurn(turn_id, user.name)
    wanted = (number, path, collection)
    return next((each for each in turn.passages if (each.number, each.document, each.collection) == wanted), None)


def sentence_of_validation(errors: Mapping[str, Any]) -> str:
    """Return one sentence for the first fault of a request's body."""
    place = ".".join(str(part) for part in errors["loc"] if part != "body") or "the body"
    return f"The request cannot be read: {place} is wrong ({str(errors['msg']).lower()})."
