"""The line at the top of both Gradio pages."""

from __future__ import annotations

from html import escape
from typing import Literal

from feedback.records import User


def header_html(user: User | None, *, page: Literal["chat", "admin"]) -> str:
    """Return the header: the name, the ways to the other page (for an admin), who is logged in, his password, and the way out."""
    if user is None:  # before the page has asked who is there
        return '<header class="ns-header"><h1>Nightschool</h1></header>'
    links = ""
    if user.role == "admin":
        links = "".join(
            f'<a href="{path}"{" aria-current=page" if name == page else ""}>{label}</a>'
            for name, path, label in (("chat", "/", "Chat"), ("admin", "/admin/", "Admin"))
        )
    return (
        f'<header class="ns-header"><h1>Nightschool</h1><nav aria-label="Pages">{links}'
        f'<span class="ns-user">{escape(user.name)}</span>'
        f'<a href="/password{"?next=/admin/" if page == "admin" else ""}">Password</a>'
        '<form method="post" action="/logout"><button>Log out</button></form></nav></header>'
    )
