"""The library of a home: documents go in from real files, follow them, and are found again."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from assistant.documents.intake import AddReport
from assistant.documents.reading import Reader
from assistant.documents.store import WatchedFolder
from assistant.library import Library
from feedback.errors import DocumentError

PAGES = {
    "travel/flights.md": "# Flights\n\nFly economy.\n\n## Luggage\n\nOne checked bag of 23 kilograms is included.\n",
    "travel/hotels.md": "# Hotels\n\n## Price limit\n\nA hotel night may cost \u20ac140 in Eastmere. Breakfast is included.\n",
    "it/vpn.md": "# VPN\n\nCulvert is the VPN client.\n\n## Problems\n\nCall extension 4120 when Culvert drops the connection.\n",
}
Write = Callable[[str, dict[str, str]], Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def write(folder: str, pages: dict[str, str]) -> Path:
        for name, text in pages.items():
            (tmp_path / folder / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / folder / name).write_text(text, encoding="utf-8")
        return tmp_path / folder

    return write


@pytest.fixture
def folder(write: Write) -> Path:
    return write("pages", PAGES)


@pytest.fixture
def library(tmp_path: Path) -> Library:
    return Library(tmp_path / "home" / "documents.db", encoder="none")


def found(library: Library, question: str) -> list[str]:
    return [hit.document for hit in library.search(question, limit=10)]


def counts(report: AddReport) -> tuple[int, int, int, int]:
    return report.added, report.changed, report.unchanged, report.removed


# --- in and out ---------------------------------------------------------------------------------------------------------


def test_files_of_several_formats_go_in_and_come_out_as_passages(write: Write, library: Library) -> None:
    folder = write(
        "mixed",
        {
            "hotels.md": PAGES["travel/hotels.md"],
            "phones.csv": "name,extension\nService desk,2200\nReception,2217\n",
            "leave.html": "<html><body><h1>Leave</h1><p>Everybody has 27 days.</p><script>evil()</script></body></html>",
            "broken.pdf": "no PDF at all",
        },
    )
    report = library.add([folder])
    assert counts(report) == (3, 0, 0, 0)
    (sentence,) = report.unread
    assert sentence.startswith("broken.pdf ")
    for question, name, said in (
        ("What may a hotel night cost?", "hotels.md", "140"),
        ("extension of the reception", "phones.csv", "2217"),
        ("days of leave", "leave.html", "27 days"),
    ):
        hit = library.search(question, limit=1)[0]
        assert (hit.document, said in hit.text) == (name, True)
        assert library.store.document(name).text[hit.start : hit.end] == hit.text
    assert found(library, "evil") == []
    assert library.search("price limit", limit=1)[0].title == "Hotels > Price limit"


def test_what_was_added_is_found_by_its_words_at_once_and_by_meaning_when_it_is_encoded(tmp_path: Path, folder: Path) -> None:
    library = Library(tmp_path / "documents.db", encoder="minilm")
    library.add([folder])
    assert library.waiting() == 3
    assert found(library, "Culvert extension")[0] == "it/vpn.md"
    assert found(library, "the lodging allowance") == []
    assert library.warm() == ""
    steps: list[tuple[int, int]] = []
    assert library.index(progress=lambda done, total: steps.append((done, total))) == 3
    assert (steps, library.waiting(), library.index()) == ([(3, 3)], 0, 0)
    assert found(library, "the lodging allowance")[0] == "travel/hotels.md"
    again = Library(tmp_path / "documents.db", encoder="minilm", chunk_tokens=32)
    before = again.store.index_hash()
    assert again.index() >= 3  # other chunks are other vectors
    assert again.store.index_hash() != before
    assert found(again, "the lodging allowance")[0] == "travel/hotels.md"


def test_an_encoder_that_cannot_be_loaded_is_a_sentence_and_words_are_still_found(tmp_path: Path, folder: Path) -> None:
    library = Library(tmp_path / "documents.db", encoder=str(tmp_path / "no-encoder"))
    library.add([folder])
    assert "cannot be loaded" in library.warm()
    assert [hit.document for hit in library.search("Culvert extension", limit=1, stage="fts")] == ["it/vpn.md"]


@pytest.mark.parametrize("name", ["", "  ", "a\nb", "x" * 81, "tab\there"])
def test_a_bad_name_of_a_collection_is_refused(library: Library, folder: Path, name: str) -> None:
    with pytest.raises(DocumentError, match="cannot name a collection"):
        library.add([folder], collection=name)
    assert library.store.paths() == []


def test_a_collection_is_filled_and_searched_alone(library: Library, folder: Path) -> None:
    library.add([folder / "it"], collection="Vertr\u00e4ge 2026")
    library.add_folder(folder, collection="all")
    assert library.store.collections() == {"Vertr\u00e4ge 2026": 1, "all": 3}
    assert [hit.document for hit in library.search("Culvert", limit=5, collection="Vertr\u00e4ge 2026")] == ["vpn.md"]
    assert library.search("hotel", limit=5, collection="Vertr\u00e4ge 2026") == []


# --- a folder that changes ----------------------------------------------------------------------------------------------


def test_an_unchanged_folder_changes_nothing(library: Library, folder: Path) -> None:
    assert counts(library.add_folder(folder)) == (3, 0, 0, 0)
    before = library.store.index_hash(), library.store.generation()
    assert counts(library.add_folder(folder)) == (0, 0, 3, 0)
    assert (library.store.index_hash(), library.store.generation()) == before


def test_a_thousand_unchanged_files_are_hashed_and_nothing_else(
    library: Library, write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write(
        "many", {f"{number % 20}/{number}.{'md' if number % 2 else 'csv'}": f"a,{number}\nb,c\n" for number in range(1000)}
    )
    for number in range(1000):  # known as if they had been read: 500 conversions would take long
        name = f"{number % 20}/{number}.{'md' if number % 2 else 'csv'}"
        with Reader() as reader:
            digest = reader.digest(folder / name)
        with library.store.connections.write() as db:
            db.execute(
                "insert into documents (collection, name, root, title, sha256, chunking, version, added_at) "
                "values ('main', ?, ?, 'title', ?, 'x', 1, 'now')",
                [name, str(folder), digest],
            )

    def forbidden(*arguments: Any, **options: Any) -> Any:
        raise AssertionError(f"not needed: {arguments}")

    monkeypatch.setattr(subprocess, "Popen", forbidden)
    monkeypatch.setattr(Reader, "read", forbidden)
    before = library.store.generation()
    assert library.add([folder]) == AddReport(unchanged=1000)
    assert library.store.generation() == before


def test_a_changed_page_is_a_new_version_and_its_old_text_is_found_no_more(library: Library, folder: Path) -> None:
    library.add_folder(folder)
    (folder / "travel/hotels.md").write_text("# Hotels\n\nA room may cost up to \u20ac155.\n", encoding="utf-8")
    assert library.add_folder(folder).changed == 1
    assert library.store.document("travel/hotels.md").version == 2
    assert not any("\u20ac140" in hit.text for hit in library.search("hotel night cost Eastmere breakfast", limit=10))
    assert "\u20ac140" in library.store.document("travel/hotels.md", version=1).text


def test_a_page_that_is_gone_leaves_the_index(library: Library, folder: Path) -> None:
    library.add_folder(folder)
    (folder / "it/vpn.md").unlink()
    assert library.add_folder(folder).removed == 1
    assert "it/vpn.md" not in found(library, "Culvert VPN extension")


def test_a_page_that_became_unreadable_keeps_what_was_indexed(library: Library, folder: Path) -> None:
    library.add_folder(folder)
    (folder / "it/vpn.md").write_bytes(b"\x00\x01binary")
    report = library.add_folder(folder)
    assert (report.removed, len(report.unread)) == (0, 1)
    assert "vpn.md is a binary file" in report.unread[0]
    assert found(library, "Culvert VPN")[0] == "it/vpn.md"


def test_a_link_that_leads_nowhere_is_said_and_passed_over(library: Library, folder: Path) -> None:
    library.add_folder(folder)
    (folder / "dangling.md").symlink_to(folder / "nowhere.md")
    report = library.add_folder(folder)
    assert (report.unchanged, len(report.unread)) == (3, 1)


def test_a_missing_folder_is_named(library: Library, tmp_path: Path) -> None:
    with pytest.raises(DocumentError, match=r"no documents folder .*gone"):
        library.add_folder(tmp_path / "gone")
    report = library.add([tmp_path / "gone"])
    assert "gone is not there" in report.unread[0]


def test_a_folder_that_became_empty_keeps_its_documents_and_says_so(library: Library, folder: Path) -> None:
    library.add([folder])
    for name in PAGES:
        (folder / name).unlink()
    for below in ("travel", "it"):
        (folder / below).rmdir()
    report = library.add([folder])
    assert report.removed == 0
    assert any(
        f"{folder} is empty now" in sentence and "the 3 documents that it held are kept" in sentence for sentence in report.unread
    )
    assert found(library, "Culvert VPN")[0] == "it/vpn.md"
    (folder / "new.md").write_text("# New\n\nIt is a folder of documents again.\n")
    assert counts(library.add([folder])) == (1, 0, 0, 3)


def test_documents_of_an_older_home_become_those_of_their_folder(library: Library, folder: Path) -> None:
    library.add([folder])
    with library.store.connections.write() as db:
        db.execute("update documents set root = ''")
    assert counts(library.add([folder])) == (0, 0, 3, 0)
    assert {known.root for known in library.store.known().values()} == {str(folder)}
    assert {known.version for known in library.store.known().values()} == {1}


# --- watched folders ----------------------------------------------------------------------------------------------------


def test_the_folder_of_the_settings_replaces_the_one_named_before(library: Library, folder: Path, write: Write) -> None:
    library.add([write("mine", {"mine.md": "# Mine\n\nAdded by a person.\n"})])
    assert counts(library.follow_setting(folder)) == (3, 0, 0, 0)
    assert library.store.watched() == [WatchedFolder(root=str(folder), by_setting=True)]
    assert counts(library.follow_setting(folder)) == (0, 0, 3, 0)
    other = write("other", {"only.md": "# Only\n\nThe only page.\n"})
    assert counts(library.follow_setting(other)) == (1, 0, 0, 0)
    assert library.store.paths() == ["mine.md", "only.md"]
    assert library.store.watched() == [WatchedFolder(root=str(other), by_setting=True)]
    assert found(library, "Culvert") == []


def test_a_missing_folder_of_the_settings_keeps_what_was_indexed(library: Library, folder: Path, tmp_path: Path) -> None:
    library.follow_setting(folder)
    for missing in (tmp_path / "misspelt", folder):
        if missing == folder:
            folder.rename(tmp_path / "moved")
        with pytest.raises(DocumentError, match=rf"no documents folder {missing}: set documents\.folder"):
            library.follow_setting(missing)
        assert len(library.store.paths()) == 3
        assert library.store.watched() == [WatchedFolder(root=str(folder), by_setting=True)]


def test_a_refresh_looks_at_every_watched_folder_and_keeps_those_that_are_away(
    library: Library, folder: Path, write: Write, tmp_path: Path
) -> None:
    team = write("team", {"rota.md": "# Rota\n\nMonday is free.\n"})
    library.add([folder])
    library.add([team], collection="team", under="shared/")
    for watched in (WatchedFolder(root=str(folder)), WatchedFolder(root=str(team), collection="team", under="shared/")):
        library.store.watch(watched)
    assert counts(library.refresh()) == (0, 0, 4, 0)
    (team / "rota.md").write_text("# Rota\n\nTuesday is free.\n")
    (folder / "it/vpn.md").unlink()
    (folder / "new.md").write_text("# New\n\nA page.\n")
    assert counts(library.refresh()) == (1, 1, 2, 1)
    assert library.store.document("shared/rota.md", collection="team").version == 2
    team.rename(tmp_path / "unmounted")
    report = library.refresh()
    assert counts(report) == (0, 0, 3, 0)
    assert any(str(team) in sentence for sentence in report.unread)
    assert library.store.paths("team") == ["shared/rota.md"]


def test_a_setting_that_is_emptied_stops_the_watching_and_keeps_the_documents(tmp_path: Path) -> None:
    folder = tmp_path / "pages"
    folder.mkdir()
    (folder / "a.md").write_text("# A\n\nOne.\n")
    library = Library(tmp_path / "documents.db", encoder="none")
    library.follow_setting(folder)
    library.forget_setting()
    assert library.store.watched() == [] and library.store.paths() == ["a.md"]
