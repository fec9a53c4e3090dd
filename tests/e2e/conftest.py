"""The real thing, small: the embedded model, the sample company, real subprocesses; a Chromium where there is one."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from assistant.config import ChatSettings, DocumentSettings, EngineSettings, NightSettings, Settings
from assistant.console import sample_company
from assistant.demo import _ask, _rate
from assistant.home import Home
from assistant.models import EMBEDDED, open_base
from assistant.services import Services
from training.questions import load_questions


@pytest.fixture(scope="session")
def models(pytestconfig: pytest.Config) -> Path:
    """The folder of imported base models, kept in pytest's cache between sessions."""
    assert pytestconfig.cache is not None
    folder = pytestconfig.cache.mkdir("models")
    open_base(folder, EMBEDDED)
    return folder


@pytest.fixture
def home(tmp_path: Path, models: Path) -> Home:
    """A new home that shares the imported base model."""
    root = tmp_path / "home"
    root.mkdir()
    (root / "models").symlink_to(models)
    return Home(root)


@pytest.fixture
def quick_settings() -> Settings:
    """The sample company with nights of a few training steps and a few questions."""
    data = sample_company()
    return Settings(
        documents=DocumentSettings(folder=str(data / "handbook"), encoder="none"),
        engine=EngineSettings(starter=False),  # these tests tell the story from the bare base
        chat=ChatSettings(max_tokens=24, prompt_tokens=200, passages=1),
        night=NightSettings(
            cron="",
            minutes=60,  # the steps end a training, and no examination is cut short
            max_steps=4,
            min_examples=4,
            min_facts=4,
            examined=6,
            perplexity=False,
            paraphrases=0,
            unanswerable=2,
            pushback=1,
            general=0,  # torch: in the one night that also measures the perplexity
            side_by_side=False,
            starter_share=0,
            seed_share=0,
            questions=str(data / "questions" / "sealed.jsonl"),
        ),
    )


@pytest.fixture
def rate_some() -> Callable[..., None]:
    """`rate_some(services, count)`: an employee asks practice questions, rates the answers and writes corrections."""

    def play(services: Services, count: int, *, skip: int = 0) -> None:
        rows = load_questions(sample_company() / "questions" / "practice.jsonl")
        user = services.store.add_user(f"employee{skip}", "a long enough password", "employee")
        place = services.store.start_conversation(user.id, history=False)
        for row in [row for row in rows if row.answerable][skip * 7 :: 7][:count]:
            _rate(services, user.id, _ask(services, user.id, place, row), row)

    return play


@pytest.fixture
def chromium() -> Iterator[Any]:
    """A real browser. Without Chromium the test is skipped by name; in CI that is a failure."""
    found = shutil.which("chromium") or shutil.which("chromium-browser")
    if found is None:
        reason = "there is no Chromium on this machine (Debian: apt-get install chromium)"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    from playwright.sync_api import sync_playwright

    flags = "--no-sandbox --disable-gpu --disable-background-networking --disable-component-update --disable-sync --no-first-run"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=found, args=flags.split())
        yield browser
        browser.close()
