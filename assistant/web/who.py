"""Who sent a Gradio request. Every handler asks: Gradio answers any raw POST that gets through the doors before it."""

from __future__ import annotations

import gradio as gr

from assistant.web.guard import ADMINS_ONLY, LOGIN_FIRST, current_user
from feedback.records import User


def signed_in(request: gr.Request) -> User:
    """Return who sent a Gradio request. Raises gr.Error with one sentence when nobody is logged in."""
    user = current_user(request.request)
    if user is None:
        raise gr.Error(LOGIN_FIRST, print_exception=False)
    return user


def require_admin(request: gr.Request) -> User:
    """Return the admin who sent a Gradio request. Raises gr.Error with one sentence for everybody else."""
    user = signed_in(request)
    if user.role != "admin":
        raise gr.Error(ADMINS_ONLY, print_exception=False)
    return user
