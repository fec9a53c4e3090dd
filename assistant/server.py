"""`nightschool serve`: one process that serves the pages, follows the registry and rings for the nights."""

from __future__ import annotations

import contextlib
import logging
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import uvicorn
from fastapi import FastAPI

from assistant.config import Settings
from assistant.home import Home
from assistant.librarian import Librarian
from assistant.services import Services, open_services
from assistant.web.app import create_app
from feedback.errors import DocumentError, NightschoolError
from feedback.store import FeedbackStore
from training.schedule import NightClock

_log = logging.getLogger(__name__)

FIRST_ADMIN = "admin"
FOLLOW_SECONDS = 1.0
FIRST_LOOK_SECONDS = 20.0
"""A start waits so long for the documents to be read; more are read while it serves."""


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


def first_login(store: FeedbackStore) -> tuple[str, str] | None:
    """Make the first admin when there is none yet; returns his name and the one-time password to print.

    What is printed ends up in logs and terminals: it is good for the first login, which replaces it. An only admin who has
    not logged in since gets another one, because the first may be lost.
    """
    users = store.users()
    admins = [user for user in users if user.role == "admin"]
    if not admins:
        taken = {user.name.casefold() for user in users}
        names = (FIRST_ADMIN, *(f"{FIRST_ADMIN}{number}" for number in range(2, len(users) + 2)))
        name = next(each for each in names if each not in taken)
        return name, store.add_with_one_time_password(name, "admin")
    if len(admins) == 1 and admins[0].must_change_password:
        return admins[0].name, store.reset_password(admins[0].name, by="server")
    return None


def set_up(services: Services) -> list[str]:
    """Bring a home up to date before it serves; returns sentences about what was found."""
    said: list[str] = []
    if services.refused:
        services.put_back(services.refused)
        said.append(f"{services.refused.reason} In service: {services.pool.current or 'nothing'}.")
    interrupted = services.store.mark_interrupted()
    if interrupted:
        said.append(f"{interrupted} answers were cut off when the last server died; their questions are kept.")
    said.extend(f"Night {run.id}: {run.reason}" for run in services.ledger.recover())
    running = services.ledger.running()
    if running is not None:
        said.append(f"Night {running.id}, begun at {running.created_at} by {running.requested_by}, is still running.")
    if services.settings.documents.folder:
        try:
            services.library.name_setting(Path(services.settings.documents.folder))
        except DocumentError as error:
            said.append(f"{error} What was indexed before is still served.")
    else:
        services.library.forget_setting()
    return said


def documents_lines(services: Services, librarian: Librarian) -> list[str]:
    """Say what is there to answer from, after giving a folder of ordinary size the time to be read."""
    in_time = librarian.looked.wait(FIRST_LOOK_SECONDS)
    documents = len(services.documents.paths())
    said = list(services.library.unread)
    if not in_time:
        said.append("The documents are still being read: what is there already can be asked.")
    waiting = services.library.waiting()
    if waiting:
        said.append(f"{waiting:,} passages are being encoded; until then they are found by their words alone.")
    said.append(f"Nightschool answers from {documents} documents with {services.pool.current} on {services.engine.name}.")
    if not documents and in_time:
        said.append("There are no documents yet: set documents.folder, or `nightschool documents add FOLDER`.")
    return said


@contextlib.contextmanager
def following(services: Services) -> Iterator[None]:
    """Look at the registry's pointer every second, in a thread, and swap when it moved."""
    stop = threading.Event()

    def follow() -> None:
        looked_at = -1
        while not stop.wait(FOLLOW_SECONDS):
            try:
                moves = services.registry.moves()
                if moves != looked_at:  # what was refused once is not loaded again every second
                    services.follow_registry()
                looked_at = moves
            except Exception as error:  # the outer edge of the thread: a disk that is full for a minute must not end it
                _log.warning("The registry could not be followed (%s): it is tried again.", error)

    thread = threading.Thread(target=follow, daemon=True, name="follow-registry")
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(timeout=30)


class Server(uvicorn.Server):
    """Says what was found and where it serves once it really does; a first login is made only then, as it is shown once."""

    def __init__(self, app: FastAPI, lines: list[str], store: FeedbackStore) -> None:
        # no logging set-up of uvicorn's own: it would close the handlers of others, and their streams with them
        super().__init__(uvicorn.Config(app, log_level="warning", log_config=None, timeout_graceful_shutdown=5))
        self.lines = lines
        self._store = store

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start, and print the lines."""
        await super().startup(sockets)
        if self.should_exit:
            return
        login = first_login(self._store)
        if login:
            self.lines.append(
                f"First login: {login[0]} / {login[1]}   (a one-time password: you choose your own when you log in)"
            )
        print("\n".join(self.lines), flush=True)


def build(services: Services) -> tuple[Server, NightClock]:
    """Bring the home up to date and build what serves it; nothing runs yet. Raises SettingsError for a bad night.cron."""
    clock = NightClock(services.settings.night.cron, services.ledger, lambda slot: services.start_night("schedule", slot=slot))
    app = create_app(services)
    return Server(app, set_up(services), services.store), clock


def librarian_of(services: Services) -> Librarian:
    """Return the librarian of a server."""
    return Librarian(services.library, minutes=services.settings.documents.watch_minutes, uploads=services.home.uploads)


def serve(home: Home, settings: Settings, *, prepare: Callable[[], None] = lambda: None) -> None:
    """Serve until stopped. Raises NightschoolError for a busy address, a second server, a missing base model.

    `prepare` may take its minute: it is called once it is clear that this process is the one that serves.
    """
    with home.serving(), bind(settings.server.host, settings.server.port) as listening:
        prepare()
        with open_services(home, settings) as services:
            _serve(services, listening)


def _serve(services: Services, listening: socket.socket) -> None:
    """Serve until stopped, on a socket that listens."""
    address = services.settings.server
    server, clock = build(services)
    with librarian_of(services) as librarian, following(services):
        server.lines.extend(documents_lines(services, librarian))
        server.lines.append(f"Open http://{address.host}:{address.port}")
        clock.start()
        try:
            server.run(sockets=[listening])
        finally:
            clock.stop()
