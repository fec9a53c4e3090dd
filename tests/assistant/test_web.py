"""The web application over real stores, real documents and a real pool; only the model is a fake."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from assistant.services import Services
from assistant.web.app import create_app
from assistant.web.auth import Logins, TooManyGuesses, safe_next
from assistant.web.guard import COOKIE, Throttle
from feedback.records import Turn, User
from feedback.store import FeedbackStore

SITE = "http://testserver"
HTML = {"accept": "text/html"}


def rate(client: TestClient, turn_id: str, **body: Any) -> httpx.Response:
    return client.post(f"/api/turns/{turn_id}/rating", json=body, headers={"origin": SITE})


# ---- who may have what ----


def test_nothing_but_the_login_and_the_health_is_open_to_strangers(client: TestClient) -> None:
    for path in ("/", "/admin", "/admin/", "/documents/leave/annual-leave.md"):
        reply = client.get(path, headers=HTML)
        assert reply.status_code == 303 and reply.headers["location"].startswith("/login"), path
    for path in ("/config", "/admin/config", "/gradio_api/info", "/theme.css", "/documents/leave/annual-leave.md"):
        assert client.get(path).status_code == 401, path
    for path in ("/gradio_api/queue/join", "/admin/gradio_api/queue/join", "/api/turns/x/rating"):
        assert client.post(path, json={}, headers={"origin": SITE}).status_code == 401, path
    assert client.get("/login").status_code == 200
    assert client.get("/health").json() == {
        "status": "ok",
        "adapter": None,
        "base": "reader",
        "engine": "reading aloud 1",
        "night": None,
    }


def test_the_session_cookie_is_kept_from_scripts_and_other_sites(client: TestClient, passwords: dict[str, str]) -> None:
    reply = client.post("/login", data={"name": "anna", "password": passwords["anna"]}, headers={"origin": SITE})
    cookie = reply.headers["set-cookie"].lower()
    assert "httponly" in cookie and "samesite=lax" in cookie and "path=/" in cookie


def test_a_logout_ends_the_session_also_for_a_copy_of_the_cookie(log_in: Callable[[str], TestClient]) -> None:
    client = log_in("anna")
    token = client.cookies[COOKIE]
    assert client.get("/", headers=HTML).status_code == 200
    client.post("/logout", headers={"origin": SITE})
    client.cookies.set(COOKIE, token)
    assert client.get("/config").status_code == 401


def test_a_wrong_password_says_one_sentence_and_opens_nothing(client: TestClient) -> None:
    reply = client.post("/login", data={"name": "anna<b>", "password": "nonsense"}, headers={"origin": SITE})
    assert reply.status_code == 401 and "The name or the password is wrong" in reply.text
    assert "anna&lt;b&gt;" in reply.text and COOKIE not in reply.cookies


@pytest.mark.parametrize("path", ["//evil.example", "/\\evil.example", "https://evil.example", "evil", "/a\nb"])
def test_a_login_never_leads_to_another_site(path: str) -> None:
    assert safe_next(path) == "/"


def test_guessing_is_slowed_down_for_one_person_and_not_for_others(services: Services, passwords: dict[str, str]) -> None:
    now = [0.0]
    logins = Logins(
        services.store,
        hours=1,
        per_person=Throttle(allowed=3, window=900, clock=lambda: now[0]),
        per_address=Throttle(allowed=30, window=900, clock=lambda: now[0]),
    )
    with TestClient(create_app(services, logins=logins), base_url=SITE, follow_redirects=False) as client:

        def attempt(name: str, password: str) -> httpx.Response:
            return client.post("/login", data={"name": name, "password": password}, headers={"origin": SITE})

        for _ in range(3):
            assert attempt("anna", "guess").status_code == 401
        blocked = attempt("ANNA ", passwords["anna"])
        assert blocked.status_code == 429 and "try again in 15 minutes" in blocked.text
        assert int(blocked.headers["retry-after"]) == 900
        assert attempt("ben", passwords["ben"]).status_code == 303
        now[0] = 901
        assert attempt("anna", passwords["anna"]).status_code == 303


def log_in_as(client: TestClient, name: str, password: str) -> httpx.Response:
    return client.post("/login", data={"name": name, "password": password}, headers={"origin": SITE})


def test_many_names_from_one_address_are_slowed_down_too(services: Services, passwords: dict[str, str]) -> None:
    logins = Logins(services.store, hours=1, per_address=Throttle(allowed=3, window=900, clock=lambda: 0.0))
    with TestClient(create_app(services, logins=logins), base_url=SITE, follow_redirects=False) as client:
        for name in ("anna", "ben"):
            assert log_in_as(client, name, "guess").status_code == 401
        assert log_in_as(client, "ada", passwords["ada"]).status_code == 303, "a right password is no guess"
        assert log_in_as(client, "nobody", "guess").status_code == 401
        blocked = log_in_as(client, "ada", passwords["ada"])
    assert blocked.status_code == 429 and "try again in 15 minutes" in blocked.text


class CountingStore(FeedbackStore):
    """A store that counts the passwords that it is asked to check."""

    checked = 0

    def verify_user(self, name: str, password: str) -> User | None:
        self.checked += 1
        return super().verify_user(name, password)


def test_guesses_at_once_are_no_way_around_the_limit(services: Services) -> None:
    store = CountingStore(services.home.db)
    logins = Logins(store, hours=1, per_person=Throttle(allowed=3, window=900))

    def guess(number: int) -> str:
        try:
            return str(logins.check("anna", f"guess {number}", "10.0.0.1"))
        except TooManyGuesses:
            return "slowed down"

    with ThreadPoolExecutor(12) as threads:
        answers = list(threads.map(guess, range(12)))
    assert (answers.count("None"), answers.count("slowed down"), store.checked) == (3, 9, 3)
    store.close()


def test_a_flood_of_keys_pushes_out_the_oldest_instead_of_growing_the_memory() -> None:
    throttle = Throttle(allowed=1, window=10, clock=lambda: 0.0, most_keys=3)
    assert throttle.attempt("a") == 0 and throttle.attempt("a") == 10
    for key in "bcd":
        throttle.attempt(key)
    assert throttle.attempt("a") == 0


@pytest.mark.parametrize("origin", ["http://evil.example", "null", "http://testserver.evil.example", "http://testserver:81"])
def test_a_post_from_another_site_is_refused_whatever_the_cookie(
    origin: str, log_in: Callable[[str], TestClient], ask: Callable[..., Turn], services: Services
) -> None:
    turn = ask("ada")
    client = log_in("ada")
    for path in (f"/api/turns/{turn.id}/rating", "/logout", "/login", "/gradio_api/queue/join", "/admin/gradio_api/queue/join"):
        reply = client.post(path, json={"thumb": "up"}, headers={"origin": origin})
        assert reply.status_code == 403 and "another site" in reply.json()["error"], path
    assert services.store.feedback(turn.id, services.store.user_by_name("ada").id) is None
    assert client.get("/config").status_code == 200, "the logout did not pass either"


def test_no_answer_lets_another_site_read_it(log_in: Callable[[str], TestClient]) -> None:
    reply = log_in("anna").get("/config", headers={"origin": "http://evil.example"})
    assert "access-control-allow-origin" not in reply.headers
    assert "frame-ancestors 'none'" in reply.headers["content-security-policy"]
    assert "default-src 'self'" in reply.headers["content-security-policy"]


# ---- ratings ----


def test_a_rating_and_a_correction_are_kept_changed_and_withdrawn_with_their_history(
    log_in: Callable[[str], TestClient], ask: Callable[..., Turn], services: Services
) -> None:
    client, turn = log_in("anna"), ask("anna")
    reply = rate(client, turn.id, thumb="down", reasons=["wrong"], comment="old price", correction="€150")
    assert reply.json() == {
        "turn": turn.id,
        "thumb": "down",
        "reasons": ["wrong"],
        "comment": "old price",
        "correction": "€150",
        "verified": False,
    }
    said = services.store.feedback(turn.id, turn.asked.user_id)
    assert said is not None and (said.thumb, said.correction) == ("down", "€150")
    assert rate(client, turn.id, thumb="up", reasons=[], comment="").json()["correction"] == "€150", "left out: stays"
    assert rate(client, turn.id, correction=None).json()["thumb"] == "up"
    assert rate(client, turn.id, thumb=None).json()["thumb"] is None
    assert services.store.feedback(turn.id, turn.asked.user_id) is None
    assert len(services.store.feedback_history(turn.id)) == 5


def test_what_an_admin_writes_is_verified(log_in: Callable[[str], TestClient], ask: Callable[..., Turn]) -> None:
    turn = ask("anna")
    assert rate(log_in("ada"), turn.id, correction="€140").json()["verified"] is True


def test_a_foreign_or_unknown_turn_and_a_wrong_body_are_one_sentence_each(
    log_in: Callable[[str], TestClient], ask: Callable[..., Turn], services: Services
) -> None:
    turn = ask("anna")
    client = log_in("ben")
    for body in ({"thumb": "up"}, {"correction": "mine"}):
        reply = rate(client, turn.id, **body)
        assert reply.status_code == 403 and "was not given to 'ben'" in reply.json()["error"]
    assert services.store.feedback_history(turn.id) == []
    unknown = rate(client, "nonsense", thumb="up")
    assert unknown.status_code == 404 and "There is no answer" in unknown.json()["error"]
    own = ask("ben")
    assert "thumb is wrong" in rate(client, own.id, thumb="sideways").json()["error"]
    assert "stars is wrong" in rate(client, own.id, stars=5).json()["error"]
    bad = rate(client, own.id, thumb="down", reasons=["ugly"])
    assert bad.status_code == 400 and "The reason 'ugly' is not known" in bad.json()["error"]


# ---- documents ----


def test_a_page_marks_the_passage_that_an_answer_read(log_in: Callable[[str], TestClient], ask: Callable[..., Turn]) -> None:
    turn = ask("anna", "On which extension is VPN support?")
    passage = turn.asked.passages[0]
    client = log_in("anna")
    page = client.get(f"/documents/{passage.document}?turn={turn.id}&passage=1", headers=HTML).text
    assert 'class="passage" id="passage"' in page or 'id="passage" class="passage"' in page
    assert "passage" not in client.get(f"/documents/{passage.document}", headers=HTML).text.split("<body")[1]
    assert log_in("ben").get(f"/documents/{passage.document}?turn={turn.id}&passage=1").status_code == 403


def test_a_page_that_changed_says_so_and_a_missing_one_too(
    log_in: Callable[[str], TestClient], ask: Callable[..., Turn], services: Services
) -> None:
    folder = services.home.root / "pages"
    (folder / "parking.md").write_text("# Parking\n\nThe garage opens at 06:30.\n", encoding="utf-8")
    services.library.add_folder(folder)
    turn = ask("anna", "When does the parking garage open?")
    client = log_in("anna")
    address = f"/documents/parking.md?turn={turn.id}&passage=1"
    assert 'id="passage"' in client.get(address, headers=HTML).text
    (folder / "parking.md").write_text("# Parking\n\nThe garage is closed.\n", encoding="utf-8")
    services.library.add_folder(folder)
    page = client.get(address, headers=HTML).text
    assert "has changed since the answer" in page and 'id="passage"' not in page
    assert client.get("/documents/no/such.md", headers=HTML).status_code == 404
    assert client.get("/documents/..%2f..%2fnightschool.toml", headers=HTML).status_code == 404


def test_html_in_a_page_is_shown_and_not_run() -> None:
    from assistant.web.document_view import render_page

    body, _ = render_page("# Hi\n\n<script>alert(1)</script>\n\n[x](javascript:alert(1)) ![y](http://evil/z.png)")
    assert "<script" not in body and 'javascript:alert(1)"' not in body


# ---- the chat's handlers through Gradio ----


def stream(client: httpx.Client, base: str, fn_index: int, data: list[Any], session: str) -> list[dict[str, Any]]:
    """Call a function of the chat page as the browser does, and return its events."""
    body = {"data": data, "fn_index": fn_index, "session_hash": session, "event_data": None, "trigger_id": None}
    client.post(f"{base}/gradio_api/queue/join", json=body, headers={"origin": base}).raise_for_status()
    events = []
    with client.stream("GET", f"{base}/gradio_api/queue/data", params={"session_hash": session}, timeout=60) as reply:
        for line in reply.iter_lines():
            if line.startswith("data: "):
                events.append(json.loads(line[6:]))
                if events[-1]["msg"] in ("process_completed", "close_stream"):
                    break
    return events


@pytest.fixture(scope="module")
def address(app: FastAPI, serve: Callable[..., Any]) -> Iterator[str]:
    with serve(app) as base:
        yield base


@pytest.fixture
def live(address: str, services: Services) -> Iterator[tuple[httpx.Client, str, User]]:
    """A person who has just been given a login, logged in."""
    user = services.store.add_user(f"person {len(services.store.users())}", "long enough", "employee")
    with httpx.Client(timeout=30) as client:
        client.post(f"{address}/login", data={"name": user.name, "password": "long enough"}, headers={"origin": address})
        yield client, address, user


def test_a_question_asked_through_gradio_is_stored_with_its_switch(
    live: tuple[httpx.Client, str, User], services: Services
) -> None:
    client, base, user = live
    events = stream(client, base, 1, ["What may a room in London cost?", True, None], "s1")
    assert events[-1]["success"], events[-1]
    (conversation,) = services.store.conversations(user.id, 5)
    (turn,) = services.store.turns(conversation.id)
    assert turn.asked.history is True and turn.answer is not None and "€140" in turn.answer.text
    assert turn.id in json.dumps(events[-1])


def test_a_question_that_cannot_be_asked_is_one_sentence_and_goes_back_into_its_box(
    live: tuple[httpx.Client, str, User], services: Services
) -> None:
    client, base, user = live
    for question, sentence in (("   ", "The question is empty"), ("x" * 10_000, "10,000 characters")):
        last = stream(client, base, 1, [question, False, None], "s2")[-1]
        assert sentence in json.dumps(last["output"]) and question in last["output"]["data"]
    assert services.store.conversations(user.id, 5) == []


def test_a_closed_page_stops_the_answer_and_keeps_the_part(live: tuple[httpx.Client, str, User], services: Services) -> None:
    client, base, user = live
    body = {"data": ["slowly: room in London cost", False, None], "fn_index": 1, "session_hash": "s3"}
    client.post(f"{base}/gradio_api/queue/join", json=body, headers={"origin": base}).raise_for_status()
    with client.stream("GET", f"{base}/gradio_api/queue/data", params={"session_hash": "s3"}) as reply:
        pieces = (line for line in reply.iter_lines() if '"process_generating"' in line)
        for _ in range(8):
            next(pieces)
    deadline = time.monotonic() + 20
    while True:
        (turn,) = services.store.turns(services.store.conversations(user.id, 1)[0].id)
        if turn.answer is not None or time.monotonic() > deadline:
            break
        time.sleep(0.1)
    assert turn.answer is not None and turn.answer.finish_reason == "stopped" and turn.answer.text


def test_a_full_queue_is_one_sentence(
    make_services: Callable[..., Services], tmp_path: Path, serve: Callable[..., Any], passwords: dict[str, str]
) -> None:
    services = make_services(tmp_path / "full", queue=1)
    user = services.store.user_by_name("ben")
    conversation = services.store.start_conversation(user.id, history=False)
    busy = services.chat.ask(user_id=user.id, conversation_id=conversation, question="room in London", history=False)
    next(busy)
    with serve(create_app(services)) as base, httpx.Client(timeout=30) as client:
        client.post(f"{base}/login", data={"name": "anna", "password": passwords["anna"]}, headers={"origin": base})
        last = stream(client, base, 1, ["room in London", False, None], "s4")[-1]
    busy.close()  # type: ignore[attr-defined]
    assert "1 question is waiting already" in json.dumps(last["output"])
