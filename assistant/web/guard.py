"""The door of the web server: every request passes here before any page, any asset and any Gradio function.

It asks two questions. Does a request that changes something come from our own pages (Origin)? Who is logged in, and may he
have this path? What is not named public needs a login, with a password of one's own; everything below /admin needs an admin.
The pages and functions ask for the role once more, since a rule that stands in one place only is one mistake away from not
standing.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from urllib.parse import quote, urlsplit

from fastapi import Request
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import HTMLResponse, JSONResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from assistant.web import pages
from feedback.errors import NightschoolError
from feedback.records import User
from feedback.store import FeedbackStore

COOKIE = "nightschool_session"
PUBLIC = frozenset({"/login", "/health"})
BEFORE_A_PASSWORD = frozenset({"/password", "/logout"})
"""What a one-time password opens, besides what is public."""
SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})

CONTENT_POLICY = (
    # Gradio's pages carry inline scripts and styles, and its charts compile expressions; all of it comes from this server.
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; font-src 'self' data:; worker-src 'self' blob:; connect-src 'self' data: blob:; "
    "frame-ancestors 'none'; form-action 'self'; base-uri 'self'; object-src 'none'"
)
"""No page may load from, or send to, another server: a passage or an answer that smuggles in an image address leaks nothing."""

LOGIN_FIRST = "You are not logged in, or your login has ended: log in again."
FOREIGN_ORIGIN = "This request came from another site: open Nightschool itself and try again."
ADMINS_ONLY = "Only an admin can open this page: ask one for the role, or go back to the chat."
CHANGE_FIRST = "Your password is a one-time password: open /password and choose one of your own first."


def same_origin(headers: Headers) -> bool:
    """Say whether a request that changes something comes from our own pages.

    Browsers send Origin with every such request; a client that sends none (curl, a script) holds no one else's cookie.
    Only host and port are compared: behind a proxy that ends TLS this server cannot know the scheme of the page.
    """
    origin = headers.get("origin")
    if origin is None:
        return headers.get("sec-fetch-site", "none") in ("none", "same-origin")
    return bool(origin != "null" and urlsplit(origin).netloc == headers.get("host", ""))


def current_user(request: Request) -> User | None:
    """Return who sent this request, as the guard found; None outside of the guard or without a login."""
    user = getattr(request.state, "user", None)
    return user if isinstance(user, User) else None


class Guard:
    """ASGI middleware: refuses foreign and unauthorised requests, and puts the user into `request.state.user`."""

    def __init__(self, app: ASGIApp, *, store: FeedbackStore) -> None:
        self._app = app
        self._store = store

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or answer it here."""
        if scope["type"] != "http":  # the life span; no page uses web sockets
            if scope["type"] == "lifespan":
                await self._app(scope, receive, send)
            return
        request = Request(scope)
        try:
            user = await self._user(request)
        except NightschoolError as error:
            await _problem(request, 503, str(error))(scope, receive, _hardened(send))
            return
        refusal = _refusal(request, user)
        if refusal is not None:
            await refusal(scope, receive, _hardened(send))
            return
        # a dict of its own: the server shares one between requests
        await self._app({**scope, "state": {**scope.get("state", {}), "user": user}}, receive, _hardened(send))

    async def _user(self, request: Request) -> User | None:
        token = request.cookies.get(COOKIE)
        return await run_in_threadpool(self._store.session_user, token) if token else None


def _refusal(request: Request, user: User | None) -> Response | None:
    """Return the answer to a request that may not pass, or None."""
    path = request.url.path
    if request.method not in SAFE_METHODS and not same_origin(request.headers):
        return _problem(request, 403, FOREIGN_ORIGIN)
    if path in PUBLIC:
        return None
    if user is None:
        if _wants_page(request):
            return _first("/login", path)
        return JSONResponse({"error": LOGIN_FIRST}, status_code=401)
    if user.must_change_password and path not in BEFORE_A_PASSWORD:
        return _first("/password", path) if _wants_page(request) else _problem(request, 403, CHANGE_FIRST)
    if (path == "/admin" or path.startswith("/admin/")) and user.role != "admin":
        return _problem(request, 403, ADMINS_ONLY)
    return None


def _first(page: str, path: str) -> Response:
    """Send a person to `page`, which sends him on to `path` when he is done."""
    return RedirectResponse(f"{page}?next={quote(path)}" if path != "/" else page, status_code=303)


def _wants_page(request: Request) -> bool:
    return request.method == "GET" and "text/html" in request.headers.get("accept", "")


def _problem(request: Request, status: int, sentence: str) -> Response:
    """Answer with one sentence: as a page to a person, as JSON to a program."""
    if _wants_page(request):
        return HTMLResponse(pages.problem(sentence), status_code=status)
    return JSONResponse({"error": sentence}, status_code=status)


problem_response = _problem


def _hardened(send: Send) -> Send:
    """Add the headers that hold for every answer."""

    async def sending(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            headers["Content-Security-Policy"] = CONTENT_POLICY
            headers["X-Content-Type-Options"] = "nosniff"
            headers["Referrer-Policy"] = "same-origin"
            if headers.get("content-type", "").startswith("text/html"):
                headers["Cache-Control"] = "no-store"  # after a logout, "back" must not show a page again
        await send(message)

    return sending


class Throttle:
    """Counts failures by key and says how long to wait; forgets them after `window` seconds. Kept in memory only.

    An attempt counts as failed from its start until it is taken back: of many at once only `allowed` begin. `clock` gives
    seconds. Safe to share between threads.
    """

    def __init__(
        self, *, allowed: int, window: float, clock: Callable[[], float] = time.monotonic, most_keys: int = 10_000
    ) -> None:
        self._allowed = allowed
        self._window = window
        self._clock = clock
        self._most_keys = most_keys
        self._failures: dict[str, list[float]] = {}
        self._lock = threading.Lock()

    def attempt(self, key: str) -> float:
        """Count an attempt of this key and return 0; or count nothing and return the seconds until it may try again."""
        with self._lock:
            recent, now = self._recent(key), self._clock()
            if len(recent) >= self._allowed:
                return recent[-self._allowed] + self._window - now
            if key not in self._failures and len(self._failures) >= self._most_keys:
                self._failures.pop(next(iter(self._failures)))  # the oldest key; an attacker's flood must not grow the memory
            self._failures[key] = [*recent, now]
            return 0.0

    def take_back(self, key: str) -> None:
        """Forget the newest attempt of this key: it did not fail."""
        with self._lock:
            recent = self._failures.pop(key, [])[:-1]
            if recent:
                self._failures[key] = recent

    def forget(self, key: str) -> None:
        """Forget all attempts of this key."""
        with self._lock:
            self._failures.pop(key, None)

    def _recent(self, key: str) -> list[float]:
        oldest = self._clock() - self._window
        return [at for at in self._failures.get(key, ()) if at > oldest]
