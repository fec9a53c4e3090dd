"""The store of documents: versions, roots, collections, and that its words follow every change."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from assistant.documents.chunks import Chunk, Splitter
from assistant.documents.store import DocumentStore, Known, WatchedFolder
from feedback.errors import DocumentError

LONG = "# Long\n\n" + "\n\n".join(f"Paragraph {number} about pumps and valves, told at some length." for number in range(30))


def put(
    store: DocumentStore, name: str, text: str, *, root: str = "", collection: str = "main", pages: Sequence[int] = ()
) -> str:
    digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
    return store.put(collection=collection, name=name, root=root, text=text, pages=pages, sha256=digest)


def found(store: DocumentStore, word: str) -> list[str]:
    """Return the names of the documents that the index finds for a word; the index itself is checked too."""
    db = store.connections.db
    db.execute("insert into chunks_fts(chunks_fts, rank) values ('integrity-check', 1)")
    rows = db.execute(
        "select d.name from chunks_fts join chunks c on c.id = chunks_fts.rowid join documents d on d.id = c.document_id "
        "where chunks_fts match ? order by d.name",
        [f'"{word}"'],
    )
    return [row[0] for row in rows.fetchall()]


def everywhere(store: DocumentStore, text: str) -> bool:
    """Say whether a text stands anywhere in the file, or in its log."""
    store.connections.db.execute("pragma wal_checkpoint(truncate)").fetchall()
    files = [store.connections.path, store.connections.path.with_name("documents.db-wal")]
    return any(text.encode() in file.read_bytes() for file in files if file.exists())


# --- versions -----------------------------------------------------------------------------------------------------------


def test_versions_count_on_and_old_ones_are_kept_with_their_pages(store: DocumentStore) -> None:
    assert put(store, "a.md", "# One\n\nfirst words", pages=[0, 7]) == "added"
    assert put(store, "a.md", "# Two\n\nsecond words") == "changed"
    old, new = store.document("a.md", version=1), store.document("a.md")
    assert (old.title, old.text, old.version, old.current, old.pages) == ("One", "# One\n\nfirst words", 1, False, (0, 7))
    assert (new.title, new.text, new.version, new.current, new.pages) == ("Two", "# Two\n\nsecond words", 2, True, ())
    assert store.document("a.md", version=9) == new
    assert store.current_text("main", "a.md") == new.text
    assert (found(store, "first"), found(store, "second")) == ([], ["a.md"])


def test_the_same_file_read_again_is_the_same_version(store: DocumentStore) -> None:
    for _ in range(2):
        put(store, "a.md", "# One\n\nwords")
    assert store.document("a.md").version == 1
    assert len(found(store, "words")) == 1


def test_a_document_that_comes_back_goes_on_counting(store: DocumentStore) -> None:
    for text in ("one", "two"):
        put(store, "a.md", text)
    assert store.remove(["a.md", "unknown.md"]) == 1
    assert put(store, "a.md", "three") == "added"
    assert store.document("a.md").version == 3
    store.remove(["a.md"])
    put(store, "a.md", "one")
    assert store.document("a.md").version == 4
    assert store.document("a.md", version=1).version == 4


def test_what_was_removed_is_found_no_more_and_no_text_of_it_stays_in_the_file(store: DocumentStore) -> None:
    put(store, "a.md", "# Page\n\nsecretword before")
    put(store, "a.md", "# Page\n\nplainword after")
    put(store, "b.md", "# Other\n\notherword")
    assert everywhere(store, "secretword before")
    assert store.remove(["a.md"]) == 1
    assert not everywhere(store, "secretword before")
    assert not everywhere(store, "plainword after")
    assert (found(store, "plainword"), found(store, "otherword")) == ([], ["b.md"])
    for table in ("versions", "chunks"):
        assert store.connections.db.execute(f"select count(*) from {table}").fetchone()[0] == 1
    with pytest.raises(DocumentError, match=r"no document 'a\.md' in the collection 'main'"):
        store.document("a.md")
    assert store.current_text("main", "a.md") is None


def test_a_document_keeps_its_pages_and_its_place(store: DocumentStore) -> None:
    text = "# Doc\n\nfirst page\n\nsecond page\n"
    put(store, "a.pdf", text, pages=[0, text.index("second")])
    rows = store.connections.db.execute("select text, start, end, page from chunks order by ordinal").fetchall()
    assert [(row[0], row[3]) for row in rows] == [("first page", 1), ("second page", 2)]
    assert all(text[row[1] : row[2]] == row[0] for row in rows)


def test_a_text_that_no_file_can_hold_is_kept_as_it_can_be(store: DocumentStore) -> None:
    put(store, "a.md", "half \ud83d a character")
    assert store.document("a.md").text == "half \ufffd a character"


# --- roots and collections ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("prefix", ["", "team/"])
def test_two_folders_with_one_name_are_refused_while_both_files_are_there(
    store: DocumentStore, tmp_path: Path, prefix: str
) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    (one / "sub").mkdir(parents=True)
    (one / "sub" / "a.md").write_text("one")
    name = f"{prefix}sub/a.md"
    put(store, name, "one", root=str(one))
    with pytest.raises(DocumentError, match=rf"{name} is in the collection 'main' already, from {one}.*--under"):
        put(store, name, "two", root=str(two))
    assert store.document(name).text == "one"
    assert put(store, name, "two", root=str(two), collection="other") == "added"
    (one / "sub" / "a.md").unlink()
    assert put(store, name, "two", root=str(two)) == "changed"
    assert store.known()[name].root == str(two)


def test_a_document_that_was_added_by_itself_becomes_one_of_its_folder(store: DocumentStore) -> None:
    put(store, "a.md", "text")
    put(store, "a.md", "text", root="/folder")
    assert store.known() == {"a.md": Known(sha256=hashlib.sha256(b"text").hexdigest(), version=1, root="/folder")}
    put(store, "a.md", "newer")
    assert store.known()["a.md"].root == "/folder"


def test_collections_are_kept_apart(store: DocumentStore) -> None:
    put(store, "a.md", "in main")
    put(store, "a.md", "in other", collection="other")
    put(store, "b.md", "also in other", collection="other")
    assert store.collections() == {"main": 1, "other": 2}
    assert (store.paths(), store.paths("main"), store.paths("none")) == (["a.md", "a.md", "b.md"], ["a.md"], [])
    assert [row["path"] for row in store.describe("other")] == ["a.md", "b.md"]
    assert store.remove(["a.md"], collection="other") == 1
    assert store.document("a.md").text == "in main"
    assert store.describe()[0] | {"added_at": ""} == {
        **{"collection": "main", "path": "a.md", "title": "a", "version": 1, "chunks": 1, "added_at": ""}
    }


def test_watched_folders_are_remembered_until_they_are_not(store: DocumentStore) -> None:
    first = WatchedFolder(root="/one", under="team/")
    for folder in (WatchedFolder(root="/one"), first, WatchedFolder(root="/one", collection="x", by_setting=True)):
        store.watch(folder)
    assert store.watched() == [first, WatchedFolder(root="/one", collection="x", by_setting=True)]
    assert store.unwatch("/one")
    assert not store.unwatch("/one")
    assert store.watched() == []


# --- what follows a change ----------------------------------------------------------------------------------------------


def test_every_change_counts_the_generation_on_and_reading_does_not(store: DocumentStore) -> None:
    seen = [store.generation()]
    changes: list[Callable[[], object]] = [
        lambda: put(store, "a.md", "one"),
        lambda: put(store, "a.md", "two"),
        lambda: put(store, "b.md", "three"),
        lambda: store.remove(["a.md"]),
        lambda: DocumentStore(store.connections.path, split=Splitter(32), chunking="32").recut(),
    ]
    for change in changes:
        change()
        seen.append(store.generation())
    assert seen == sorted(set(seen))
    store.describe()
    store.remove(["gone.md"])
    store.recut()
    assert store.generation() == seen[-1] + 1  # recut: back to the first way
    store.recut()
    assert store.generation() == seen[-1] + 1


def test_the_hash_of_an_index_changes_with_documents_cuts_and_vectors_only(store: DocumentStore) -> None:
    hashes = [store.index_hash()]
    put(store, "a.md", LONG)
    hashes.append(store.index_hash())
    put(store, "a.md", f"{LONG} more")
    hashes.append(store.index_hash())
    put(store, "a.md", LONG)  # the file is as it was, its version is not
    hashes.append(store.index_hash())
    DocumentStore(store.connections.path, split=Splitter(32), chunking="32").recut()
    hashes.append(store.index_hash())
    with store.connections.write() as db:
        db.execute("insert into vectors select id, 'one', x'00', x'00' from chunks limit 1")
    hashes.append(store.index_hash())
    with store.connections.write() as db:
        db.execute("update vectors set encoder = 'two'")
    hashes.append(store.index_hash())
    assert len(set(hashes)) == len(hashes)
    assert DocumentStore(store.connections.path).index_hash() == hashes[-1]


def test_another_cut_needs_no_files_and_is_done_once(store: DocumentStore) -> None:
    put(store, "a.md", LONG, root="/no/longer/there")
    put(store, "b.pdf", "one\n\ntwo", pages=[0, 5])
    before = store.describe()[0]
    finer = DocumentStore(store.connections.path, split=Splitter(32), chunking="finer")
    assert finer.recut() == 2
    after = finer.describe()[0]
    assert (after["version"], after["added_at"]) == (before["version"], before["added_at"])
    assert after["chunks"] > before["chunks"]  # type: ignore[operator]
    assert found(finer, "pumps") == ["a.md"] * int(str(after["chunks"]))
    pages = finer.connections.db.execute("select page from chunks c join documents d on d.id = document_id where name = 'b.pdf'")
    assert [row[0] for row in pages.fetchall()] == [1, 2]
    assert finer.recut() == 0


def test_a_document_that_changes_while_it_is_cut_anew_keeps_what_is_newer(store: DocumentStore) -> None:
    put(store, "a.md", "the older text")
    put(store, "b.md", "removed meanwhile")

    def slow(text: str, **options: object) -> list[Chunk]:
        if "older" in text:
            put(store, "a.md", "the newer text")
        if "removed" in text:
            store.remove(["b.md"])
        return [Chunk(title="t", text=text, start=0, end=len(text))]

    assert DocumentStore(store.connections.path, split=slow, chunking="slow").recut() == 0
    assert (found(store, "newer"), found(store, "older"), found(store, "removed")) == (["a.md"], [], [])


def test_processes_that_write_at_once_lose_nothing(store: DocumentStore) -> None:
    code = (
        "import sys; from pathlib import Path; from assistant.documents.store import DocumentStore\n"
        "store = DocumentStore(Path(sys.argv[1]))\n"
        "for n in range(15): store.put(name=f'{sys.argv[2]}{n}.md', text=f'{sys.argv[2]} page', sha256=str(n))\n"
        "store.remove([f'{sys.argv[2]}0.md'])"
    )
    writers = [subprocess.Popen([sys.executable, "-c", code, str(store.connections.path), name]) for name in ("one", "two")]
    assert [writer.wait(60) for writer in writers] == [0, 0]
    assert len(found(store, "page")) == len(store.paths()) == 28
    assert store.generation() == 1 + 32
