"""Ending with the process that waits for this one: work that nobody waits for must not hold the machine."""

from __future__ import annotations

import os
import threading
import time

EXIT_ORPHANED = 4
"""The exit code of a process whose parent died."""
POLL_SECONDS = 1.0


def end_with_parent(parent: int | None = None) -> None:
    """End this process (exit code 4) within seconds when its parent is gone, whatever it is doing.

    `parent` is the id of the process that started this one, as that process knows it: it may be dead before this is called.
    None, when started by hand, is whoever is the parent now.
    """
    watched = os.getppid() if parent is None else parent

    def watch() -> None:
        while os.getppid() == watched:
            time.sleep(POLL_SECONDS)
        os._exit(EXIT_ORPHANED)

    if os.getppid() != watched:
        os._exit(EXIT_ORPHANED)
    threading.Thread(target=watch, name="parent-watch", daemon=True).start()
