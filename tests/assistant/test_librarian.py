"""The librarian: what others add is encoded, watched folders are looked at again, and nothing ends the thread but its stop."""

from __future__ import annotations

import logging
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from assistant import librarian
from assistant.documents.reading import Reader
from assistant.documents.store import WatchedFolder
from assistant.librarian import Librarian
from assistant.library import Library
from feedback.errors import ModelError


@pytest.fixture(autouse=True)
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(librarian, "POLL_SECONDS", 0.05)


@pytest.fixture
def library(tmp_path: Path) -> Library:
    return Library(tmp_path / "documents.db", encoder="none")


def until(condition: Callable[[], Any]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline, "it did not come to pass"
        time.sleep(0.02)


class CountedLibrary(Library):
    """A library that counts what it is asked for, and can fail or take its time."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, encoder="none")
        self.indexed = 0
        self.broken = ""
        self.meanwhile: Callable[[], None] = lambda: None

    def index(self, **options: Any) -> int:
        self.indexed += 1
        if self.broken:
            raise ModelError(self.broken)
        done = super().index(**options)
        self.meanwhile()
        return done


def test_what_another_process_added_is_encoded(tmp_path: Path) -> None:
    library = Library(tmp_path / "documents.db", encoder="minilm")
    (tmp_path / "leave.md").write_text("# Annual leave\n\nStaff are entitled to 27 days of vacation.\n")
    code = (
        "import sys; from pathlib import Path; from assistant.library import Library\n"
        "Library(Path(sys.argv[1]), encoder='minilm').add([sys.argv[2]])"
    )
    with Librarian(library, minutes=0):
        subprocess.run([sys.executable, "-c", code, tmp_path / "documents.db", tmp_path / "leave.md"], check=True, timeout=60)
        until(lambda: library.store.paths() and not library.waiting())
    assert "dense" in library.search("How many holidays do I get?", limit=1)[0].scores


def test_a_watched_folder_is_looked_at_by_schedule(library: Library, tmp_path: Path) -> None:
    pages = tmp_path / "pages"
    pages.mkdir()
    (pages / "a.md").write_text("first")
    library.store.watch(WatchedFolder(root=str(pages)))
    with Librarian(library, minutes=0.1 / 60):
        until(lambda: library.store.paths() == ["a.md"])
        (pages / "b.md").write_text("second")
        (pages / "bad.pdf").write_text("no PDF")
        until(lambda: library.store.paths() == ["a.md", "b.md"])
        until(lambda: library.unread)
        (pages / "a.md").unlink()
        until(lambda: library.store.paths() == ["b.md"])


def test_without_a_schedule_folders_are_looked_at_at_the_start_alone(library: Library, tmp_path: Path) -> None:
    (tmp_path / "pages").mkdir()
    (tmp_path / "pages" / "a.md").write_text("text")
    library.store.watch(WatchedFolder(root=str(tmp_path / "pages")))
    with Librarian(library, minutes=0) as keeper:
        assert keeper.looked.wait(20)
        (tmp_path / "pages" / "b.md").write_text("text")
        time.sleep(0.3)
    assert library.store.paths() == ["a.md"]


def test_a_file_that_could_not_be_read_is_said_once_and_not_tried_again_until_it_changes(
    library: Library, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    pages = tmp_path / "pages"
    pages.mkdir()
    (pages / "bad.pdf").write_text("no PDF")
    library.store.watch(WatchedFolder(root=str(pages)))
    tried: list[str] = []
    read = Reader.read

    def counted(self: Reader, file: Path, *, name: str = "") -> Any:
        tried.append(name)
        return read(self, file, name=name)

    monkeypatch.setattr(Reader, "read", counted)
    with caplog.at_level(logging.WARNING):
        first, second = library.refresh(), library.refresh()
    assert first.unread == second.unread == library.unread and "bad.pdf" in first.unread[0]
    assert tried == ["bad.pdf"]
    (pages / "bad.pdf").write_text("no PDF either")
    library.refresh()
    assert tried == ["bad.pdf", "bad.pdf"]


def test_a_failure_is_said_once_and_tried_again_and_folders_are_still_looked_at(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    library = CountedLibrary(tmp_path / "documents.db")
    library.broken = "The encoder cannot be loaded."
    (tmp_path / "pages").mkdir()
    (tmp_path / "pages" / "a.md").write_text("text")
    library.store.watch(WatchedFolder(root=str(tmp_path / "pages")))
    with caplog.at_level(logging.WARNING), Librarian(library, minutes=0.1 / 60):
        until(lambda: library.indexed > 3)
        until(lambda: library.store.paths() == ["a.md"])
        library.broken = ""
        tries = library.indexed
        until(lambda: library.indexed > tries)
        library.store.put(name="b.md", text="more", sha256="1")
        tries = library.indexed
        until(lambda: library.indexed > tries)
    said = [record.getMessage() for record in caplog.records]
    assert said == ["The documents could not be encoded (The encoder cannot be loaded.): it is tried again."]


def test_what_is_added_while_it_encodes_is_encoded_in_the_next_round(tmp_path: Path) -> None:
    library = CountedLibrary(tmp_path / "documents.db")

    def once() -> None:
        library.meanwhile = lambda: None
        library.store.put(name="late.md", text="late", sha256="1")

    library.meanwhile = once
    with Librarian(library, minutes=0):
        until(lambda: library.indexed == 2)
        time.sleep(0.3)
    assert library.indexed == 2  # and not again while nothing changes


def test_it_stops_quickly_also_while_it_encodes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(librarian, "POLL_SECONDS", 30.0)
    started = time.monotonic()
    with Librarian(Library(tmp_path / "a.db", encoder="none"), minutes=10):
        time.sleep(0.1)
    assert time.monotonic() - started < 5

    class Endless(Library):
        """A library whose encoding ends only when it is told to stop."""

        def index(self, *, progress: Any = None, stopped: Callable[[], bool] | None = None) -> int:
            while stopped is None or not stopped():
                time.sleep(0.01)
            return 0

    started = time.monotonic()
    with Librarian(Endless(tmp_path / "b.db", encoder="none"), minutes=10):
        time.sleep(0.1)
    assert time.monotonic() - started < 5
