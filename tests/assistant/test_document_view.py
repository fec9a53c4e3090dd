"""A page of the documents: the passage that an answer read is marked, versions are told apart, and nothing in it runs."""

from __future__ import annotations

import html
import re
from collections.abc import Callable

from fastapi.testclient import TestClient

from assistant.services import Services
from assistant.web.document_view import render_page
from feedback.records import Turn

HTML = {"accept": "text/html"}


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
    assert "it has changed since" in page and "06:30" in page and 'id="passage"' in page, "the page as the answer saw it"
    newest = html.unescape(re.findall(r'<a href="([^"]*)">Open it as it is now', page)[0])
    assert "The garage is closed." in client.get(newest, headers=HTML).text
    services.library.store.remove(["parking.md"])
    services.library.add_folder(folder)
    page = client.get(address, headers=HTML).text
    assert "so the passage is not marked" in page and 'id="passage"' not in page, "that version is gone"
    assert client.get("/documents/no/such.md", headers=HTML).status_code == 404
    assert client.get("/documents/..%2f..%2fnightschool.toml", headers=HTML).status_code == 404


def test_a_passage_is_marked_at_its_place_also_where_its_text_stands_twice_or_reads_differently() -> None:
    text = "# Prices\n\nAsk the desk.\n\n## Rooms\n\nAsk the desk.\n\n| What | Price |\n| --- | --- |\n| Room | 9 |\n"

    def marked(passage: str, place: tuple[int, int]) -> list[str]:
        body, found = render_page(text, passage=passage, place=place)
        pieces = re.findall(r'<(?:p|tr) (?:[^>]*)class="passage"[^>]*>(.*?)</(?:p|tr)>', body, re.DOTALL)
        assert found == bool(pieces)
        return [" ".join(re.sub("<[^>]*>", " ", piece).split()) for piece in pieces]

    second = text.rindex("Ask the desk.")
    assert marked("Ask the desk.", (second, second + 13)) == ["Ask the desk."]
    assert (
        text.index("Ask") < second and 'id="passage"' in render_page(text, passage="Ask the desk.", place=(second, second + 1))[0]
    )
    row = text.index("| Room")
    assert marked("| Room | 9 |", (0, 0)) == marked("Room: 9", (row, row + 12)) == ["Room 9"]
    assert marked("Room: 9", (0, 0)) == [] == marked("Room: 9", (row, 10_000))


def test_the_pages_of_a_document_are_numbered() -> None:
    text = "one\n\ntwo\n\n- three\n- four\n"
    body, _ = render_page(text, pages=(0, text.index("two"), text.index("- three")), page_word="Slide")
    assert re.findall("Slide \\d|one|two|three", body) == ["Slide 1", "one", "Slide 2", "two", "Slide 3", "three"]


def test_html_in_a_page_is_shown_and_not_run() -> None:
    body, _ = render_page("# Hi\n\n<script>alert(1)</script>\n\n[x](javascript:alert(1)) ![y](http://evil/z.png)")
    assert "<script" not in body and 'javascript:alert(1)"' not in body


def test_links_of_a_page_stay_within_its_collection() -> None:
    text = "# A\n\n[b](b.md) [c](../c.md#top) [out](https://example.com/x) [here](#a)\n"
    html, _ = render_page(text, collection="hr & co")
    assert 'href="b.md?collection=hr%20%26%20co"' in html and 'href="../c.md?collection=hr%20%26%20co#top"' in html
    assert 'href="https://example.com/x"' in html and 'href="#a"' in html
    assert 'href="b.md"' in render_page(text)[0]
