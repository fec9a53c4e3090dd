"""`nightschool serve`: one process that serves the pages, follows the registry and rings for the nights."""

from __future__ import annotations

import contextlib
import secrets
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import uvicorn

from assistant.config import Settings
from assistant.home import Home
from assistant.services import Services, open_services
from assistant.web.app import create_app
from feedback.errors import DocumentError, NightschoolError
from training.schedule import NightClock

FIRST_ADMIN = "admin"
FOLLOW_SECONDS = 1.0


def bind(host: str, port: int) -> socket.socket:
    """Take the address before anything is loaded. Raises NightschoolError when it is busy."""
    try:
        listening = socket.create_server((host, port), backlog=256)
    except OSError as error:
        raise NightschoolError(
            f"The address {host}:{port} cannot be used ({error.strerror}): stop what uses it, or choose another with --port."
        ) from error
    listening.set_inheritable(True)
    return listening


def first_login(services: Services) -> str | None:
    """Make the first admin when nobody may log in yet; returns the one-time password to print.

    What is printed ends up in logs and terminals: it is good for the first login, which replaces it.
    """
    if services.store.users():
        return None
    password = secrets.token_urlsafe(12)
    services.store.add_user(FIRST_ADMIN, password, "admin", one_time=True)
    return password


def set_up(services: Services) -> list[str]:
    """Bring a home up to date before it serves; returns sentences about what was found."""
    said: list[str] = []
    interrupted = services.store.mark_interrupted()
    if interrupted:
        said.append(f"{interrupted} answers were cut off when the last server died; their questions are kept.")
    said.extend(f"Night {run.id}: {run.reason}" for run in services.ledger.recover())
    running = services.ledger.running()
    if running is not None:
        said.append(f"Night {running.id}, begun at {running.created_at} by {running.requested_by}, is still running.")
    if services.settings.documents.folder:
        try:
            report = services.documents.add_folder(Path(services.settings.documents.folder))
        except DocumentError as error:
            said.append(f"{error} What was indexed before is still served.")
        else:
            said.extend(report.unread)
    return said


@contextlib.contextmanager
def following(services: Services) -> Iterator[None]:
    """Look at the registry's pointer every second, in a thread, and swap when it moved."""
    stop = threading.Event()

    def follow() -> None:
        refused = ""
        while not stop.wait(FOLLOW_SECONDS):
            wanted = services.registry.current()
            if wanted == refused:
                continue  # said once; a new promotion is looked at anew
            refused = wanted if services.follow_registry() else ""

    thread = threading.Thread(target=follow, daemon=True, name="follow-registry")
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(timeout=30)


class _Server(uvicorn.Server):
    """Prints where it serves once it really does."""

    def __init__(self, config: uvicorn.Config, lines: list[str]) -> None:
        super().__init__(config)
        self._lines = lines

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        print("\n".join(self._lines), flush=True)


def serve(home: Home, settings: Settings) -> None:
    """Serve until stopped. Raises NightschoolError for a busy address, a second server, a missing base model."""
    with (
        home.serving(),
        bind(settings.server.host, settings.server.port) as listening,
        open_services(home, settings) as services,
    ):
        lines = set_up(services)
        documents = len(services.documents.paths())
        password = first_login(services)
        lines.append(f"Nightschool answers from {documents} documents with {services.pool.current} on {services.engine.name}.")
        if not documents:
            lines.append("There are no documents yet: set documents.folder, or `nightschool documents add FOLDER`.")
        lines.append(f"Open http://{settings.server.host}:{settings.server.port}")
        if password:
            lines.append(f"First login: {FIRST_ADMIN} / {password}   (a one-time password: you choose your own when you log in)")
        clock = NightClock(settings.night.cron, services.ledger, lambda slot: services.start_night("schedule", slot=slot))
        config = uvicorn.Config(create_app(services), log_level="warning", timeout_graceful_shutdown=5)
        clock.start()
        try:
            with following(services):
                _Server(config, lines).run(sockets=[listening])
        finally:
            clock.stop()
