"""The admin's page and its functions, over real stores and a real pool; only the model is a fake."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from assistant.services import Services
from assistant.web.admin_metrics import MetricsPanel
from assistant.web.admin_page import AdminPage
from feedback.records import Turn
from training.registry import AdapterRegistry

SITE = "http://testserver"
HTML = {"accept": "text/html"}


def test_an_employee_gets_neither_the_page_nor_any_file_below_it(log_in: Callable[[str], TestClient]) -> None:
    client = log_in("anna")
    page = client.get("/admin/", headers=HTML)
    assert page.status_code == 403 and "Only an admin" in page.text
    assert client.get("/admin", headers=HTML).status_code == 403
    assert client.get("/admin/config").status_code == 403
    assert client.get("/admin/theme.css").status_code == 403


def test_an_admin_gets_the_page(log_in: Callable[[str], TestClient]) -> None:
    client = log_in("ada")
    assert client.get("/admin", headers=HTML).headers["location"] == "/admin/"
    assert client.get("/admin/", headers=HTML).status_code == 200


def join(client: TestClient, prefix: str, fn_index: int, data: list[Any]) -> httpx.Response:
    body = {"data": data, "fn_index": fn_index, "session_hash": "raw", "event_data": None, "trigger_id": None}
    return client.post(f"{prefix}/gradio_api/queue/join", json=body, headers={"origin": SITE})


def test_a_raw_post_to_each_admin_function_is_refused_to_an_employee(
    app: FastAPI, log_in: Callable[[str], TestClient], services: Services, make_adapter: Callable[..., str]
) -> None:
    version = make_adapter(services)
    functions = log_in("ada").get("/admin/config").json()["dependencies"]
    assert len(functions) >= 7
    client = log_in("anna")
    for function in functions:
        data = [version, "because"][: len(function["inputs"])]
        assert join(client, "/admin", function["id"], data).status_code == 403
        run = client.post(
            "/admin/gradio_api/run/predict", json={"data": data, "fn_index": function["id"]}, headers={"origin": SITE}
        )
        assert run.status_code == 403
    assert services.registry.current() == "base" and services.ledger.runs(5) == []


def test_each_admin_function_asks_for_the_role_itself(own: Services) -> None:
    import gradio as gr
    from starlette.requests import Request

    page = AdminPage(own)
    for user in (None, own.store.user_by_name("anna")):
        raw = Request({"type": "http", "headers": [], "state": {"user": user}})
        request = gr.Request(raw)
        for call in (page.open, page.live, page.slow, page.start, page.cancel):
            with pytest.raises(gr.Error, match=r"log in again|Only an admin"):
                call(request)
        with pytest.raises(gr.Error):
            page.promote("v0001", "because", request)
        with pytest.raises(gr.Error):
            page.roll_back("", request)
        with pytest.raises(gr.Error):
            MetricsPanel(own).refresh(request)
        with pytest.raises(gr.Error):
            MetricsPanel(own).choose("r0001", request)


@pytest.fixture
def admin(own: Services) -> Iterator[tuple[Any, Any]]:
    import gradio as gr
    from starlette.requests import Request

    raw = Request({"type": "http", "headers": [], "state": {"user": own.store.user_by_name("ada")}})
    yield AdminPage(own), gr.Request(raw)


def test_promoting_needs_a_reason_and_is_recorded_as_an_overruling(
    admin: tuple[Any, Any], own: Services, make_adapter: Callable[..., str]
) -> None:
    page, request = admin
    version = make_adapter(own, status="held")
    assert "needs a reason" in page.promote(version, "  ", request)[0] and own.registry.current() == "base"
    assert "answers from now on" in page.promote(version, "the new prices", request)[0]
    assert own.pool.current == version
    newest = own.registry.promotions()[0]
    assert (newest.by, newest.reason, newest.overruled) == ("ada", "the new prices", True)
    assert "The base model answers" in page.roll_back("", request)[0]
    assert own.pool.current == "base"
    assert "nothing to roll back" in page.roll_back("", request)[0]
    assert 'role="alert"' in page.promote("v0099", "why not", request)[0], "an unknown version is one sentence"


def test_a_corrupt_adapter_is_refused_in_the_page_and_the_old_one_serves(
    admin: tuple[Any, Any], own: Services, make_adapter: Callable[..., str]
) -> None:
    page, request = admin
    version = make_adapter(own)
    weights = own.registry.path(version) / "adapter_model.safetensors"
    weights.chmod(0o644)
    weights.write_text("{ }")
    assert "cannot serve" in page.promote(version, "I am sure", request)[0]
    assert own.registry.current() == "base"


def test_a_swap_that_the_engine_refuses_is_among_the_last_errors_and_is_not_claimed(
    admin: tuple[Any, Any], own: Services, make_adapter: Callable[..., str]
) -> None:
    page, request = admin
    assert "answers from now on" in page.promote(make_adapter(own), "the first one", request)[0]
    harmed = make_adapter(own)
    own.registry.promote(harmed, "command line", "in a hurry", True)
    weights = own.registry.path(harmed) / "adapter_model.safetensors"
    weights.chmod(0o644)
    weights.write_text("{ }")
    assert own.follow_registry() is not None
    *_, errors = page.open(request)
    assert f"The adapter {harmed} cannot serve" in errors and "(a swap)" in errors


class RefusedAtOnce(AdapterRegistry):
    """A registry beside a server that looks, and refuses, before the page does."""

    def promote(self, version: str, by: str, reason: str, overruled: bool, *, expected: str | None = None) -> None:
        super().promote(version, by, reason, overruled, expected=expected)
        self.put_back(version, "base", "server", "it does nothing")


def test_a_version_that_the_server_refused_before_the_page_looked_is_not_claimed(
    admin: tuple[Any, Any], bare: Services, make_adapter: Callable[..., str]
) -> None:
    page = AdminPage(replace(bare, registry=RefusedAtOnce(bare.home.db, bare.home.adapters)))
    said = page.promote(make_adapter(bare), "I am sure", admin[1])[0]
    assert "v0001 was refused or replaced at once" in said and "from now on" not in said


def test_a_second_night_and_a_cancel_without_one_are_one_sentence_each(admin: tuple[Any, Any], own: Services) -> None:
    page, request = admin
    assert "No night is running" in page.cancel(request)[0]
    run = own.ledger.start("", "ada")
    assert f"The night {run.id} is still running" in page.start(request)[0]
    assert "asked to end" in page.cancel(request)[0] and own.ledger.cancel_requested(run.id)
    own.ledger.finish(run.id, "cancelled", None, "Cancelled by ada.")


def test_a_night_that_examines_says_how_far_it_is(admin: tuple[Any, Any], own: Services) -> None:
    page, request = admin
    run = own.ledger.start("", "ada")
    own.ledger.advance(run.id, "examining")
    assert "answers" not in page.live(request)[1]
    (own.ledger.folder(run.id) / "examination.progress").write_text('{"done": 12', encoding="utf-8")
    assert "is examining" in page.live(request)[1], "a line that is being written is no fault"
    (own.ledger.folder(run.id) / "examination.progress").write_text('{"done": 12, "total": 90}', encoding="utf-8")
    assert "12 of 90 answers" in page.live(request)[1]


def test_without_ratings_there_is_a_sentence_and_no_empty_plot(admin: tuple[Any, Any]) -> None:
    page, request = admin
    title, ratings = page.open(request)[8:10]
    assert "Nobody has rated" in title and not ratings.visible


def test_a_night_that_has_not_trained_yet_says_so_and_shows_no_empty_plot(admin: tuple[Any, Any], own: Services) -> None:
    page, request = admin
    run = own.ledger.start("", "ada")
    own.ledger.advance(run.id, "training")
    _, tonight, loss, charts, *_ = page.live(request)
    assert "No step is done yet" in tonight and not loss.visible and charts == ""


def train(services: Services, *, steps: int = 3) -> str:
    """Leave a night behind that trained for so many steps; returns its id."""
    run = services.ledger.start("", "ada")
    lines = [json.dumps({"step": step, "steps": steps, "loss": 2.0, "grad_norm": 0.5}) for step in range(1, steps + 1)]
    (services.ledger.folder(run.id) / "progress.jsonl").write_text("\n".join(lines), encoding="utf-8")
    services.ledger.finish(run.id, "succeeded", "HOLD", "Too close.")
    return run.id


def test_a_finished_night_can_be_looked_at_and_those_that_never_trained_are_not_offered(
    admin: tuple[Any, Any], own: Services
) -> None:
    _, request = admin
    panel = MetricsPanel(own)
    assert panel.refresh(request)["visible"] is False
    short = own.ledger.start("", "ada")
    own.ledger.finish(short.id, "succeeded", "HOLD", "Too few examples.")
    trained = train(own)
    assert [value for _, value in panel.refresh(request)["choices"]] == [trained]
    loss, charts = panel.choose(trained, request)
    assert len(loss.value["data"]) == 3 and loss.visible and "Gradient norm" in charts
    loss, charts = panel.choose(short.id, request)
    assert not loss.visible and "No training step" in charts
    assert panel.choose(None, request)[1] == ""


def test_the_figures_of_a_night_are_a_file_for_admins_alone(log_in: Callable[[str], TestClient], services: Services) -> None:
    run = train(services, steps=4)
    address = f"/admin/runs/{run}/metrics.csv"
    assert log_in("anna").get(address).status_code == 403
    client = log_in("ada")
    reply = client.get(address)
    assert reply.headers["content-type"].startswith("text/csv") and f"{run}.csv" in reply.headers["content-disposition"]
    head, *rows = reply.text.splitlines()
    assert head.startswith("step,steps,stage,loss,eval_loss") and len(rows) == 4
    assert client.get("/admin/runs/r0999/metrics.csv").status_code == 400


def test_the_admin_page_shows_the_loop(admin: tuple[Any, Any], own: Services, ask_of: Callable[..., Turn]) -> None:
    page, request = admin
    turn = ask_of(own, "anna")
    own.store.rate(turn.id, turn.asked.user_id, "up")
    ask_of(own, "anna", "Does a room in London fail?")
    night = own.ledger.start("", "schedule")
    own.ledger.finish(night.id, "succeeded", "HOLD", "12 examples <of> 40.")
    run = own.ledger.start("", "ada")
    own.ledger.advance(run.id, "training")
    lines = [
        json.dumps({"step": step, "steps": 900, "loss": 2 - step / 900, "tokens_s": 180.0, "eta_s": 60}) for step in range(901)
    ]
    (own.ledger.folder(run.id) / "progress.jsonl").write_text("\n".join(lines) + '\n{"step": 901, "lo', encoding="utf-8")
    _, facts, tonight, loss, charts, start, cancel, last, title, ratings, runs, adapters, *_, errors = page.open(request)
    assert "the base model" in facts and "3 pages" in facts
    assert "Step 900 of 900" in tonight and "ada" in tonight
    assert 200 <= len(loss.value["data"]) <= 301 and loss.visible
    assert "180 tokens/s" in charts and f"/admin/runs/{run.id}/metrics.csv" in charts
    assert start["interactive"] is False and cancel["visible"] is True
    assert "HOLD" in last and "12 examples &lt;of&gt; 40." in last
    assert sum(row[1] for row in ratings.value["data"]) == 1 and ratings.visible and "Nobody" not in title
    assert run.id in runs and "in service" in adapters
    assert "lost its place" in errors and "anna" in errors
