"""The server's librarian: a thread that encodes what waits, and looks at the watched folders again by schedule."""

from __future__ import annotations

import logging
import threading
from types import TracebackType

from assistant.documents.intake import AddReport
from assistant.library import Library

_log = logging.getLogger(__name__)
POLL_SECONDS = 2.0
"""How soon what another process added is encoded."""


class Librarian:
    """Keeps the index of one library complete while a server runs. Use it as a context manager."""

    def __init__(self, library: Library, *, minutes: float) -> None:
        self._library = library
        self._minutes = minutes
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True, name="librarian")
        self.last_report: AddReport | None = None

    def __enter__(self) -> Librarian:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._stop.set()
        self._thread.join(timeout=30)

    def _run(self) -> None:
        said = self._library.warm()
        if said:
            _log.warning("%s", said)
        seen = -1
        since_look = 0.0
        while True:
            try:
                generation = self._library.store.generation()
                if generation != seen:
                    self._library.index(stopped=self._stop.is_set)
                    seen = self._library.store.generation()
                if self._minutes and since_look >= self._minutes * 60:
                    since_look = 0.0
                    self.last_report = self._library.refresh()
                    for sentence in self.last_report.unread:
                        _log.info("%s", sentence)
            except Exception as error:  # the outer edge of the thread: what fails now is tried again
                _log.warning("The documents could not be looked at (%s): it is tried again.", error)
            if self._stop.wait(POLL_SECONDS):
                return
            since_look += POLL_SECONDS
