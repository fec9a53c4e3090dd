"""The web application over real stores, real documents and a real pool; only the model is a fake."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from assistant.agent import Agent
from assistant.chat import Chat
from assistant.engines.base import ChatRequest, Delta, LoadedAdapter, Tool
from assistant.hardware import PromptLimits
from assistant.services import Services
from assistant.web.app import create_app
from assistant.web.auth import Logins, TooManyGuesses, safe_next
from assistant.web.chat_page import ChatPage
from assistant.web.guard import COOKIE, Throttle
from feedback.records import Message, Turn, User
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


# ---- questions to the document owner ----


def send(client: TestClient, turn_id: str, origin: str = SITE, **body: Any) -> httpx.Response:
    return client.post(f"/api/turns/{turn_id}/question", json=body, headers={"origin": origin})


def test_a_question_is_sent_once_and_by_its_asker_alone(
    log_in: Callable[[str], TestClient], client: TestClient, ask: Callable[..., Turn], services: Services
) -> None:
    turn = ask("anna", "Who is the astronaut of Jupiter?")
    assert send(client, turn.id).status_code == 401
    assert "was not given to 'ben'" in send(log_in("ben"), turn.id).json()["error"]
    anna = log_in("anna")
    assert send(anna, turn.id, "http://evil.example").status_code == 403
    assert "to is wrong" in send(anna, turn.id, to="ada").json()["error"]
    assert "at most 2,000 are kept" in send(anna, turn.id, note="x" * 2001).json()["error"]
    assert send(anna, "nonsense").status_code == 404
    assert services.store.open_questions() == []
    first = send(anna, turn.id, note="For Monday.").json()
    assert first["sent"].startswith("Sent on ") and first["note"] == "For Monday."
    assert send(anna, turn.id, note="again").json() == first
    (sent,) = services.store.open_questions()
    assert (sent.turn_id, sent.user_name, sent.note) == (turn.id, "anna", "For Monday.")


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
    events = stream(client, base, 1, ["What may a room in London cost?", True, "", None], "s1")
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
        last = stream(client, base, 1, [question, False, "", None], "s2")[-1]
        assert sentence in json.dumps(last["output"]) and question in last["output"]["data"]
    assert services.store.conversations(user.id, 5) == []


def test_a_closed_page_stops_the_answer_and_keeps_the_part(live: tuple[httpx.Client, str, User], services: Services) -> None:
    client, base, user = live
    body = {"data": ["slowly: room in London cost", False, "", None], "fn_index": 1, "session_hash": "s3"}
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
        last = stream(client, base, 1, ["room in London", False, "", None], "s4")[-1]
    busy.close()  # type: ignore[attr-defined]
    assert "1 question is waiting already" in json.dumps(last["output"])


class Looking:
    """An engine that looks something up before it answers, as an agent's model does."""

    name = "looking 1"
    script = (
        '<tool_call>{"name": "search_documentation", "arguments": {"query": "VPN idle"}}</tool_call>',
        "After 8 hours [2].",
    )

    def __init__(self) -> None:
        self.asked = 0

    def stream(self, request: ChatRequest, adapter: LoadedAdapter) -> Iterator[Delta]:
        self.asked += 1
        for word in re.findall(r"\S+\s*", self.script[self.asked - 1]):
            time.sleep(0.06)
            yield Delta(text=word)
        yield Delta(text="", finish_reason="stop", prompt_tokens=1, completion_tokens=1)

    def count_tokens(self, messages: Sequence[Message], tools: Sequence[Tool] = ()) -> int:
        return sum(len(message.content.split()) for message in messages)


def test_what_an_agent_looks_up_is_shown_while_it_happens_and_stays(services: Services) -> None:
    import gradio as gr
    from starlette.requests import Request

    engine: Any = Looking()
    chat = Chat(
        store=services.store,
        prompts=services.prompts,
        engine=engine,
        pool=services.pool,
        base_model="reader",
        base_hash="0" * 64,
        max_tokens=96,
        queue=2,
        agent=Agent(services.library, engine, limits=PromptLimits(tokens=1200, passages=1, following=0), max_tokens=96),
    )
    user = services.store.add_user("looker", "long enough", "employee")
    request = gr.Request(Request({"type": "http", "headers": [], "state": {"user": user}}))
    page = ChatPage(replace(services, chat=chat))
    line = "Searched the documents for &#x27;VPN idle&#x27;: 1 passage"
    seen = [json.dumps(shown[0][-1]) for shown in page.ask("What of a room in London?", False, "main", "", request) if shown[0]]
    with_step = [message for message in seen if line in message]
    assert line not in seen[0] and "Thinking" in with_step[0], "the step is there before the answer is"
    assert '"After' in with_step[1] and "passage=2#passage" in with_step[-1] and "ns-rating" in with_step[-1]
    conversation = services.store.conversations(user.id, 1)[0].id
    assert services.store.turns(conversation)[0].asked.collection == "main"
    chatbot = page.open(request)[1]
    assert line in json.dumps(chatbot.value), "also after a reload"


def test_a_choice_of_collection_is_offered_where_there_is_one_and_obeyed(own: Services, tmp_path: Path) -> None:
    import gradio as gr
    from starlette.requests import Request

    request = gr.Request(Request({"type": "http", "headers": [], "state": {"user": own.store.user_by_name("anna")}}))
    page = ChatPage(own)
    assert page.open(request)[-1]["visible"] is False
    (tmp_path / "hr").mkdir()
    (tmp_path / "hr" / "rooms.md").write_text("# Rooms\n\nHR pays a room in London up to 180 a night.\n", encoding="utf-8")
    own.library.add_folder(tmp_path / "hr", collection="hr")
    offered = page.open(request)[-1]
    assert offered["visible"] and offered["choices"] == [("All documents", ""), ("hr", "hr"), ("main", "main")]
    last = list(page.ask("What may a room in London cost?", False, "hr", "", request))[-1]
    assert "180 a night" in last[0][-1]["content"][0] and "Searched in hr" in json.dumps(last[0])
    assert page.open(request)[-1]["value"] == "hr", "the choice stays"
