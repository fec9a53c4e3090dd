"""Users, passwords and sessions."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from argon2 import PasswordHasher, extract_parameters
from argon2.profiles import RFC_9106_LOW_MEMORY

from feedback.errors import StoreError, UnknownUser, UserExists
from feedback.records import User
from feedback.store import FeedbackStore
from feedback.users import UserStore

if TYPE_CHECKING:
    from .conftest import FakeClock


def test_a_user_is_verified_by_his_password_alone(store: FeedbackStore, ada: User, password: str) -> None:
    assert store.verify_user("Ada", password) == ada
    assert store.verify_user(" ADA ", password) == ada
    for wrong in ("", password.upper(), password + " ", "\ud800", "\0", "x" * 1_000_000):
        assert store.verify_user("Ada", wrong) is None
    for unknown in ("Bob", "", "' OR 1=1 --", "\ud800"):
        assert store.verify_user(unknown, password) is None


def test_an_unknown_name_costs_one_argon2_like_a_known_one(
    store: FeedbackStore, ada: User, password: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    work: list[str] = []

    class CountingHasher(PasswordHasher):
        def hash(self, *arguments: str, **named: bytes) -> str:  # type: ignore[override]
            work.append("argon2")
            return super().hash(*arguments, **named)

        def verify(self, *arguments: str) -> bool:  # type: ignore[override]
            work.append("argon2")
            return super().verify(*arguments)  # type: ignore[return-value]

    monkeypatch.setattr(UserStore, "_hasher", CountingHasher(time_cost=1, memory_cost=8, parallelism=1))
    store.verify_user("Ada", "wrong password")
    assert work == ["argon2"]
    store.verify_user("Nobody", "wrong password")
    assert work == ["argon2"] * 2


def test_passwords_are_hashed_with_argon2id_at_the_rfc_cost(
    path: Path, store: FeedbackStore, password: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(UserStore, "_hasher", PasswordHasher())  # what the program uses
    store.add_user("Eve", password, "employee")
    (stored,) = store._connections.db.execute("SELECT password_hash FROM users").fetchone()
    assert extract_parameters(stored) == RFC_9106_LOW_MEMORY
    store.close()
    assert password.encode() not in path.read_bytes()


def test_a_login_renews_a_hash_of_outdated_cost(
    store: FeedbackStore, ada: User, password: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(UserStore, "_hasher", PasswordHasher(time_cost=2, memory_cost=16, parallelism=1))
    assert store.verify_user("Ada", password) == ada
    (stored,) = store._connections.db.execute("SELECT password_hash FROM users").fetchone()
    assert extract_parameters(stored).time_cost == 2
    assert store.verify_user("Ada", password) == ada


@pytest.mark.parametrize("taken", ["Ada", "ada", "  ADA", "Ａｄａ"])
def test_names_that_look_alike_are_one(store: FeedbackStore, ada: User, password: str, taken: str) -> None:
    with pytest.raises(UserExists, match="exists already: choose another name"):
        store.add_user(taken, password, "admin")
    assert store.users() == [ada]


@pytest.mark.parametrize("name", ["", "   ", "x" * 65, "a\0b", "a\x1b[31m", "\ud800"])
def test_an_unusable_name_is_one_sentence(store: FeedbackStore, password: str, name: str) -> None:
    with pytest.raises(StoreError, match="cannot be used: take 1 to 64 printable"):
        store.add_user(name, password, "employee")


@pytest.mark.parametrize("bad", ["", "1234567", "x" * 1025])
def test_an_unusable_password_is_one_sentence_that_does_not_show_it(store: FeedbackStore, ada: User, bad: str) -> None:
    sentence = rf"^The password has {len(bad)} characters: use 8 to 1024 of them\.$"
    with pytest.raises(StoreError, match=sentence):
        store.add_user("Eve", bad, "employee")
    with pytest.raises(StoreError, match=sentence):
        store.set_password("Ada", bad)


def test_users_are_found_by_id_and_name_and_listed_by_name(store: FeedbackStore, boss: User, ben: User, ada: User) -> None:
    assert store.users() == [ada, ben, boss]
    assert store.user(ben.id) == ben
    assert store.user_by_name("bEN") == ben
    for look in (store.user, store.user_by_name):
        with pytest.raises(UnknownUser, match="There is no user 'nobody'"):
            look("nobody")


def test_a_new_password_replaces_the_old_one_and_ends_the_sessions(
    store: FeedbackStore, ada: User, ben: User, password: str
) -> None:
    his, other = store.open_session(ada.id), store.open_session(ben.id)
    store.set_password("ada", "another password")
    assert store.verify_user("Ada", password) is None
    assert store.verify_user("Ada", "another password") == ada
    assert store.session_user(his) is None
    assert store.session_user(other) == ben
    with pytest.raises(UnknownUser):
        store.set_password("nobody", "another password")


def test_a_one_time_password_is_known_as_one_until_it_is_replaced(store: FeedbackStore, ada: User) -> None:
    first = store.add_user("First", "printed by serve", "admin", one_time=True)
    token = store.open_session(first.id)
    for found in (store.verify_user("first", "printed by serve"), store.session_user(token), store.user(first.id)):
        assert found == first and found.must_change_password is True
    assert [user.must_change_password for user in store.users()] == [False, True], "an ordinary password is not one"
    store.set_password("First", "one of his own")
    assert store.verify_user("First", "printed by serve") is None
    mine = store.verify_user("First", "one of his own")
    assert mine is not None and mine.must_change_password is False
    assert store.session_user(token) is None, "whoever else read the printed password is out"


def test_a_one_time_password_cannot_be_chosen_once_more(store: FeedbackStore, ada: User, password: str) -> None:
    first = store.add_user("First", "printed by serve", "admin", one_time=True)
    token = store.open_session(first.id)
    with pytest.raises(StoreError, match="is the one-time password: choose another one"):
        store.set_password("First", "printed by serve")
    assert store.session_user(token) == first, "nothing has changed, and he still has to"
    store.set_password("Ada", password)  # the rule holds for one-time passwords alone
    assert store.verify_user("Ada", password) == ada


def test_a_session_lasts_its_hours_and_not_longer(store: FeedbackStore, ada: User, clock: FakeClock) -> None:
    token = store.open_session(ada.id, hours=2)
    clock.advance(hours=1, minutes=59)
    assert store.session_user(token) == ada
    clock.advance(minutes=1)
    assert store.session_user(token) is None


def test_expired_sessions_are_cleared_away_at_the_next_login(store: FeedbackStore, ada: User, clock: FakeClock) -> None:
    store.open_session(ada.id, hours=1)
    clock.advance(hours=2)
    token = store.open_session(ada.id)
    rows = store._connections.db.execute("SELECT token_hash FROM sessions").fetchall()
    assert rows == [(hashlib.sha256(token.encode()).hexdigest(),)]


def test_a_session_ends_when_it_is_closed(store: FeedbackStore, ada: User) -> None:
    token, other = store.open_session(ada.id), store.open_session(ada.id)
    store.close_session(token)
    store.close_session("no such token")
    assert store.session_user(token) is None
    assert store.session_user(other) == ada


def test_the_file_does_not_hold_the_token(path: Path, store: FeedbackStore, ada: User) -> None:
    token = store.open_session(ada.id)
    store.close()
    content = path.read_bytes()
    assert token.encode() not in content
    assert hashlib.sha256(token.encode()).hexdigest().encode() in content


@pytest.mark.parametrize("token", ["", "no such token", "\ud800", "x" * 100_000])
def test_a_token_that_is_none_finds_nobody(store: FeedbackStore, ada: User, token: str) -> None:
    store.open_session(ada.id)
    assert store.session_user(token) is None


def test_nobody_can_open_a_session_of_an_unknown_user(store: FeedbackStore) -> None:
    with pytest.raises(UnknownUser, match="'nobody'"):
        store.open_session("nobody")
