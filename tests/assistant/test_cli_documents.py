"""The commands about documents: what they print, as JSON too, and that bad input is one line and exit code 1."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from assistant.cli import main
from assistant.documents.store import DocumentStore, WatchedFolder

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def documents(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Run:
    """`documents("add", ..., encoder=)`: run a command on a temporary home, in this process: importing torch takes seconds."""

    def run(*arguments: str | Path, encoder: str = "none") -> subprocess.CompletedProcess[str]:
        command = ["nightschool", "documents", *map(str, arguments)]
        monkeypatch.setenv("NIGHTSCHOOL_HOME", str(tmp_path / "home"))
        monkeypatch.setenv("NIGHTSCHOOL_DOCUMENTS__ENCODER", encoder)
        monkeypatch.setattr(sys, "argv", command)
        capfd.readouterr()
        with pytest.raises(SystemExit) as ended:
            main()
        said = capfd.readouterr()
        code = ended.value.code
        return subprocess.CompletedProcess(command, code if isinstance(code, int) else 0, said.out, said.err)

    return run


@pytest.fixture
def pages(tmp_path: Path) -> Path:
    folder = tmp_path / "pages"
    (folder / "it").mkdir(parents=True)
    (folder / "leave.md").write_text("# Annual leave\n\nStaff are entitled to 27 days of vacation a year.\n")
    (folder / "it" / "vpn.md").write_text("# VPN\n\nCall extension 4120 when Culvert drops the connection.\n")
    return folder


def as_json(done: subprocess.CompletedProcess[str]) -> Any:
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def sentence(done: subprocess.CompletedProcess[str]) -> str:
    """Return the one line that a command which failed says."""
    assert done.returncode == 1, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    (line,) = [line for line in done.stderr.splitlines() if not line.startswith("[")]  # without the progress
    return line


def test_documents_are_added_listed_found_and_removed(documents: Run, pages: Path) -> None:
    added = as_json(documents("add", pages, "--json"))
    assert added == {"added": 2, "changed": 0, "unchanged": 0, "removed": 0, "unread": [], "doubts": [], "encoded": 0}
    (pages / "odd.doc").write_bytes(b"old")
    again = documents("add", pages)
    assert again.returncode == 0
    assert again.stdout.splitlines()[0] == "0 added, 0 changed, 2 unchanged, 0 removed; 0 passages encoded."
    assert again.stdout.splitlines()[1].startswith("odd.doc ")
    rows = as_json(documents("list", "--json"))
    assert [(row["collection"], row["path"], row["title"], row["version"], row["chunks"]) for row in rows] == [
        ("main", "it/vpn.md", "VPN", 1, 1),
        ("main", "leave.md", "Annual leave", 1, 1),
    ]
    (hit,) = as_json(documents("search", "Culvert extension", "--limit", "1", "--json"))
    assert (hit["document"], hit["scores"]["coverage"]) == ("it/vpn.md", hit["score"])
    removed = documents("remove", "it/vpn.md")
    assert (removed.returncode, removed.stdout) == (0, "1 removed.\n")
    assert as_json(documents("search", "Culvert extension", "--json")) == []
    assert documents("search", "Culvert extension").stdout == "Nothing was found.\n"


def test_meaning_is_searched_with_the_packaged_encoder_and_stdout_is_json_alone(documents: Run, pages: Path) -> None:
    added = as_json(documents("add", pages, "--collection", "hr", "--json", encoder="minilm"))
    assert (added["added"], added["encoded"]) == (2, 2)
    found = documents("search", "How many holidays do employees get?", "--collection", "hr", "--json", encoder="minilm")
    hits = as_json(found)
    assert (hits[0]["document"], hits[0]["collection"]) == ("leave.md", "hr")
    assert {"dense", "fused", "evidence", "rerank", "coverage"} <= hits[0]["scores"].keys()
    assert found.stderr == ""


def test_a_watched_folder_is_remembered_and_forgotten(documents: Run, pages: Path, tmp_path: Path) -> None:
    as_json(documents("add", pages, "--watch", "--under", "team", "--json"))
    store = DocumentStore(tmp_path / "home" / "documents.db")
    assert store.watched() == [WatchedFolder(root=str(pages), under="team")]
    assert documents("unwatch", pages).stdout == f"{pages} is not watched any more.\n"
    assert store.watched() == []
    assert store.paths() == ["team/it/vpn.md", "team/leave.md"]
    assert f"{pages} is not watched (none is)." in sentence(documents("unwatch", pages))


def test_a_home_in_quotes_is_added_watched_and_forgotten(
    documents: Run, pages: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert as_json(documents("add", "~/pages/it/*.md", "--json"))["added"] == 1
    assert as_json(documents("add", "~/pages", "--collection", "all", "--watch", "--json"))["added"] == 2
    store = DocumentStore(tmp_path / "home" / "documents.db")
    assert store.watched() == [WatchedFolder(root=str(pages), collection="all")]
    assert documents("unwatch", "~/pages").returncode == 0 and store.watched() == []


def test_a_mistake_is_one_line_and_exit_code_one(documents: Run, pages: Path, tmp_path: Path) -> None:
    assert sentence(nothing := documents("add", tmp_path / "gone")).startswith(
        f"Nothing was read: {tmp_path / 'gone'} is not there"
    )
    assert nothing.stdout == "", "one sentence is said once"
    assert "no document 'gone.md' in the collection 'main'" in sentence(documents("remove", "gone.md"))
    assert "'' cannot name a collection" in sentence(documents("add", pages, "--collection", ""))
    assert "'../up' cannot stand before" in sentence(documents("add", pages, "--under", "../up"))
    unencoded = documents("add", pages, "--json", encoder=str(tmp_path / "no-encoder"))
    assert "cannot be loaded" in sentence(unencoded) and json.loads(unencoded.stdout)["added"] == 2
    as_json(documents("add", pages, "--json"))  # what was read before the encoder failed is not lost
    assert "vpn.md" in documents("search", "Culvert", encoder=str(tmp_path / "no-encoder")).stdout, "its words find it"
    assert documents("search", "x", "--limit", "0").returncode == 2
    assert documents("list").stdout.count("vpn.md") == 1


def test_when_nothing_can_be_read_the_report_is_whole_and_the_exit_code_is_one(documents: Run, pages: Path) -> None:
    documents("add", pages)
    for page in ("leave.md", "it/vpn.md"):
        (pages / page).unlink()
    for number in range(8):
        (pages / f"bad-{number}.{'pdf' if number % 2 else 'txt'}").write_bytes(b"\0 no document")
    done = documents("add", pages)
    assert sentence(done).startswith("Nothing was read: ")
    counts, *lines = done.stdout.splitlines()
    assert counts.startswith("0 added, 0 changed, 0 unchanged, 2 removed;")
    assert sorted(line.partition(".")[0] for line in lines) == [f"bad-{number}" for number in range(8)]
    again = documents("add", pages, "--json")
    assert sentence(again).startswith("Nothing was read: ")
    report = json.loads(again.stdout)
    assert (report["added"], report["removed"], sorted(report["unread"])) == (0, 0, sorted(lines))


def test_a_file_whose_encoding_was_guessed_is_read_and_said(documents: Run, pages: Path) -> None:
    (pages / "visa.txt").write_bytes("Виза нужна заранее.".encode("koi8-r"))
    done = documents("add", pages / "visa.txt")
    assert done.returncode == 0 and done.stdout.splitlines()[0].startswith("1 added")
    assert done.stdout.splitlines()[1].startswith("visa.txt is not UTF-8; it was read as Windows-1252")
    (report,) = as_json(documents("add", pages, "--collection", "all", "--json"))["doubts"]
    assert report.startswith("visa.txt ")


def test_an_empty_home_says_what_to_do(documents: Run) -> None:
    assert "documents add FOLDER" in documents("list").stdout
    assert as_json(documents("list", "--json")) == []


def test_an_uploaded_document_leaves_with_its_file_and_one_of_a_watched_folder_is_not_taken_out_behind_its_back(
    documents: Run, pages: Path, tmp_path: Path
) -> None:
    uploads = tmp_path / "home" / "uploads" / "main"
    uploads.mkdir(parents=True)
    (uploads / "secret.md").write_text("# Secret\n\nThe code is 4417.\n")
    documents("add", uploads)
    assert documents("remove", "secret.md").stdout.splitlines()[-1] == "1 removed." and not (uploads / "secret.md").exists()
    documents("add", pages, "--watch")
    assert "delete its file there" in sentence(documents("remove", "leave.md"))


def test_only_folders_can_be_watched_and_a_file_takes_no_place_of_another_folders(
    documents: Run, pages: Path, tmp_path: Path
) -> None:
    assert "only folders can be watched" in sentence(documents("add", pages / "leave.md", "--watch"))
    documents("add", pages)
    other = tmp_path / "other" / "leave.md"
    other.parent.mkdir()
    other.write_text("# Shopping list\n")
    refused = documents("add", other)
    assert "is in the collection 'main' already" in sentence(refused)
    assert documents("search", "days of vacation").stdout.count("Shopping") == 0
