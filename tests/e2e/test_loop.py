"""The whole loop with the real model: ask, rate, a night of a few steps, an overruling, a swap under a running stream."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.numpy import load_file, save_file

from assistant.chat import Done, Piece
from assistant.config import Settings
from assistant.home import Home
from assistant.night import run_night
from assistant.services import Services, open_services
from assistant.web.app import create_app
from feedback.records import Turn
from training.lora_gguf import convert
from training.registry import AdapterRegistry
from training.runs import RunLedger

pytestmark = pytest.mark.model
QUESTION = "How many weeks ahead must the list of travellers for a group booking reach the Travel Coordinator?"


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def stream(services: Services, name: str = "asker") -> Any:
    known = {user.name: user for user in services.store.users()}
    user = known.get(name) or services.store.add_user(name, "a long enough password", "admin")
    place = services.store.start_conversation(user.id, history=False)
    return services.chat.ask(user_id=user.id, conversation_id=place, question=QUESTION, history=False)


def finish(events: Any) -> Turn:
    last = list(events)[-1]
    assert isinstance(last, Done)
    return last.turn


def a_night(home: Home, settings: Settings) -> str:
    report = run_night(home, settings, slot="", requested_by="test", progress=lambda _: None)
    assert report.outcome == "succeeded", report.reason
    assert report.candidate is not None
    return report.candidate


def overrule(home: Home, version: str) -> None:
    AdapterRegistry(home.db, home.adapters).promote(version, by="test", reason="a few steps do not pass the gate", overruled=True)


def a_stronger(home: Home, version: str) -> str:
    """Publish the adapter again with larger weights: a second version without a second night."""
    registry = AdapterRegistry(home.db, home.adapters)
    stronger = home.root / "stronger"
    shutil.copytree(registry.path(version), stronger)
    weights = stronger / "adapter_model.safetensors"
    tensors = load_file(weights)
    for file in stronger.iterdir():
        file.chmod(0o644)
    save_file({key: value * 2 if "lora_B" in key else value for key, value in tensors.items()}, weights)
    convert(stronger, home.models / "smollm2-135m-instruct" / "hf", stronger / "adapter.gguf")
    manifest = {"base_hash": registry.show(version).manifest["base_hash"]}
    return registry.publish(stronger, manifest, "held", None)


@pytest.mark.browser
def test_the_loop_closes_and_a_running_stream_finishes_on_its_version(
    home: Home,
    quick_settings: Settings,
    rate_some: Callable[..., None],
    serve: Callable[..., Any],
    chromium: Any,
) -> None:
    weights = home.models / "smollm2-135m-instruct" / "hf" / "model.safetensors"
    base_before = digest(weights)
    with open_services(home, quick_settings) as services:
        services.library.add_folder(Path(quick_settings.documents.folder))
        rate_some(services, 12)
        assert finish(stream(services)).asked.adapter == "base"

        measured = quick_settings.model_copy(
            update={"night": quick_settings.night.model_copy(update={"perplexity": True, "general": 2, "seed_share": 0.25})}
        )
        first = a_night(home, measured)
        examined = services.examinations.load("r0001")
        assert examined is not None and examined["contestants"]["candidate"]["summary"]["perplexity"] > 1
        if services.registry.current() != first:
            overrule(home, first)
        assert services.follow_registry() is None
        moved = load_file(home.adapters / first / "adapter_model.safetensors")
        assert max(abs(tensor).max() for key, tensor in moved.items() if "lora_B" in key) > 0  # they start at zero

        second = a_stronger(home, first)
        assert (first, second) == ("v0001", "v0002")

        running = stream(services)
        while not isinstance(next(running), Piece):
            pass
        if services.registry.current() != second:
            overrule(home, second)
        assert services.follow_registry() is None
        old, new = finish(running), finish(stream(services))
        assert (old.asked.adapter, new.asked.adapter) == (first, second)
        assert services.store.turn(old.id).asked.adapter == first
        assert old.answer is not None and old.answer.finish_reason in ("stop", "length")
        assert digest(weights) == base_before

        with serve(create_app(services)) as address:
            page = chromium.new_page()
            page.goto(address)
            page.get_by_label("Name").fill("asker")
            page.get_by_label("Password").fill("a long enough password")
            page.get_by_role("button", name="Log in").click()
            box = page.get_by_role("textbox").first
            box.fill(QUESTION)
            box.press("Enter")
            page.get_by_text(second).first.wait_for(timeout=30_000)
            assert page.request.get(f"{address}/health").json()["adapter"] == second


def test_too_little_data_is_a_clean_hold_that_says_how_much_is_missing(
    home: Home, quick_settings: Settings, rate_some: Callable[..., None]
) -> None:
    with open_services(home, quick_settings) as services:
        services.library.add_folder(Path(quick_settings.documents.folder))
        rate_some(services, 3)
    settings = quick_settings.model_copy(update={"night": quick_settings.night.model_copy(update={"min_examples": 40})})
    report = run_night(home, settings, slot="", requested_by="test", progress=lambda _: None)
    assert (report.outcome, report.verdict) == ("succeeded", "HOLD")
    assert "40 are needed" in report.reason and "more" in report.reason
    assert AdapterRegistry(home.db, home.adapters).current() == "base"


@pytest.fixture
def rated_home(home: Home, quick_settings: Settings, rate_some: Callable[..., None]) -> Home:
    """A home with ratings, documents and a settings file, ready for a night from the command line."""
    with open_services(home, quick_settings) as services:
        services.library.add_folder(Path(quick_settings.documents.folder))
        rate_some(services, 8)
    lines = []
    for section, values in quick_settings.model_dump().items():
        lines.append(f"[{section}]")
        lines += [f"{key} = {json.dumps(value)}" for key, value in values.items()]
    home.settings.write_text("\n".join(lines), encoding="utf-8")
    return home


def start_night(home: Home) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "assistant.cli", "--home", str(home.root), "night", "--now"]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True)


def children_of(pid: int) -> list[int]:
    import psutil

    return [child.pid for child in psutil.Process(pid).children(recursive=True)]


def wait_for(condition: Callable[[], Any], seconds: float = 120) -> Any:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        found = condition()
        if found:
            return found
        time.sleep(0.1)
    raise AssertionError("it did not happen in time")


@pytest.mark.parametrize("victim", ["trainer", "night"])
def test_whoever_is_killed_in_a_night_the_next_one_starts_and_nothing_is_half_published(rated_home: Home, victim: str) -> None:
    night = start_night(rated_home)
    ledger = RunLedger(rated_home.db, rated_home.runs)
    run = wait_for(ledger.running)
    children = wait_for(lambda: ledger.run(run.id).state == "training" and children_of(night.pid))
    time.sleep(1.0)
    os.kill(children[0] if victim == "trainer" else night.pid, signal.SIGKILL)
    _, said = night.communicate(timeout=120)

    if victim == "night":
        (recovered,) = ledger.recover()
        assert recovered.outcome == "abandoned" and recovered.reason
        wait_for(lambda: not any(_alive(pid) for pid in children), 15)  # who loses his parent ends within 10 s
    else:
        assert night.returncode == 1 and b"Training failed" in said
        assert ledger.run(run.id).outcome == "failed"
    registry = AdapterRegistry(rated_home.db, rated_home.adapters)
    assert registry.current() == "base" and registry.list() == [] and list(rated_home.adapters.glob("v*")) == []

    if victim == "trainer":  # the whole second night is played once, after the harder death
        return
    again = start_night(rated_home)
    out, said = again.communicate(timeout=300)
    assert again.returncode == 0, said.decode()
    assert b"v0001" in out


def start_server(home: Home, port: int) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "assistant.cli", "--home", str(home.root), "serve", "--port", str(port)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True)


def said_until_open(server: subprocess.Popen[str]) -> str:
    """Return what the server prints up to its address (and the first login, where it comes after)."""
    assert server.stdout is not None
    said = ""
    for line in server.stdout:
        said += line
        if line.startswith("Open http"):
            return said
    raise AssertionError(f"the server did not start: {said}")


def test_a_scheduled_night_outlives_a_killed_server_and_the_next_start_says_so(rated_home: Home) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    text = rated_home.settings.read_text(encoding="utf-8").replace('cron = ""', 'cron = "* * * * *"')
    rated_home.settings.write_text(text, encoding="utf-8")
    ledger = RunLedger(rated_home.db, rated_home.runs)
    server = start_server(rated_home, port)
    again: subprocess.Popen[str] | None = None
    try:
        said_until_open(server)
        run = wait_for(ledger.running, 150)
        assert run.requested_by == "schedule"
        wait_for(lambda: ledger.run(run.id).state == "training")
        os.kill(server.pid, signal.SIGKILL)
        server.wait()
        # the settings go back, so that the second server starts no night of its own
        rated_home.settings.write_text(text.replace('cron = "* * * * *"', 'cron = ""'), encoding="utf-8")
        again = start_server(rated_home, port)
        assert f"Night {run.id}" in said_until_open(again)
        ended = wait_for(lambda: ledger.run(run.id).outcome and ledger.run(run.id), 420)
        assert ended.outcome == "succeeded" and ended.verdict in ("PROMOTE", "HOLD", "REJECT")
        registry = AdapterRegistry(rated_home.db, rated_home.adapters)
        assert registry.current() == ("v0001" if ended.verdict == "PROMOTE" else "base")
    finally:
        for each in (server, again):
            if each is not None and each.poll() is None:
                each.kill()
                each.wait()


def _alive(pid: int) -> bool:
    import psutil

    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
