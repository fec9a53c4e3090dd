"""Documents in and out by the admin's page, and the questions that the documents did not answer; real files, real stores."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from assistant.documents.intake import AddReport
from assistant.documents.store import WatchedFolder
from assistant.services import Services
from assistant.uploads import Uploads, folder_name
from assistant.web import admin_documents
from assistant.web.admin_documents import DocumentsPanel
from assistant.web.admin_questions import QuestionsPanel
from assistant.web.app import create_app
from feedback.errors import DocumentError
from feedback.records import Turn


def as_user(services: Services, name: str) -> Any:
    import gradio as gr
    from starlette.requests import Request

    return gr.Request(Request({"type": "http", "headers": [], "state": {"user": services.store.user_by_name(name)}}))


@pytest.fixture
def chosen(tmp_path: Path) -> Callable[..., list[str]]:
    """`chosen({name: content})` writes files as a browser's upload leaves them, and returns their paths."""

    def chosen(files: dict[str, str]) -> list[str]:
        paths = []
        for number, (name, content) in enumerate(files.items()):
            path = tmp_path / "gradio" / str(number) / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(content, encoding="utf-8")
            paths.append(str(path))
        return paths

    return chosen


def add(services: Services, paths: list[str], collection: str | None = "main") -> str:
    """Upload files as an admin, and return the report that the page shows."""
    *_, last = DocumentsPanel(services).add(paths, collection, as_user(services, "ada"))
    return str(last[0])


def kept(services: Services) -> list[str]:
    folder = services.home.root / "uploads"
    return sorted(str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file())


def test_uploaded_files_become_documents_of_their_collection_and_the_bad_ones_a_sentence_each(
    own: Services, chosen: Callable[..., list[str]]
) -> None:
    paths = chosen({"parking.md": "# Parking\n\nThe garage opens at 06:30.\n", "broken.pdf": "%PDF-1.4", "tool.exe": "MZ"})
    said = add(own, paths, " hr / 2027 ")
    assert "1 added." in said and "2 files not read" in said and "broken.pdf" in said and "tool.exe is no document" in said
    assert own.library.store.paths("hr / 2027") == ["parking.md"]
    assert kept(own) == ["hr %2F 2027/parking.md"], "what became no document is not kept"
    assert not any(Path(path).exists() for path in paths), "nor are Gradio's copies"
    hit = own.library.search("When does the garage open?", limit=1, collection="hr / 2027")[0]
    assert "06:30" in hit.text
    assert own.store.audit_entries(1)[0].detail == {"collection": "hr / 2027", "added": 1, "changed": 0, "unread": 2}


def test_an_upload_whose_encoding_was_guessed_is_taken_in_and_said(own: Services, tmp_path: Path) -> None:
    file = tmp_path / "gradio" / "visa.md"
    file.parent.mkdir()
    file.write_bytes("# Виза".encode("koi8-r"))
    said = add(own, [str(file)])
    assert "1 added." in said and "1 file perhaps read wrongly" in said and "visa.md is not UTF-8" in said
    assert "not read" not in said and own.library.store.paths().count("visa.md") == 1


def test_a_file_that_cannot_be_read_leaves_the_one_before_it_in_place(own: Services, chosen: Callable[..., list[str]]) -> None:
    add(own, chosen({"desk.md": "# Desk\n\nExtension 2200.\n"}))
    said = add(own, chosen({"desk.md": "\0\0\0"}))
    assert "desk.md is a binary file" in said and "added" not in said
    assert (own.home.root / "uploads" / "main" / "desk.md").read_text() == "# Desk\n\nExtension 2200.\n"
    assert "1 changed." in add(own, chosen({"desk.md": "# Desk\n\nExtension 2299.\n"}))
    assert "2299" in own.library.store.document("desk.md").text and kept(own) == ["main/desk.md"]
    assert "Nothing changed" in add(own, chosen({"desk.md": "# Desk\n\nExtension 2299.\n"}))


def test_how_far_the_reading_is_stands_in_the_page_while_it_reads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(admin_documents, "PROGRESS_SECONDS", 0.01)
    go_on = threading.Event()

    def work(tell: Callable[[int, int, str], None]) -> AddReport:
        for done, name in enumerate(("a.md", "<b>.pdf"), 1):
            tell(done, 2, name)
            assert go_on.wait(10)
            go_on.clear()
        return AddReport(added=2)

    steps = admin_documents._followed(work)
    for said, value in (("Read 1 of 2: a.md", 'value="1" max="2"'), ("Read 2 of 2: &lt;b&gt;.pdf", 'value="2" max="2"')):
        shown = next(steps)
        assert isinstance(shown, str) and said in shown and value in shown
        go_on.set()
    assert list(steps) == [AddReport(added=2)]


def test_a_file_above_the_limit_is_not_kept_by_the_server_whatever_the_page_let_through(
    own: Services, passwords: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path / "uploads"))
    documents = own.settings.documents.model_copy(update={"max_mb": 1})
    app = create_app(replace(own, settings=own.settings.model_copy(update={"documents": documents})))
    origin = {"origin": "http://testserver"}

    def upload(client: TestClient, size: int, path: str = "/admin/gradio_api/upload") -> int:
        return client.post(path, files={"files": ("big.pdf", bytes(size))}, headers=origin).status_code

    def arrived() -> list[int]:
        return sorted(file.stat().st_size for file in (tmp_path / "uploads").rglob("*") if file.is_file())

    with TestClient(app) as client:
        client.post("/login", data={"name": "ada", "password": passwords["ada"]}, headers=origin)
        assert upload(client, 900_000) == 200 and arrived() == [900_000]
        assert upload(client, 3_000_000) == 413 and arrived() == [900_000]
        assert upload(client, 2_000, "/gradio_api/upload") == 413, "the chat takes no files"


def test_an_upload_never_takes_the_name_of_a_document_from_another_folder(
    own: Services, chosen: Callable[..., list[str]], tmp_path: Path
) -> None:
    (tmp_path / "watched").mkdir()
    (tmp_path / "watched" / "vpn.md").write_text("# VPN\n\nIt closes after 8 hours.\n")
    own.library.add([tmp_path / "watched"])
    said = add(own, chosen({"vpn.md": "# VPN\n\nIt never closes.\n"}))
    assert "vpn.md is in the collection" in said and "rename it" in said
    assert "8 hours" in own.library.store.document("vpn.md").text and kept(own) == []


def test_an_upload_without_files_with_a_bad_collection_or_a_broken_store_is_one_sentence(
    own: Services, chosen: Callable[..., list[str]]
) -> None:
    assert "No file is chosen" in add(own, [])
    assert "cannot name a collection" in add(own, chosen({"a.md": "# A\n\nText.\n"}), "x" * 81)
    (own.home.root / "uploads").write_text("in the way")
    assert 'role="alert"' in add(own, chosen({"a.md": "# A\n\nText.\n"}))


def test_removing_an_uploaded_document_removes_its_file_and_it_does_not_come_back(
    own: Services, chosen: Callable[..., list[str]]
) -> None:
    pages = own.home.root / "pages"
    own.library.store.watch(WatchedFolder(root=str(pages)))
    add(own, chosen({"old.md": "# Old\n\nText.\n", "new.md": "# New\n\nText.\n"}))
    panel, request = DocumentsPanel(own), as_user(own, "ada")
    choices = panel.open(request)[2]["choices"]
    assert [label for label, _ in choices] == ["new.md", "old.md"], "those of a watched folder would come back"
    value = dict(choices)["old.md"]
    question, sure, keep = panel.ask_to_remove(value, request)
    assert "Remove old.md" in question and sure["visible"] and keep["visible"]
    assert "old.md" in own.library.store.paths(), "asking removes nothing"
    assert "old.md is removed" in panel.remove(value, request)[0]
    assert "old.md" not in own.library.store.paths() and kept(own) == ["main/new.md"]
    add(own, chosen({"third.md": "# Third\n\nText.\n"}))
    assert own.library.search("old text", limit=5) and "old.md" not in own.library.store.paths()
    assert "any more" in panel.remove(value, request)[0]
    uploads = Uploads(own.home.root / "uploads", own.library, max_bytes=1000)
    with pytest.raises(DocumentError, match="delete its file there"):
        uploads.remove("it/vpn.md", collection="main")


def test_no_two_collections_share_a_folder_and_none_leaves_its_place() -> None:
    names = ["main", "hr", "a/b", "a%2Fb", "..", ".", ".hidden", "a b", "Ärger", "a\\b", "~"]
    folders = [folder_name(name) for name in names]
    assert len(set(folders)) == len(names)
    assert not any("/" in folder or "\\" in folder or folder.startswith(".") for folder in folders)
    with pytest.raises(DocumentError, match="too long"):
        folder_name("\U0001f600" * 40)


def test_the_documents_and_the_questions_are_for_admins_alone(own: Services) -> None:
    import gradio as gr

    documents, questions, request = DocumentsPanel(own), QuestionsPanel(own), as_user(own, "anna")
    calls: list[Callable[[], Any]] = [
        lambda: documents.open(request),
        lambda: documents.slow(request),
        lambda: list(documents.add([], "main", request)),
        lambda: documents.ask_to_remove("", request),
        lambda: documents.keep(request),
        lambda: documents.remove("", request),
        lambda: questions.show(request),
        lambda: questions.close("", "", request),
    ]
    for call in calls:
        with pytest.raises(gr.Error, match="Only an admin"):
            call()


def test_the_collections_are_shown_with_what_waits_to_be_encoded() -> None:
    from assistant.web.admin_documents import collections_html

    watched = [WatchedFolder(root="/srv/<hr>", collection="hr")]
    shown = collections_html({"hr": 1200, "main": 3}, watched, waiting=1)
    assert "1,200" in shown and "/srv/&lt;hr&gt;" in shown and "1 passage waits" in shown
    assert "No documents yet" in collections_html({}, (), waiting=0)


def test_what_could_not_be_read_in_the_watched_folders_stands_in_the_page_until_it_can_be(own: Services) -> None:
    pages, (panel, request) = own.home.root / "pages", (DocumentsPanel(own), as_user(own, "ada"))
    own.library.store.watch(WatchedFolder(root=str(pages)))
    own.library.refresh()
    assert "Not read" not in panel.slow(request)
    for number in range(13):
        (pages / f"<b>{number:02}.doc").write_bytes(b"old")
    own.library.refresh()
    shown = panel.slow(request)
    assert "Not read at the last look" in shown and "&lt;b&gt;00.doc has a format that is not read" in shown
    assert shown.count("<li>") == 11 and "3 more" in shown and "12.doc" not in shown
    assert "00.doc" in panel.open(request)[0]
    for file in pages.glob("*.doc"):
        file.unlink()
    own.library.refresh()
    assert "Not read" not in panel.slow(request)


def test_a_sent_question_stands_open_with_its_pages_until_it_is_closed(own: Services, ask_of: Callable[..., Turn]) -> None:
    panel, request = QuestionsPanel(own), as_user(own, "ada")
    empty, _, form = panel.show(request)
    assert "When the documents do not answer" in empty and form["visible"] is False
    turn = ask_of(own, "anna", "Which <b>lift</b> goes to the hotel on the moon?")
    own.store.send_question(turn.id, turn.asked.user_id, "I must know.")
    shown, choice, form = panel.show(request)
    assert "&lt;b&gt;lift" in shown and "I must know." in shown and "anna" in shown and form["visible"]
    assert f"/documents/travel/hotels.md?turn={turn.id}&amp;passage=1#passage" in shown
    assert choice["choices"][0][1] == turn.id
    assert "No question is chosen" in panel.close(None, "x", request)[0]
    assert "The resolution is empty" in panel.close(turn.id, " ", request)[0]
    notice, text, shown, choice, form = panel.close(turn.id, "See the page Moon.", request)
    assert "Closed. anna reads this" in notice and text == "" and choice["value"] is None and form["visible"] is False
    (closed,) = own.store.open_questions(closed=True)
    assert (closed.closed_by, closed.resolution) == ("ada", "See the page Moon.")


def test_an_upload_that_a_dying_server_left_half_done_is_undone(own: Services) -> None:
    folder = own.home.uploads / "main"
    (folder / ".before").mkdir(parents=True)
    (folder / ".before" / "desk.md").write_text("# Desk\n\nThe good one.\n")
    (folder / "desk.md").write_text("half")
    beside = Uploads(own.home.uploads, own.library, max_bytes=1000)  # as a command makes one while a server takes files in
    assert (folder / ".before" / "desk.md").exists()
    beside.recover()
    assert kept(own) == ["main/desk.md"] and "The good one." in (folder / "desk.md").read_text()
