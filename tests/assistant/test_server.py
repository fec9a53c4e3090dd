"""The first login of a new home, and what a server does before and after it opens."""

from __future__ import annotations

import re
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from fastapi import FastAPI

from assistant import server
from assistant.config import DocumentSettings, NightSettings
from assistant.server import FIRST_ADMIN, Server, build, documents_lines, first_login, librarian_of, set_up
from assistant.services import Services
from feedback.errors import SettingsError
from feedback.store import FeedbackStore

OWN = "a password of my own"


@pytest.fixture
def store(tmp_path: Path) -> Iterator[FeedbackStore]:
    store = FeedbackStore(tmp_path / "new.db")
    yield store
    store.close()


def test_a_home_without_an_admin_gets_one_whoever_else_there_is(store: FeedbackStore) -> None:
    store.add_user("root@command-line", "a random long password", "employee")
    login = first_login(store)
    assert login is not None and login[0] == FIRST_ADMIN
    admin = store.verify_user(*login)
    assert admin is not None and admin.role == "admin" and admin.must_change_password


def test_a_name_that_an_employee_has_is_not_taken_from_him(store: FeedbackStore) -> None:
    store.add_user("Admin", "a random long password", "employee")
    login = first_login(store)
    assert login is not None and login[0] == "admin2"


def test_a_password_that_was_never_used_is_replaced_at_the_next_start(store: FeedbackStore) -> None:
    lost, again = first_login(store), first_login(store)
    assert lost is not None and again is not None and lost[0] == again[0]
    assert store.verify_user(*lost) is None and store.verify_user(*again) is not None
    store.set_password(again[0], OWN)
    assert first_login(store) is None
    assert store.verify_user(again[0], OWN) is not None


def test_an_admin_with_a_password_of_his_own_is_left_alone(store: FeedbackStore) -> None:
    store.add_user("ada", OWN, "admin")
    store.add_user("newcomer", "handed over by ada", "admin", one_time=True)
    assert first_login(store) is None
    assert store.verify_user("newcomer", "handed over by ada") is not None


def test_a_reset_ends_the_old_password_and_all_logins(store: FeedbackStore) -> None:
    ben = store.add_user("ben", OWN, "employee")
    token = store.open_session(ben.id)
    password = store.reset_password("BEN", by="command line")
    assert store.session_user(token) is None and store.verify_user("ben", OWN) is None
    user = store.verify_user("ben", password)
    assert user is not None and user.must_change_password and user.role == "employee"
    (entry,) = store.audit_entries()
    assert (entry.actor, entry.action, entry.detail) == ("command line", "user.reset", {"name": "ben"})


@pytest.fixture
def empty(bare: Services) -> Services:
    """A home in which only employees are."""
    bare.store.add_user("ben", OWN, "employee")
    return bare


def test_a_bad_cron_ends_the_start_before_a_password_is_made(empty: Services) -> None:
    bad = replace(empty, settings=empty.settings.model_copy(update={"night": NightSettings(cron="at two")}))
    with pytest.raises(SettingsError, match=r"night\.cron"):
        build(bad)
    assert all(user.role == "employee" for user in empty.store.users())


def test_the_first_login_is_made_and_printed_once_the_server_is_open(
    store: FeedbackStore, capsys: pytest.CaptureFixture[str]
) -> None:
    served = Server(FastAPI(), ["Open http://here"], store)
    assert store.users() == []
    with socket.create_server(("127.0.0.1", 0)) as listening:
        thread = threading.Thread(target=served.run, kwargs={"sockets": [listening]}, daemon=True)
        thread.start()
        said, deadline = "", time.monotonic() + 30
        while "First login" not in said and time.monotonic() < deadline:
            time.sleep(0.02)
            said += capsys.readouterr().out
        served.should_exit = True
        thread.join(15)
    assert said.startswith("Open http://here")
    found = re.search(r"First login: (\S+) / (\S+)", said)
    assert found and store.verify_user(found[1], found[2]) is not None


def test_uploads_come_back_when_the_index_was_built_anew(bare: Services) -> None:
    folder = bare.home.uploads / "human%20resources"
    folder.mkdir(parents=True)
    (folder / "leave.md").write_text("# Leave\n\n27 days.\n")
    with librarian_of(bare) as librarian:
        assert librarian.looked.wait(20)
    assert bare.documents.paths("human resources") == ["leave.md"]


def test_a_start_says_what_it_answers_from_and_what_could_not_be_read(bare: Services, tmp_path: Path) -> None:
    folder = tmp_path / "own"
    folder.mkdir()
    (folder / "broken.pdf").write_text("no PDF")
    settings = bare.settings.model_copy(update={"documents": DocumentSettings(folder=str(folder), encoder="none")})
    services = replace(bare, settings=settings)
    set_up(services)
    with librarian_of(services) as librarian:
        said = documents_lines(services, librarian)
    assert any("broken.pdf" in line for line in said) and any("Nightschool answers from" in line for line in said)


def test_a_start_does_not_wait_for_a_folder_that_takes_long(bare: Services, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "FIRST_LOOK_SECONDS", 0.01)
    idle = librarian_of(bare)  # not started: as one that is still reading
    assert any("still being read" in line for line in documents_lines(bare, idle))
