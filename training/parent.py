"""Ending with the process that waits for this one: work that nobody waits for must not hold the machine."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable

from feedback.errors import NightschoolError

EXIT_ORPHANED = 4
"""The exit code of a process whose parent died."""
POLL_SECONDS = 1.0
NICENESS = 10


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


def run_child(work: Callable[[], None], parent: int | None) -> int:
    """Do a night's work as its subprocess: it ends with `parent`, yields the processor, and returns the exit code.

    An error that is meant for a person is one line on stderr and exit code 1.
    """
    end_with_parent(parent)
    os.nice(NICENESS)
    try:
        work()
    except NightschoolError as error:
        print(error, file=sys.stderr)
        return 1
    return 0
