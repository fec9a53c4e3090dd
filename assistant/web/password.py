"""Choosing a password of one's own: in place of a one-time one before anything else opens, or at any time."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Form, Request
from fastapi.responses import HTMLResponse, RedirectResponse, Response

from assistant.web import pages
from assistant.web.auth import Logins, TooManyGuesses, address_of, keep_session, safe_next
from assistant.web.guard import LOGIN_FIRST, current_user, problem_response
from feedback.errors import StoreError

_NOT_THE_SAME = "The two passwords are not the same: type the new one twice."
_WRONG = "The current password is wrong: try again."
_CHANGED = "Your password is changed, and your logins elsewhere have ended."


def password_routes(logins: Logins) -> APIRouter:
    """Return the routes of /password. Who came with a one-time password has just typed it, and is not asked for it again."""
    router = APIRouter()

    @router.get("/password", response_class=HTMLResponse)
    def show(request: Request, next: str = "/") -> Response:
        user = current_user(request)
        if user is None:
            return problem_response(request, 401, LOGIN_FIRST)
        return HTMLResponse(pages.password(name=user.name, one_time=user.must_change_password, next_path=safe_next(next)))

    @router.post("/password", response_class=HTMLResponse)
    def change(
        request: Request,
        current: Annotated[str, Form()] = "",
        new: Annotated[str, Form()] = "",
        repeated: Annotated[str, Form()] = "",
        next: Annotated[str, Form()] = "/",
    ) -> Response:
        user = current_user(request)
        if user is None:
            return problem_response(request, 401, LOGIN_FIRST)
        one_time, target, address = user.must_change_password, safe_next(next), address_of(request)

        def again(sentence: str, status: int, headers: dict[str, str] | None = None) -> Response:
            page = pages.password(name=user.name, one_time=one_time, next_path=target, error=sentence)
            return HTMLResponse(page, status_code=status, headers=headers)

        if new != repeated:
            return again(_NOT_THE_SAME, 400)
        if not one_time:
            try:
                known = logins.check(user.name, current, address)
            except TooManyGuesses as many:
                return again(str(many), 429, many.headers)
            if known is None:
                return again(_WRONG, 401)
        try:
            token = logins.change(user, new)
        except StoreError as error:
            return again(str(error), 400)
        # a first login goes on to where it was going; a change in between says that it was made
        response: Response = RedirectResponse(target, status_code=303) if one_time else HTMLResponse(pages.problem(_CHANGED))
        keep_session(request, response, token, seconds=logins.seconds)
        return response

    return router
