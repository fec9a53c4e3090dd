"""The one directory that holds all state, and the paths in it."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from feedback.errors import NightschoolError


class Home:
    """Paths below one home directory; making a Home makes the directories."""

    def __init__(self, root: Path) -> None:
        self.root = root.expanduser().resolve()
        try:
            for folder in (self.root, self.models, self.adapters, self.runs):
                folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise NightschoolError(
                f"The home directory {self.root} cannot be used ({error.strerror}): set NIGHTSCHOOL_HOME to another."
            ) from error

    @property
    def db(self) -> Path:
        """Conversations, ratings, runs, adapters: the one database that must not be lost."""
        return self.root / "nightschool.db"

    @property
    def documents_db(self) -> Path:
        """Documents and their index; can be built anew."""
        return self.root / "documents.db"

    @property
    def settings(self) -> Path:
        """The settings file."""
        return self.root / "nightschool.toml"

    @property
    def models(self) -> Path:
        """Imported base models."""
        return self.root / "models"

    @property
    def adapters(self) -> Path:
        """Published adapters, one folder a version."""
        return self.root / "adapters"

    @property
    def uploads(self) -> Path:
        """Files that admins uploaded, a folder a collection."""
        return self.root / "uploads"

    @property
    def runs(self) -> Path:
        """Run folders of the nights."""
        return self.root / "runs"

    @contextmanager
    def serving(self) -> Iterator[None]:
        """Hold the home for one server; a second one on the same home is refused. The kernel frees it when the process dies."""
        lock = (self.root / "serve.lock").open("a+")
        try:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                lock.seek(0)
                raise NightschoolError(
                    f"A server (process {lock.read().strip() or 'unknown'}) already serves {self.root}: "
                    "stop it first, or set NIGHTSCHOOL_HOME to another directory."
                ) from error
            lock.truncate(0)
            lock.write(str(os.getpid()))
            lock.flush()
            yield
        finally:
            lock.close()
