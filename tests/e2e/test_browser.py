"""The pages in a real browser, over real stores; only the model is a fake. Needs Chromium: skipped without it, but not in CI."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from assistant.grounding import check
from assistant.services import Services
from feedback.records import Answer, Message, Passage

pytestmark = pytest.mark.browser

ARGUMENTS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
)


@pytest.fixture(scope="session")
def chromium() -> str:
    """The path of Chromium. In CI its absence is a failure, so that these tests cannot silently stop running."""
    for name in ("chromium", "chromium-browser", "google-chrome"):
        found = shutil.which(name)
        if found:
            return found
    if os.environ.get("CI"):
        pytest.fail("Chromium is missing in CI: install Debian's package chromium.")
    pytest.skip("Chromium is missing: install Debian's package chromium to run the browser tests.")


@pytest.fixture(scope="module")
def services(make_services: Callable[..., Services], tmp_path_factory: pytest.TempPathFactory) -> Services:
    return make_services(tmp_path_factory.mktemp("home"))


@pytest.fixture(scope="module")
def address(chromium: str, services: Services, serve: Callable[..., Any]) -> Iterator[str]:
    from assistant.web.app import create_app

    with serve(create_app(services)) as base:
        yield base


@pytest.fixture(scope="module")
def browser(chromium: str) -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as play:
        opened = play.chromium.launch(executable_path=chromium, args=list(ARGUMENTS))
        yield opened
        opened.close()


@pytest.fixture
def open_page(browser: Any, address: str, passwords: dict[str, str]) -> Iterator[Callable[..., Any]]:
    """`open_page(name)` logs in and gives the page. No page may ask another server for anything, nor fail in its script."""
    faults: list[str] = []
    contexts: list[Any] = []

    def open_page(name: str, path: str = "/", **options: Any) -> Any:
        context = browser.new_context(viewport={"width": 1280, "height": 800}, **options)
        contexts.append(context)
        context.set_default_timeout(20_000)
        page = context.new_page()
        page.on("request", lambda it: None if it.url.startswith((address, "data:", "blob:")) else faults.append(it.url))
        page.on("pageerror", lambda it: faults.append(str(it)))
        page.goto(address + path)
        page.get_by_label("Name").fill(name)
        page.get_by_label("Password").fill(passwords[name])
        page.get_by_role("button", name="Log in").click()
        page.get_by_role("button", name="Log out").wait_for()
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert faults == []


def ask(page: Any, question: str) -> None:
    box = page.get_by_label("Your question")
    box.fill(question)
    box.press("Enter")


def test_ask_see_sources_rate_correct_reload_and_it_is_still_there(open_page: Callable[..., Any], services: Services) -> None:
    page = open_page("anna")
    page.get_by_text("What do you want to know?").wait_for()
    ask(page, "What may a room in London cost?")
    rating = page.locator("ns-rating")
    rating.wait_for()
    assert "€140" in page.locator("#ns-chat").inner_text()
    assert "Answered by the base model" in rating.inner_text()

    page.locator(".ns-sources summary").first.click()
    assert page.locator(".ns-sources blockquote").first.is_visible()
    with page.context.expect_page() as opened:
        page.locator(".ns-sources a").first.click()
    assert "€140" in opened.value.locator("#passage").inner_text()
    opened.value.close()

    rating.get_by_role("button", name="Bad answer").click()
    rating.get_by_label("wrong", exact=True).check()
    rating.get_by_label("What should it have said?").fill("Up to €150 a night.")
    rating.get_by_label("Comment (optional)").fill("New since May")
    rating.get_by_role("button", name="Save").click()
    rating.get_by_text("Saved. Thank you.").wait_for()

    page.reload()
    rating.wait_for()
    assert rating.get_by_role("button", name="Bad answer").get_attribute("aria-pressed") == "true"
    for text in ("Your correction: Up to €150 a night.", "You said: wrong. New since May"):
        assert text in rating.inner_text()
    user = services.store.user_by_name("anna")
    (rated,) = services.store.rated_turns()
    assert (rated.user_name, rated.feedback.thumb, rated.feedback.correction) == ("anna", "down", "Up to €150 a night.")

    rating.get_by_role("button", name="Change the correction").click()
    rating.get_by_role("button", name="Withdraw everything").click()
    rating.get_by_text("Rating and correction withdrawn.").wait_for()
    assert services.store.feedback(rated.turn.id, user.id) is None
    page.reload()
    rating.wait_for()
    assert rating.get_by_role("button", name="Bad answer").get_attribute("aria-pressed") == "false"


def test_what_is_half_written_under_an_answer_survives_the_next_answer(open_page: Callable[..., Any]) -> None:
    page = open_page("anna")
    page.get_by_role("button", name="New conversation").click()
    ask(page, "What may a room in London cost?")
    first = page.locator("ns-rating").first
    first.get_by_role("button", name="Correct this answer").click()
    first.get_by_label("What should it have said?").fill("half a sent")
    ask(page, "How many days of annual leave are there?")
    page.locator("ns-rating").nth(1).wait_for()
    assert first.get_by_label("What should it have said?").input_value() == "half a sent"


def test_stop_keeps_the_part_and_a_reload_stops_too(open_page: Callable[..., Any], services: Services) -> None:
    page = open_page("ben")
    ask(page, "slowly: what may a room in London cost?")
    page.get_by_text("A room in").wait_for()
    page.get_by_role("button", name="Stop").click()
    page.get_by_text("You stopped this answer.").wait_for()
    page.get_by_role("button", name="Ask", exact=True).wait_for()
    ask(page, "slowly: how many days of annual leave?")
    page.get_by_text("Everybody has").wait_for()
    page.reload()
    page.wait_for_timeout(3000)
    page.reload()
    page.get_by_text("You stopped this answer.").nth(1).wait_for()
    user = services.store.user_by_name("ben")
    turns = services.store.turns(services.store.conversations(user.id, 1)[0].id)
    answers = [turn.answer for turn in turns]
    assert [answer.finish_reason for answer in answers if answer] == ["stopped", "stopped"]
    assert all(answer and answer.text for answer in answers)


def test_the_history_switch_is_obeyed(open_page: Callable[..., Any], services: Services) -> None:
    page = open_page("ben")
    page.get_by_role("button", name="New conversation").click()
    for count, switch in enumerate((False, True, False), start=1):
        page.get_by_label("Use earlier questions").set_checked(switch)
        ask(page, f"How many days of annual leave does year {count} have?")
        page.locator("ns-rating").nth(count - 1).wait_for()
    seen = services.engine.seen[-3:]  # type: ignore[attr-defined]
    assert [any("year 1" in message.content for message in messages) for messages in seen] == [True, True, False]
    assert [len(messages) for messages in seen] == [2, 4, 2]


def test_a_failure_and_a_question_that_cannot_be_asked_are_one_sentence_each(open_page: Callable[..., Any]) -> None:
    page = open_page("ben")
    page.get_by_role("button", name="New conversation").click()
    ask(page, "Why does a room in London fail?")
    page.get_by_text("This answer failed.").wait_for()
    ask(page, "x" * 10_000)
    page.get_by_role("alert").get_by_text("The question has 10,000 characters").wait_for()
    assert len(page.get_by_label("Your question").input_value()) == 10_000, "the question is not lost"
    page.locator("ns-rating .ns-up").first.wait_for()


def test_an_employee_cannot_open_the_admin_page(open_page: Callable[..., Any], address: str) -> None:
    page = open_page("anna")
    assert page.get_by_role("link", name="Admin").count() == 0
    reply = page.goto(f"{address}/admin")
    assert reply.status == 403 and "Only an admin can open this page" in page.inner_text("body")


def test_an_admin_sees_the_loop_promotes_and_the_chat_shows_the_new_version(
    open_page: Callable[..., Any], services: Services, make_adapter: Callable[..., str]
) -> None:
    run = services.ledger.start("", "ada")
    services.ledger.finish(run.id, "succeeded", "HOLD", "Only 12 of the 40 examples that a night needs.")
    version = make_adapter(services, status="held", run_id=run.id)
    page = open_page("ada", "/admin")
    page.get_by_text("Only 12 of the 40 examples").first.wait_for()
    page.get_by_role("button", name="Promote").click()
    page.get_by_role("alert").get_by_text("No version is chosen").wait_for()
    bad = page.locator("#ns-notice p").evaluate("it => getComputedStyle(it).color")
    page.get_by_label("Version", exact=True).click()
    page.get_by_role("option", name=version).click()
    page.get_by_role("button", name="Promote").click()
    page.get_by_role("alert").get_by_text("needs a reason").wait_for()
    page.get_by_label("Reason (recorded)").fill("It knows the new prices")
    page.get_by_role("button", name="Promote").click()
    page.get_by_text(re.compile(f"{version} answers from now on", re.IGNORECASE)).wait_for()
    assert page.locator("#ns-notice p").evaluate("it => getComputedStyle(it).color") != bad, "what was done is not red"
    assert services.pool.current == version
    page.get_by_role("link", name="Chat").click()
    ask(page, "What may a room in London cost?")
    page.get_by_text(f"Answered by {version}").wait_for()
    assert "admin" not in Path(page.url).name


def test_an_admin_watches_a_training_live_and_downloads_the_figures_of_a_finished_one(
    open_page: Callable[..., Any], services: Services
) -> None:
    def step(number: int, **more: float) -> str:
        line = {
            "step": number,
            "steps": 9,
            "loss": 2 - number / 9,
            "grad_norm": 0.5,
            "tokens_s": 170 + number,
            "eta_s": 5.0,
            **more,
        }
        return json.dumps(line) + "\n"

    done = services.ledger.start("", "ada")
    (services.ledger.folder(done.id) / "progress.jsonl").write_text("".join(step(number) for number in range(1, 10)))
    services.ledger.finish(done.id, "succeeded", "HOLD", "Too close to call.")
    run = services.ledger.start("", "ada")
    services.ledger.advance(run.id, "training")
    try:
        page = open_page("ada", "/admin")
        page.get_by_text("No step is done yet").wait_for()
        assert page.locator("#ns-live-metrics figure").count() == 0
        progress = services.ledger.folder(run.id) / "progress.jsonl"
        progress.write_text(step(1) + step(2, eval_loss=1.9))
        page.locator("#ns-live-metrics").get_by_text("172 tokens/s").wait_for()
        with progress.open("a") as file:
            file.write(step(3))
        page.locator("#ns-live-metrics").get_by_text("173 tokens/s").wait_for()
        page.locator("canvas, .vega-embed").first.wait_for()
        page.get_by_label("How the training of a night went").click()
        page.get_by_role("option", name=done.id).click()
        page.locator("#ns-metrics").get_by_text("179 tokens/s").wait_for()
        with page.expect_download() as download:
            page.locator("#ns-metrics").get_by_role("link", name="Download CSV").click()
        assert download.value.suggested_filename == f"nightschool-{done.id}.csv"
        assert len(Path(download.value.path()).read_text().splitlines()) == 10
        page.set_viewport_size({"width": 390, "height": 800})
        assert page.evaluate("document.documentElement.scrollWidth - innerWidth") <= 0
    finally:
        services.ledger.finish(run.id, "cancelled", None, "Cancelled.")


def test_the_chat_can_be_used_with_the_keyboard_alone(open_page: Callable[..., Any]) -> None:
    page = open_page("anna")
    page.get_by_role("button", name="New conversation").click()
    page.get_by_text("What do you want to know?").wait_for()
    page.get_by_label("Your question").focus()
    page.keyboard.type("What may a room in London cost?")
    page.keyboard.press("Enter")
    page.locator("ns-rating").wait_for()
    page.locator(".ns-sources summary").first.focus()
    page.keyboard.press("Enter")
    assert page.locator(".ns-sources blockquote").first.is_visible()
    page.locator("ns-rating .ns-down").focus()
    page.keyboard.press("Enter")
    page.get_by_text("What is wrong?", exact=True).wait_for()
    assert page.evaluate("document.activeElement.type") == "checkbox", "the form that opens has the focus"
    page.keyboard.press("Escape")
    page.locator("ns-rating form").wait_for(state="detached")
    assert "ns-edit" in page.evaluate("document.activeElement.className"), "closing gives the focus back"


def test_a_question_without_an_answer_goes_to_the_document_owner_and_comes_back_answered(
    open_page: Callable[..., Any], services: Services
) -> None:
    page = open_page("anna")
    page.get_by_role("button", name="New conversation").click()
    ask(page, "Which lift goes to the moon hotel?")
    page.get_by_text("Closest pages").wait_for()
    opener = page.get_by_role("button", name="Send this question to the document owner")
    opener.focus()
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.tagName") == "TEXTAREA", "the form that opens has the focus"
    page.keyboard.press("Escape")
    assert "ns-open" in page.evaluate("document.activeElement.className"), "closing gives the focus back"
    opener.click()
    page.get_by_label("Note to the document owner").fill("My flight is on Monday.")
    page.get_by_role("button", name="Send the question").click()
    page.get_by_text("Sent on").wait_for()
    page.reload()
    page.get_by_text("Your note: My flight is on Monday.").wait_for()
    assert opener.count() == 0 and page.get_by_text("Sent on").count() == 1

    admin = open_page("ada", "/admin")
    admin.get_by_text("My flight is on Monday.").wait_for()
    with admin.context.expect_page() as opened:
        admin.locator(".ns-questions a").first.click()
    assert opened.value.locator("#passage").count() == 1, "the admin sees the page that came closest"
    admin.get_by_label("What came of it").fill("See the page Space.")
    admin.get_by_role("button", name="Close the question").click()
    admin.get_by_text("Closed. anna reads this").wait_for()
    admin.get_by_text("None. When the documents do not answer").wait_for()
    page.reload()
    page.get_by_text(": See the page Space.").wait_for()


def test_a_document_is_uploaded_asked_about_in_its_collection_and_removed(
    open_page: Callable[..., Any], services: Services, tmp_path: Path
) -> None:
    (tmp_path / "nurse.csv").write_text("What,Extension\nNurse,2290\nFire,2299\n", encoding="utf-8")
    (tmp_path / "broken.pdf").write_bytes(b"%PDF-1.4 nothing")
    admin = open_page("ada", "/admin")
    admin.get_by_label("Collection", exact=True).fill("health")
    admin.keyboard.press("Enter")
    admin.locator("#ns-files input[type=file]").set_input_files([tmp_path / "nurse.csv", tmp_path / "broken.pdf"])
    admin.locator("#ns-files").get_by_text(".pdf").wait_for()
    admin.get_by_role("button", name="Add the files").click()
    admin.get_by_role("alert").get_by_text("broken.pdf").wait_for()
    assert "1 added." in admin.locator("#ns-report").inner_text()
    admin.locator(".ns-table").get_by_text("health").wait_for()

    page = open_page("ben")
    page.get_by_role("button", name="New conversation").click()
    page.get_by_label("Answer from").click()
    page.get_by_role("option", name="health").click()
    ask(page, "On which extension is the nurse?")
    page.get_by_text("Searched in health").wait_for()
    page.locator(".ns-sources summary").first.click()
    with page.context.expect_page() as opened:
        page.locator(".ns-sources a").first.click()
    marked = opened.value.locator("#passage")
    assert "in the collection health" in opened.value.locator("header").inner_text() and marked.is_visible()
    assert marked.evaluate("it => it.getBoundingClientRect().top < innerHeight")

    admin.get_by_label("Document to remove").click()
    admin.get_by_role("option", name="health: nurse.csv").click()
    admin.get_by_role("button", name="Remove ...").click()
    admin.get_by_role("button", name="Yes, remove it").click()
    admin.get_by_text("nurse.csv is removed").wait_for()
    assert services.library.store.paths("health") == []


def test_a_file_of_a_gigabyte_is_refused_in_one_sentence_and_the_chat_goes_on(
    open_page: Callable[..., Any], services: Services, tmp_path: Path
) -> None:
    with (tmp_path / "huge.pdf").open("wb") as sparse:
        sparse.truncate(1_000_000_000)
    before = services.library.store.paths()
    admin = open_page("ada", "/admin")
    admin.locator("#ns-files input[type=file]").set_input_files([tmp_path / "huge.pdf"])
    admin.get_by_text('exceed the maximum allowed size of 100.0 Mb: "huge.pdf"').wait_for()
    admin.get_by_role("button", name="Add the files").click()
    admin.get_by_text("No file is chosen").wait_for()
    page = open_page("ben")
    page.get_by_role("button", name="New conversation").click()
    ask(page, "What may a room in London cost?")
    page.locator("ns-rating").wait_for()
    assert "€140" in page.locator("#ns-chat").inner_text() and services.library.store.paths() == before


def test_a_sentence_without_support_is_marked_and_told_to_those_who_listen(
    open_page: Callable[..., Any], services: Services
) -> None:
    user = services.store.user_by_name("anna")
    before = services.store.turns(services.store.conversations(user.id, 1)[0].id)[-1].asked
    passage = Passage(
        number=1, document="travel/hotels.md", document_version=1, chunk_id=1, title="Hotels", text="Rooms cost €140.", score=1.0
    )
    place = services.store.start_conversation(user.id, history=False)
    asked = replace(before, conversation_id=place, passages=(passage,), messages=(Message(role="user", content="?"),))
    text = "- Rooms cost €140 [1].\n- **Dogs** pay $9 [1].\n"
    answer = Answer(text=text, finish_reason="stop", checks=check(text, (passage,), "What do rooms cost?"))
    services.store.finish_turn(services.store.begin_turn(asked), answer)
    page = open_page("anna")
    marked = page.locator(".ns-unsupported")
    marked.wait_for()
    assert marked.inner_text() == "Dogs pay $9 [1]." and page.locator("#ns-chat li strong").inner_text() == "Dogs"
    assert "dotted" in marked.evaluate("it => getComputedStyle(it).textDecorationStyle")
    assert page.locator(".ns-spoken").evaluate("it => it.offsetWidth") <= 1
    assert "(not found in the sources)" in page.get_by_role("log").aria_snapshot()
    assert page.get_by_text("Marked sentences were not found in the sources").is_visible()
