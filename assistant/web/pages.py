"""The plain pages that Gradio has no part in: login, password, problem and document. Templates in, HTML out."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import jinja2

from feedback.users import MIN_PASSWORD_CHARS

_HERE = Path(__file__).parent


def static_text(name: str) -> str:
    """Return one of the files in `static/`: the style sheets and the script."""
    return (_HERE / "static" / name).read_text(encoding="utf-8")


@cache
def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_HERE / "templates"), autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True
    )
    environment.globals["style"] = static_text("pages.css")
    return environment


def login(*, error: str = "", name: str = "", next_path: str = "/") -> str:
    """Return the login page; `error` is a sentence above the form, `name` what was typed before."""
    return _environment().get_template("login.html").render(error=error, name=name, next_path=next_path)


def password(*, name: str, one_time: bool, next_path: str = "/", error: str = "") -> str:
    """Return the page for a new password; a `one_time` one is replaced without being asked for, `error` stands above the form."""
    template = _environment().get_template("password.html")
    return template.render(name=name, one_time=one_time, next_path=next_path, error=error, least=MIN_PASSWORD_CHARS)


def problem(sentence: str) -> str:
    """Return a page that holds one sentence and the way back."""
    return _environment().get_template("problem.html").render(sentence=sentence)


def report(*, title: str, run_id: str, body: str, links: bool) -> str:
    """Return the page of an examination, which needs no other file; `body` is safe HTML, `links` lead back to the admin page."""
    template = _environment().get_template("report.html")
    return template.render(title=title, run_id=run_id, body=body, links=links, report_style=static_text("report.css"))


def document(*, title: str, path: str, collection: str, version: int, body: str, note: str, now: str) -> str:
    """Return a page of the documents; `body` is safe HTML.

    `note` is a sentence above it (or ""), `now` the address of its newest version (or ""), `collection` "" for the main one.
    """
    template = _environment().get_template("document.html")
    return template.render(title=title, path=path, collection=collection, version=version, body=body, note=note, now=now)
