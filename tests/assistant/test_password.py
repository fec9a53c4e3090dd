"""One-time passwords and /password, through the real application; only the model is a fake."""

from __future__ import annotations

import re

import httpx
import pytest
from fastapi.testclient import TestClient

from assistant.services import Services
from assistant.web.auth import PER_PERSON
from assistant.web.guard import CHANGE_FIRST, COOKIE
from assistant.web.header import header_html

SITE = "http://testserver"
HTML = {"accept": "text/html"}
PRINTED = "printed by serve"
OWN = "a password of my own"


@pytest.fixture
def newcomer(client: TestClient, services: Services) -> str:
    """The name of an admin who has just logged in with a one-time password."""
    name = f"newcomer {len(services.store.users())}"
    services.store.add_user(name, PRINTED, "admin", one_time=True)
    assert log_in(client, name, PRINTED).status_code == 303
    return name


def log_in(client: TestClient, name: str, password: str) -> httpx.Response:
    return client.post("/login", data={"name": name, "password": password}, headers={"origin": SITE})


def choose(client: TestClient, new: str, repeated: str | None = None, *, origin: str = SITE, **more: str) -> httpx.Response:
    said = {"new": new, "repeated": new if repeated is None else repeated, **more}
    return client.post("/password", data=said, headers={"origin": origin})


def error_in(page: httpx.Response) -> str:
    """Return the sentence above the form, or ""."""
    found = re.search(r'role="alert" id="error">(.*?)</p>', page.text)
    return found[1] if found else ""


# ---- a one-time password ----


def test_every_page_leads_to_the_password_page_and_remembers_the_way(client: TestClient, newcomer: str) -> None:
    assert client.get("/", headers=HTML).headers["location"] == "/password"
    for path in ("/admin", "/admin/", "/documents/leave/annual-leave.md", "/no/such/page"):
        reply = client.get(path, headers=HTML)
        assert (reply.status_code, reply.headers["location"]) == (303, f"/password?next={path}")
    page = client.get("/password?next=/admin/", headers=HTML)
    assert page.status_code == 200 and 'value="/admin/"' in page.text and newcomer in page.text
    assert 'name="current"' not in page.text, "he has just typed it"


def test_no_function_and_no_file_is_open_until_the_password_is_changed(client: TestClient, newcomer: str) -> None:
    for path in ("/config", "/admin/config", "/gradio_api/info", "/theme.css", "/documents/leave/annual-leave.md"):
        reply = client.get(path)
        assert (reply.status_code, reply.json()) == (403, {"error": CHANGE_FIRST}), path
    calls = ("/gradio_api/queue/join", "/gradio_api/run/predict", "/admin/gradio_api/queue/join", "/api/turns/x/rating")
    for path in calls:
        reply = client.post(path, json={"thumb": "up"}, headers={"origin": SITE})
        assert (reply.status_code, reply.json()) == (403, {"error": CHANGE_FIRST}), path
    assert client.get("/health").status_code == 200
    assert choose(client, OWN).status_code == 303
    for path in ("/config", "/admin/config"):
        assert client.get(path).status_code == 200, path
    assert client.post("/api/turns/x/rating", json={"thumb": "up"}, headers={"origin": SITE}).status_code == 404


def test_a_new_password_replaces_the_one_time_one_and_goes_on_to_the_page(client: TestClient, newcomer: str) -> None:
    printed = client.cookies[COOKIE]
    reply = choose(client, OWN, next="/admin/")
    assert (reply.status_code, reply.headers["location"]) == (303, "/admin/")
    cookie = reply.headers["set-cookie"].lower()
    assert "httponly" in cookie and "samesite=lax" in cookie
    assert client.get("/admin/", headers=HTML).status_code == 200, "he is still logged in, with a new session"
    client.cookies.clear()
    client.cookies.set(COOKIE, printed)
    assert client.get("/config").status_code == 401, "the session of the one-time password has ended"
    client.cookies.clear()
    assert log_in(client, newcomer, PRINTED).status_code == 401
    assert log_in(client, newcomer, OWN).status_code == 303
    assert client.get("/", headers=HTML).status_code == 200


@pytest.mark.parametrize(
    ("new", "repeated", "sentence"),
    [
        (OWN, OWN.upper(), "The two passwords are not the same: type the new one twice."),
        ("short", "short", "The password has 5 characters: use 8 to 1024 of them."),
        ("", "", "The password has 0 characters: use 8 to 1024 of them."),
        (PRINTED, PRINTED, "The new password is the one-time password: choose another one."),
    ],
)
def test_a_password_that_cannot_be_taken_is_one_sentence_and_changes_nothing(
    client: TestClient, newcomer: str, new: str, repeated: str, sentence: str
) -> None:
    reply = choose(client, new, repeated, next="/admin/")
    assert reply.status_code == 400 and error_in(reply) == sentence
    assert 'value="/admin/"' in reply.text and (not new or f'value="{new}"' not in reply.text)
    assert client.get("/config").status_code == 403, "still logged in, still to be changed"
    assert log_in(client, newcomer, PRINTED).status_code == 303


def test_the_password_page_is_guarded_like_the_login(client: TestClient, newcomer: str, services: Services) -> None:
    for origin in ("http://evil.example", "null"):
        assert choose(client, OWN, origin=origin).status_code == 403
    assert choose(client, OWN, next="//evil.example").headers["location"] == "/"
    client.cookies.clear()
    assert client.get("/password", headers=HTML).headers["location"] == "/login?next=/password"
    assert choose(client, "a stranger's choice").status_code == 401
    user = services.store.verify_user(newcomer, OWN)
    assert user is not None and not user.must_change_password


def test_who_will_not_choose_a_password_can_log_out(client: TestClient, newcomer: str) -> None:
    assert client.post("/logout", headers={"origin": SITE}).headers["location"] == "/login"
    assert client.get("/", headers=HTML).headers["location"] == "/login"


# ---- changing a password at any time ----


@pytest.fixture
def person(client: TestClient, services: Services) -> str:
    """The name of an employee who is logged in with a password of his own."""
    name = f"person {len(services.store.users())}"
    services.store.add_user(name, OWN, "employee")
    log_in(client, name, OWN)
    return name


def test_a_password_is_changed_only_by_who_knows_it(client: TestClient, person: str, services: Services) -> None:
    assert 'name="current"' in client.get("/password", headers=HTML).text
    for wrong in ({}, {"current": "a guess"}):
        reply = choose(client, "the next password", **wrong)
        assert reply.status_code == 401 and error_in(reply) == "The current password is wrong: try again."
    assert services.store.verify_user(person, OWN) is not None
    reply = choose(client, "the next password", current=OWN)
    assert reply.status_code == 200 and "Your password is changed" in reply.text
    assert client.get("/", headers=HTML).status_code == 200, "he is still logged in"
    assert services.store.verify_user(person, OWN) is None
    assert services.store.verify_user(person, "the next password") is not None


def test_a_change_ends_the_logins_elsewhere(client: TestClient, person: str, services: Services) -> None:
    elsewhere = services.store.open_session(services.store.user_by_name(person).id)
    choose(client, "the next password", current=OWN)
    assert services.store.session_user(elsewhere) is None


def test_guessing_the_current_password_is_slowed_down(client: TestClient, person: str) -> None:
    for _ in range(PER_PERSON):
        assert choose(client, "the next password", current="a guess").status_code == 401
    blocked = choose(client, "the next password", current=OWN)
    assert blocked.status_code == 429 and "Too many wrong passwords: try again in 15 minutes." in blocked.text
    assert int(blocked.headers["retry-after"]) > 0


def test_both_pages_lead_to_the_password_page(services: Services) -> None:
    assert '<a href="/password">' in header_html(services.store.user_by_name("anna"), page="chat")
    assert '<a href="/password?next=/admin/">' in header_html(services.store.user_by_name("ada"), page="admin")
