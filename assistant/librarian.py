"""The server's librarian: a thread that encodes what waits, and looks at the watched folders again by schedule."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from pathlib import Path
from types import TracebackType

from assistant.library import Library
from feedback.errors import ModelError

_log = logging.getLogger(__name__)
POLL_SECONDS = 2.0
"""How soon what another process added is encoded."""


class Librarian:
    """Keeps the index of one library complete while a server runs, from a first look at the folders on. A context manager."""

    def __init__(self, library: Library, *, minutes: float, uploads: Path | None = None) -> None:
        self._library = library
        self._uploads = uploads
        self._minutes = minutes
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True, name="librarian")
        self._seen = -1  # the generation of the store that is encoded
        self._failures: dict[str, str] = {}
        self.looked = threading.Event()
        """Set once the folders were looked at for the first time."""

    def __enter__(self) -> Librarian:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._stop.set()
        self._thread.join(timeout=30)

    def _run(self) -> None:
        self._attempt(self._look, "looked at")
        self.looked.set()
        self._attempt(self._warm, "encoded")
        since_look = 0.0
        while True:
            self._attempt(self._encode, "encoded")
            if self._minutes and since_look >= self._minutes * 60:
                since_look = 0.0
                self._attempt(self._look, "looked at")
            if self._stop.wait(POLL_SECONDS):
                return
            since_look += POLL_SECONDS

    def _warm(self) -> None:
        if said := self._library.warm():
            raise ModelError(said)

    def _encode(self) -> None:
        generation = self._library.store.generation()
        if generation != self._seen:
            self._library.index(stopped=self._stop.is_set)
            self._seen = generation  # not what it is by now: what was added meanwhile is encoded in the next round

    def _look(self) -> None:
        said = self._library.unread
        report = self._library.refresh(self._uploads)
        for sentence in (*report.unread, *report.doubts):
            if sentence not in said:  # once, not at each look
                _log.warning("%s", sentence)

    def _attempt(self, work: Callable[[], None], said: str) -> None:
        try:
            work()
        except Exception as error:  # the outer edge of the thread: what fails now is tried again
            if self._failures.get(said) != str(error):  # once, not in each round
                _log.warning("The documents could not be %s (%s): it is tried again.", said, error)
            self._failures[said] = str(error)
        else:
            self._failures.pop(said, None)
