"""The web application: the door, the login, the API, and two Gradio pages with a door each."""

from __future__ import annotations

import json
import os

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import RedirectResponse, Response
from starlette.middleware.cors import CORSMiddleware

from assistant.services import Services
from assistant.web import pages
from assistant.web.admin_metrics import metrics_routes
from assistant.web.api import api_routes, sentence_of_validation
from assistant.web.auth import Logins, login_routes
from assistant.web.guard import Guard, current_user, problem_response
from assistant.web.password import password_routes
from assistant.web.report import report_routes
from feedback.errors import NightschoolError, NotYourTurn, UnknownTurn
from feedback.records import REASONS

STATUS: tuple[tuple[type[NightschoolError], int], ...] = ((UnknownTurn, 404), (NotYourTurn, 403), (NightschoolError, 400))
"""The HTTP status of an error; the first class that fits."""


def create_app(services: Services, *, logins: Logins | None = None) -> FastAPI:
    """Build the application over open services; the caller runs the server. `logins` lets tests bring a clock of theirs."""
    os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")  # read by Gradio when it is imported
    app = FastAPI(title="Nightschool", docs_url=None, redoc_url=None, openapi_url=None)
    _add_error_sentences(app)
    logins = logins or Logins(services.store, hours=services.settings.server.session_hours)
    app.include_router(login_routes(logins, services.store))
    app.include_router(password_routes(logins))
    app.include_router(api_routes(services))
    app.include_router(report_routes(services))
    app.include_router(metrics_routes(services))
    # the last one added is the first one asked: the guard stands before everything
    app.add_middleware(
        CORSMiddleware, allow_origins=[], allow_methods=["GET", "POST"]
    )  # with this, Gradio adds no CORS of its own
    app.add_middleware(Guard, store=services.store)

    @app.get("/admin", include_in_schema=False)
    def admin_with_slash() -> Response:
        return RedirectResponse("/admin/", status_code=307)  # a mount has what is below it, and the chat would take this path

    _mount_pages(app, services)
    return app


def _add_error_sentences(app: FastAPI) -> None:
    @app.exception_handler(NightschoolError)
    def known(request: Request, error: NightschoolError) -> Response:
        return problem_response(request, next(status for kind, status in STATUS if isinstance(error, kind)), str(error))

    @app.exception_handler(RequestValidationError)
    def unreadable(request: Request, error: RequestValidationError) -> Response:
        return problem_response(request, 422, sentence_of_validation(error.errors()[0]))


def _mount_pages(app: FastAPI, services: Services) -> None:
    """Mount the admin page and then the chat, which takes every path that is left."""
    import gradio as gr

    from assistant.web.admin_page import admin_page
    from assistant.web.chat_page import chat_page

    largest = f"{services.settings.documents.max_mb}mb"
    for path, blocks, who, upload in (
        ("/admin", admin_page(services), _admin_name, largest),
        ("/", chat_page(services), _user_name, "1kb"),  # the chat takes no files
    ):
        gr.mount_gradio_app(
            app,
            blocks,
            path=path,
            auth_dependency=who,
            theme=_theme(),
            css=pages.static_text("app.css"),
            head=_head(),
            footer_links=[],
            run_history=False,
            show_error=False,
            enable_monitoring=False,
            max_file_size=upload,
            ssr_mode=False,
            pwa=False,
        )


def _user_name(request: Request) -> str | None:
    user = current_user(request)
    return user.name if user else None


def _admin_name(request: Request) -> str | None:
    user = current_user(request)
    return user.name if user and user.role == "admin" else None


def _head() -> str:
    script = "".join(pages.static_text(name) for name in ("elements.js", "rating.js", "question.js"))
    script = script.replace("/*REASONS*/[]/*REASONS*/", json.dumps(list(REASONS)))
    return f'<meta name="color-scheme" content="light dark"><script>{script}</script>'


def _theme() -> object:
    """Return a quiet theme on the fonts of the reader's own machine: no page loads anything from elsewhere."""
    import gradio as gr

    return gr.themes.Default(
        primary_hue=gr.themes.colors.blue,
        neutral_hue=gr.themes.colors.slate,
        radius_size=gr.themes.sizes.radius_md,
        font=["system-ui", "-apple-system", "Segoe UI", "Roboto", "Helvetica Neue", "Arial", "sans-serif"],
        font_mono=["ui-monospace", "Menlo", "Consolas", "monospace"],
    ).set(
        body_text_color_subdued="*neutral_600",  # Gradio's own are too pale to read: 2.6 to 1 on white
        body_text_color_subdued_dark="*neutral_400",
        input_placeholder_color="*neutral_500",
        input_placeholder_color_dark="*neutral_400",
        checkbox_border_color="*neutral_500",
        checkbox_border_color_dark="*neutral_400",
        input_border_color="*neutral_500",
        input_border_color_dark="*neutral_500",
        button_primary_background_fill="#1f4d78",
        button_primary_background_fill_hover="#173b5d",
        button_primary_background_fill_dark="#1f4d78",
        button_primary_background_fill_hover_dark="#2a6299",
        button_primary_text_color="#ffffff",
        button_primary_text_color_dark="#ffffff",
    )
