"""Logging in and out: a form, a session cookie, and a brake on guessing."""

from __future__ import annotations

import math
import threading
from typing import Annotated

from fastapi import APIRouter, Form, Request
from fastapi.responses import HTMLResponse, RedirectResponse, Response

from assistant.web import pages
from assistant.web.guard import COOKIE, Throttle, current_user
from feedback.records import User
from feedback.store import FeedbackStore

PER_PERSON = 5
PER_ADDRESS = 30
WINDOW_SECONDS = 15 * 60.0
HASHES_AT_ONCE = 4
"""Each password check takes some 64 MiB and one core for a moment; a burst of logins must not take the machine."""

_WRONG = "The name or the password is wrong: try again."


class Logins:
    """Checks passwords, counts failures by person and address, and opens sessions."""

    def __init__(
        self, store: FeedbackStore, *, hours: int, per_person: Throttle | None = None, per_address: Throttle | None = None
    ) -> None:
        self._store = store
        self._hours = hours
        self._per_person = per_person or Throttle(allowed=PER_PERSON, window=WINDOW_SECONDS)
        self._per_address = per_address or Throttle(allowed=PER_ADDRESS, window=WINDOW_SECONDS)
        self._hashing = threading.BoundedSemaphore(HASHES_AT_ONCE)

    @property
    def seconds(self) -> int:
        """How long a login lasts."""
        return self._hours * 3600

    def wait(self, name: str, address: str) -> float:
        """Return the seconds until this person may try again from this address; 0 when now."""
        return max(self._per_person.wait_seconds(_person(name, address)), self._per_address.wait_seconds(address))

    def check(self, name: str, password: str, address: str) -> User | None:
        """Return the user, or None when the name or the password is wrong (which is counted)."""
        with self._hashing:
            user = self._store.verify_user(name, password)
        if user is None:
            self._per_person.failed(_person(name, address))
            self._per_address.failed(address)
            return None
        self._per_person.succeeded(_person(name, address))
        return user

    def open(self, name: str, password: str, address: str) -> str | None:
        """Return the token of a new session, or None when the name or the password is wrong (which is counted)."""
        user = self.check(name, password, address)
        return self._store.open_session(user.id, hours=self._hours) if user else None

    def change(self, user: User, password: str) -> str:
        """Set a new password, which ends all sessions of `user`, and return the token of a new one. Raises StoreError."""
        with self._hashing:
            self._store.set_password(user.name, password)
        return self._store.open_session(user.id, hours=self._hours)


def _person(name: str, address: str) -> str:
    # With the address: somebody else's guesses must not lock a person out of his own machine.
    return f"{' '.join(name.split()).casefold()[:100]}\n{address}"


def address_of(request: Request) -> str:
    """Return the address that a request came from."""
    return request.client.host if request.client else "unknown"


def wait_sentence(seconds: float) -> str:
    """Return what somebody reads who has to wait before he may try again."""
    minutes = math.ceil(seconds / 60)
    return f"Too many wrong passwords: try again in {minutes} minute{'s' if minutes > 1 else ''}."


def retry_after(seconds: float) -> dict[str, str]:
    """Return the header that says the same to a program."""
    return {"Retry-After": str(math.ceil(seconds))}


def keep_session(request: Request, response: Response, token: str, *, seconds: int) -> None:
    """Give the browser a session token to keep: out of reach of scripts and of other sites."""
    response.set_cookie(
        COOKIE, token, max_age=seconds, httponly=True, samesite="lax", secure=request.url.scheme == "https", path="/"
    )


def safe_next(path: str) -> str:
    """Return the path to go to after a login: only one on this server, else the chat."""
    return path if path.startswith("/") and not path.startswith(("//", "/\\")) and path.isprintable() else "/"


def login_routes(logins: Logins, store: FeedbackStore) -> APIRouter:
    """Return the routes /login and /logout."""
    router = APIRouter()

    @router.get("/login", response_class=HTMLResponse)
    def show(request: Request, next: str = "/") -> Response:
        if request.cookies.get(COOKIE) and store.session_user(request.cookies[COOKIE]):
            return RedirectResponse(safe_next(next), status_code=303)
        return HTMLResponse(pages.login(next_path=safe_next(next)))

    @router.post("/login", response_class=HTMLResponse)
    def log_in(
        request: Request,
        name: Annotated[str, Form()] = "",
        password: Annotated[str, Form()] = "",
        next: Annotated[str, Form()] = "/",
    ) -> Response:
        address = address_of(request)
        target = safe_next(next)
        wait = logins.wait(name, address)
        if wait > 0:
            page = pages.login(error=wait_sentence(wait), name=name, next_path=target)
            return HTMLResponse(page, status_code=429, headers=retry_after(wait))
        token = logins.open(name, password, address)
        if token is None:
            return HTMLResponse(pages.login(error=_WRONG, name=name, next_path=target), status_code=401)
        response = RedirectResponse(target, status_code=303)
        keep_session(request, response, token, seconds=logins.seconds)
        return response

    @router.post("/logout")
    def log_out(request: Request) -> Response:
        token = request.cookies.get(COOKIE)
        if token and current_user(request) is not None:
            store.close_session(token)
        response = RedirectResponse("/login", status_code=303)
        response.delete_cookie(COOKIE, path="/", httponly=True, samesite="lax")
        return response

    return router
