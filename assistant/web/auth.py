"""Logging in and out: a form, a session cookie, and a brake on guessing."""

from __future__ import annotations

import math
import threading
from typing import Annotated

from fastapi import APIRouter, Form, Request
from fastapi.responses import HTMLResponse, RedirectResponse, Response

from assistant.web import pages
from assistant.web.guard import COOKIE, Throttle, current_user
from feedback.errors import NightschoolError
from feedback.records import User
from feedback.store import FeedbackStore

PER_PERSON = 5
PER_ADDRESS = 30
WINDOW_SECONDS = 15 * 60.0
HASHES_AT_ONCE = 4
"""Each password check takes some 64 MiB and one core for a moment; a burst of logins must not take the machine."""

_WRONG = "The name or the password is wrong: try again."


class TooManyGuesses(NightschoolError):
    """Somebody who has to wait before he may try again."""

    def __init__(self, seconds: float) -> None:
        minutes = math.ceil(seconds / 60)
        super().__init__(f"Too many wrong passwords: try again in {minutes} minute{'s' if minutes > 1 else ''}.")
        self.headers = {"Retry-After": str(math.ceil(seconds))}  # says the same to a program


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

    def check(self, name: str, password: str, address: str) -> User | None:
        """Return the user, or None when the name or the password is wrong (which is counted). Raises TooManyGuesses."""
        person = _person(name, address)
        with self._hashing:  # counted in here: people who wait for their turn are no guesses
            self._count(person, address)
            user = self._store.verify_user(name, password)
        if user is not None:
            self._per_person.forget(person)
            self._per_address.take_back(address)
        return user

    def _count(self, person: str, address: str) -> None:
        wait = self._per_person.attempt(person)
        if wait == 0:
            wait = self._per_address.attempt(address)
            if wait:
                self._per_person.take_back(person)
        if wait:
            raise TooManyGuesses(wait)

    def open(self, name: str, password: str, address: str) -> str | None:
        """Return the token of a new session, or None when the name or the password is wrong (counted). Raises TooManyGuesses."""
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
        try:
            token = logins.open(name, password, address)
        except TooManyGuesses as many:
            page = pages.login(error=str(many), name=name, next_path=target)
            return HTMLResponse(page, status_code=429, headers=many.headers)
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
