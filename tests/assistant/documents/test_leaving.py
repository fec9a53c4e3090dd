"""Documents out: what leaves when a folder, a pattern or a file is named again, and what is kept to be safe."""

from __future__ import annotations

import os
from pathlib import Path

from assistant.documents.intake import AddReport, add
from assistant.documents.reading import Reader
from assistant.documents.store import DocumentStore


def write(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(f"# {name}\n\nText of {name}.\n", encoding="utf-8")
    return root


def test_only_what_was_named_loses_documents(tmp_path: Path, reader: Reader, store: DocumentStore) -> None:
    one, two = write(tmp_path / "one", "a.md", "c.md"), write(tmp_path / "two", "b.md", "d.md")
    add(store, reader, [one, two / "b.md"])
    add(store, reader, [one], collection="other")
    (one / "a.md").unlink()
    (two / "b.md").unlink()
    assert add(store, reader, [two, tmp_path / "absent"]).removed == 0
    assert add(store, reader, [f"{one}/[b-z].md", f"{tmp_path}/*/a.md"]).removed == 0
    assert add(store, reader, [one]).removed == 1
    assert (store.paths("main"), store.paths("other")) == (["b.md", "c.md", "d.md"], ["a.md", "c.md"])


def test_a_pattern_that_is_named_again_loses_what_is_gone_from_the_disk(
    tmp_path: Path, reader: Reader, store: DocumentStore
) -> None:
    root = write(tmp_path / "pages", "a.md", "b.md", "it/a.md", "it/b.md", "note.txt")
    pattern = f"{root}/**/*.md"
    assert add(store, reader, [pattern, root / "note.txt"]).added == 5
    for name in ("a.md", "it/b.md", "note.txt"):
        (root / name).unlink()
    assert add(store, reader, [pattern]) == AddReport(unchanged=2, removed=2)
    assert store.paths() == ["b.md", "it/a.md", "note.txt"], "no pattern names the note, and the other pages are there"
    (root / "b.md").unlink()
    (root / "it" / "a.md").unlink()
    (root / "b.md").symlink_to("/etc/hostname")
    report = add(store, reader, [pattern])
    assert (report.removed, len(report.unread)) == (1, 1), "what only cannot be read is not gone"
    (root / "b.md").unlink()
    assert add(store, reader, [pattern]) == AddReport(removed=1), "a pattern that matched documents is no mistake"
    assert "matches no document" in add(store, reader, [pattern]).unread[0]


def test_a_pattern_loses_nothing_whose_folder_is_empty_or_away(tmp_path: Path, reader: Reader, store: DocumentStore) -> None:
    root = write(tmp_path / "disk", "a.md", "b.md")
    add(store, reader, [f"{root}/*.md"])
    (root / "a.md").unlink()
    (root / "b.md").unlink()
    for _ in range(2):
        report = add(store, reader, [f"{root}/*.md", root / "a.md"])
        assert (report.removed, store.paths()) == (0, ["a.md", "b.md"])
        assert f"{root} is empty now" in report.unread[-1] and "the 2 documents that it held are kept" in report.unread[-1]
        if root.exists():
            root.rmdir()


def test_a_pattern_leaves_alone_what_another_name_was_put_before(tmp_path: Path, reader: Reader, store: DocumentStore) -> None:
    root = write(tmp_path / "pages", "a.md", "b.md", "team/c.md")
    add(store, reader, [f"{root}/*.md"], under="team")
    assert add(store, reader, [f"{root}/*/*.md"]) == AddReport(added=1)
    assert store.paths() == ["team/a.md", "team/b.md", "team/c.md"]
    (root / "a.md").unlink()
    assert add(store, reader, [f"{root}/*.md"], under="team/") == AddReport(unchanged=1, removed=1)
    assert store.paths() == ["team/b.md", "team/c.md"]


def test_a_file_that_is_named_again_when_it_is_gone_leaves_and_is_no_mistake(
    tmp_path: Path, reader: Reader, store: DocumentStore
) -> None:
    root = write(tmp_path / "pages", "a.md", "odd[1].md", "keep.md", "it/vpn.md")
    add(store, reader, [root / "a.md", root / "odd[1].md"], under="team")
    add(store, reader, [root], collection="wiki")
    for name in ("a.md", "odd[1].md", "it/vpn.md"):
        (root / name).unlink()
    assert "is not there" in add(store, reader, [tmp_path / "a.md"], under="team").unread[0], "another file of this name"
    assert add(store, reader, [root / "it" / "vpn.md"], collection="wiki") == AddReport(removed=1)
    assert add(store, reader, [root / "a.md", root / "odd[1].md"], under="team") == AddReport(removed=2)
    assert (store.paths("main"), store.paths("wiki")) == ([], ["a.md", "keep.md", "odd[1].md"])
    assert "is not there" in add(store, reader, [root / "a.md"], under="team").unread[0]


def test_a_file_by_itself_is_kept_when_its_disk_may_be_away_or_its_path_was_not_kept(
    tmp_path: Path, reader: Reader, store: DocumentStore
) -> None:
    only = write(tmp_path / "disk", "only.md") / "only.md"
    older = write(tmp_path / "pages", "older.md", "other.md") / "older.md"
    add(store, reader, [only, older])
    with store.connections.write() as db:
        db.execute("update documents set file = ''")  # as before there was this column
    assert add(store, reader, [only, older]) == AddReport(unchanged=2)
    only.unlink()
    older.unlink()
    report = add(store, reader, [only, older])
    assert report.removed == 1 and store.paths() == ["only.md"]
    assert "is not there" in report.unread[0] and "the document that it held is kept" in report.unread[1]


def test_a_path_that_cannot_be_stored_is_not_kept_and_takes_nothing_out(
    tmp_path: Path, reader: Reader, store: DocumentStore
) -> None:
    root = write(tmp_path / os.fsdecode(b"latin-\xe9"), "a.md", "b.md")
    assert add(store, reader, [root / "a.md"]) == AddReport(added=1)
    (root / "a.md").unlink()
    assert "is not there" in add(store, reader, [root / "a.md", root / "c.md"]).unread[0]
    assert store.paths() == ["a.md"]
