"""Documents in: which files are found, what an addition does with them, and under which names uploads are kept."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO, cast

import pytest

from assistant.documents.intake import AddReport, add, save_upload
from assistant.documents.reading import Reader, ReadLimits
from assistant.documents.store import DocumentStore
from assistant.documents.walking import find_files
from feedback.errors import DocumentError

Write = Callable[..., Path]


def write(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(f"# {name}\n\nText of {name}.\n", encoding="utf-8")
    return root


def names(*paths: str | Path) -> list[str]:
    return [source.name for source in find_files(paths).sources]


# --- which files --------------------------------------------------------------------------------------------------------


def test_a_folder_gives_its_documents_by_name_and_passes_over_the_rest(tmp_path: Path) -> None:
    write(tmp_path, "b/x.md", "a.TXT", "b/a/y.html", ".git/z.md", "b/.hidden.md", "~$lock.docx", "logo.png", "run.py")
    found = find_files([tmp_path])
    assert [source.name for source in found.sources] == ["a.TXT", "b/a/y.html", "b/x.md"]
    assert found.sources[1].file == tmp_path / "b/a/y.html"
    assert found.sentences == []


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("*.md", ["a.md"]),
        ("**/*.md", ["a.md", "b/c/d.md", "b/x.md"]),
        ("b/**", ["c/d.md", "x.md"]),
        ("b/?.md", ["x.md"]),
        ("b/[!a-w].md", ["x.md"]),
        ("[ab]/c/*", ["b/c/d.md"]),
        ("b/**/d.*", ["c/d.md"]),
    ],
)
def test_a_pattern_gives_what_it_matches_below_its_fixed_part(tmp_path: Path, pattern: str, expected: list[str]) -> None:
    write(tmp_path, "a.md", "b/x.md", "b/c/d.md", "b/.secret/d.md")
    assert names(f"{tmp_path}/{pattern}") == expected


def test_a_home_that_no_shell_has_expanded_is_expanded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, "policies/a.md", "policies/old/b.md")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert names("~/policies/*.md") == ["a.md"]
    assert names(Path("~/policies")) == ["a.md", "old/b.md"]
    assert names("~/policies/old/b.md") == ["b.md"]
    (sentence,) = find_files(["~nobody-has-this-name/*.md"]).sentences
    assert sentence.startswith("~nobody-has-this-name/*.md matches no document")


def test_a_file_that_is_named_twice_is_found_once(tmp_path: Path) -> None:
    write(tmp_path, "a.md", "b/x.md")
    assert names(tmp_path, tmp_path / "b" / "x.md", f"{tmp_path}/**/*.md", tmp_path / "b") == ["a.md", "b/x.md"]
    write(tmp_path, "odd[1].md")
    assert names(tmp_path / "odd[1].md") == ["odd[1].md"]


def test_links_are_followed_within_the_folder_and_refused_out_of_it(tmp_path: Path) -> None:
    root = write(tmp_path / "root", "a.md", "sub/b.md", ".data/c.md")
    write(tmp_path / "outside", "secret.md", "more/x.md")
    (root / "again.md").symlink_to(root / "a.md")
    (root / "c.md").symlink_to(Path(".data") / "c.md")
    (root / "loop").symlink_to(root)
    (root / "sub" / "self").symlink_to(root / "sub" / "self")
    (root / "secret.md").symlink_to(tmp_path / "outside" / "secret.md")
    (root / "out").symlink_to(tmp_path / "outside")
    (root / "gone.md").symlink_to("nowhere.md")
    found = find_files([root])
    assert [source.name for source in found.sources] == ["a.md", "sub/b.md", "c.md"]
    assert sorted(sentence.split(" ")[0] for sentence in found.sentences) == ["gone.md", "out", "secret.md"]
    assert "leads out of the folder" in " ".join(found.sentences)


def test_what_only_looks_like_a_document_is_one_sentence_each(tmp_path: Path) -> None:
    write(tmp_path, "macro.docm", "old.doc", "page.md", "folder.pdf/inner.md", "new\nline.md")
    os.mkfifo(tmp_path / "pipe.txt")
    (tmp_path / os.fsdecode(b"latin-\xe9.md")).write_text("x")
    found = find_files([tmp_path])
    assert [source.name for source in found.sources] == ["page.md"]
    assert [sentence.split(" ")[0] for sentence in sorted(found.sentences)] == [
        *("folder.pdf", "latin-\\udce9.md", "macro.docm", "new\\nline.md", "old.doc", "pipe.txt")
    ]


def test_every_kind_of_office_file_that_may_carry_macros_is_one_sentence(tmp_path: Path) -> None:
    kinds = ["docm", "dotm", "xlsm", "xltm", "xlsb", "xlam", "pptm", "potm", "ppsm", "ppam", "sldm"]
    write(tmp_path, *(f"{kind}.{kind.upper()}" for kind in kinds), "a.xla", "a.ppa", "a.dot")
    found = find_files([tmp_path])
    assert found.sources == []
    said = [sentence for sentence in found.sentences if "may carry macros" in sentence]
    assert sorted(sentence.partition(".")[0] for sentence in said) == sorted(kinds)
    assert len(found.sentences) == len(kinds) + 3


def test_a_path_without_documents_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    found = find_files([tmp_path / "empty", tmp_path / "missing", f"{tmp_path}/*.md", "nul\0byte", "x" * 5000])
    assert found.sources == []
    assert len(found.sentences) == 5
    assert "holds no documents" in found.sentences[0]


# --- addition -----------------------------------------------------------------------------------------------------------


def test_an_addition_takes_what_is_new_or_changed_and_drops_what_is_gone(
    tmp_path: Path, reader: Reader, store: DocumentStore
) -> None:
    root = write(tmp_path / "pages", "a.md", "b/x.md", "b/y.md")
    steps: list[tuple[int, int, str]] = []
    first = add(store, reader, [root], progress=lambda *step: steps.append(step))
    assert first == AddReport(added=3)
    assert steps == [(1, 3, "a.md"), (2, 3, "b/x.md"), (3, 3, "b/y.md")]
    assert store.document("b/x.md").text == "# b/x.md\n\nText of b/x.md.\n"
    assert store.known()["b/x.md"].root == str(root)

    (root / "a.md").write_text("# Other")
    (root / "b/x.md").unlink()
    os.utime(root / "b/y.md", (1, 1))
    assert add(store, reader, [root]) == AddReport(changed=1, unchanged=1, removed=1)
    assert store.document("a.md").version == 2


def test_under_keeps_two_folders_apart(tmp_path: Path, reader: Reader, store: DocumentStore) -> None:
    one, two = write(tmp_path / "one", "readme.md"), write(tmp_path / "two", "readme.md", "sub/.keep")
    (two / "readme.md").write_text("# Two")
    add(store, reader, [one])
    clash = add(store, reader, [two])
    assert clash.added == clash.changed == 0
    assert "--under" in clash.unread[0]
    assert "readme.md" in add(store, reader, [one, two]).unread[0]
    assert add(store, reader, [two], under="teams/two/").added == 1
    (two / "readme.md").unlink()
    assert add(store, reader, [two], under="teams/two").removed == 1
    assert store.paths() == ["readme.md"]
    with pytest.raises(DocumentError, match=r"\.\./up"):
        add(store, reader, [one], under="../up")


def test_every_bad_file_is_one_line_and_the_others_are_read(
    tmp_path: Path, reader: Reader, store: DocumentStore, pdf: Write, docx: Write
) -> None:
    root = write(tmp_path / "pages", "a.md", "zz.md")
    (root / "bad-1.pdf").write_bytes(b"%PDF-1.4 broken")
    docx(root / "bad-2.docx", "", extra={"word/z": bytes(30_000_000)})
    (root / "bad-3.pptx").write_bytes(b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1")
    with (root / "bad-4.md").open("wb") as sparse:
        sparse.truncate(1_000_000_000)
    pdf(root / "bad-5.pdf", [[]] * 41)
    (root / "bad-6.docm").write_bytes(b"PK")
    (root / "bad-7.txt").write_bytes(b"\x7fELF\0")
    (root / "bad-8.md").symlink_to("/etc/hostname")
    (root / "mixed.txt").write_bytes("Größe ".encode() + b"\n" + "Größe".encode("cp1252"))
    report = add(store, reader, [root])
    assert report.added == 3
    assert report.doubts == ("mixed.txt is not UTF-8; it was read as Windows-1252, so letters may be wrong: save it as UTF-8.",)
    assert sorted(line.split(" ")[0].partition(".")[0] for line in report.unread) == [f"bad-{number}" for number in range(1, 9)]
    assert store.paths() == ["a.md", "mixed.txt", "zz.md"]


def test_what_was_indexed_stays_when_the_file_cannot_be_read_now(
    tmp_path: Path, reader: Reader, store: DocumentStore, pdf: Write
) -> None:
    root = tmp_path / "pages"
    root.mkdir()
    pdf(root / "a.pdf", [[(50, 700, 11, "Text")]])
    write(root, "b.md", "sub/c.md")
    add(store, reader, [root])
    (root / "a.pdf").write_bytes(b"%PDF-1.4 broken")
    (root / "b.md").unlink()
    (root / "b.md").symlink_to("/etc/hostname")
    report = add(store, reader, [root])
    assert (report.unchanged, report.removed, len(report.unread)) == (1, 0, 2)
    assert len(store.paths()) == 3


def test_a_file_deleted_after_it_was_found_is_one_line(tmp_path: Path, reader: Reader, store: DocumentStore) -> None:
    root = write(tmp_path / "pages", "a.md", "b.md", "c.md")
    report = add(store, reader, [root], progress=lambda done, total, name: (root / "b.md").unlink(missing_ok=True))
    assert report.added == 2
    assert report.unread == ("b.md is not there any more: it was deleted or moved.",)


class Disturbed(Reader):
    """A reader that is disturbed once: after it has read the first block of the file with this name."""

    def __init__(self, limits: ReadLimits, name: str, disturb: Callable[[Path], object]) -> None:
        super().__init__(limits)
        self._name, self._disturb = name, disturb

    def _copy(self, file: Path, sink: BinaryIO | None, *, max_bytes: int | None = None) -> str:
        if sink is not None and file.name == self._name:
            self._name = ""
            sink = cast(BinaryIO, _Tap(sink, lambda: self._disturb(file)))
        return super()._copy(file, sink, max_bytes=max_bytes)


class _Tap:
    def __init__(self, sink: BinaryIO, disturb: Callable[[], object]) -> None:
        self._sink, self._disturb = sink, [disturb]

    def write(self, block: bytes) -> None:
        self._sink.write(block)
        while self._disturb:
            self._disturb.pop()()


def _grow(file: Path) -> None:
    with file.open("a") as end:
        end.write("more")


GONE, CHANGED = "is not there any more: it was deleted or moved", "changed while it was read: add it again"


@pytest.mark.parametrize("name", ["page.md", "page.csv"])
@pytest.mark.parametrize(
    ("disturb", "reason"),
    [
        (Path.unlink, GONE),
        (lambda file: file.rename(file.with_suffix(".moved")), GONE),
        (_grow, CHANGED),
        (lambda file: os.truncate(file, 10), CHANGED),
        (lambda file: os.utime(file, (1, 1)), CHANGED),
        (lambda file: file.write_text("anew"), CHANGED),
        (lambda file: save_upload(file.parent, file.name, file.with_name("other.txt")), CHANGED),
    ],
    ids=["deleted", "moved", "grown", "cut", "touched", "written", "replaced"],
)
def test_a_file_that_goes_or_changes_while_it_is_read_is_one_line_and_the_others_are_read(
    tmp_path: Path, limits: ReadLimits, store: DocumentStore, name: str, disturb: Callable[[Path], object], reason: str
) -> None:
    root = write(tmp_path / "pages", "other.txt")
    (root / name).write_text("a,b\n" * 300_000)  # more than one block
    with Disturbed(replace(limits, max_chars=2_000_000), name, disturb) as reader:
        report = add(store, reader, [root])
    assert (report.added, report.unread) == (1, (f"{name} {reason}.",))
    assert store.paths() == ["other.txt"]


def test_a_file_that_changed_while_it_was_read_is_tried_again_though_its_content_is_the_same(
    tmp_path: Path, limits: ReadLimits, store: DocumentStore
) -> None:
    root = write(tmp_path / "pages", "page.md")
    failed: dict[tuple[str, str], str] = {}
    with Disturbed(limits, "page.md", lambda file: os.utime(file, (1, 1))) as reader:
        assert add(store, reader, [root], failed=failed).unread == (f"page.md {CHANGED}.",)
        assert add(store, reader, [root], failed=failed) == AddReport(added=1)


def test_an_addition_that_was_ended_goes_on_where_it_was(tmp_path: Path, reader: Reader, store: DocumentStore) -> None:
    root = write(tmp_path / "pages", "a.md", "b.md", "c.md")

    def interrupt(done: int, total: int, name: str) -> None:
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        add(store, reader, [root], progress=interrupt)
    assert add(store, reader, [root]) == AddReport(added=1, unchanged=2)


# --- uploads ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "kept"),
    [
        ("Travel policy.pdf", "Travel policy.pdf"),
        ("../../etc/passwd.txt", "passwd.txt"),
        ("C:\\docs\\a:b?.md", "ab.md"),
        (".hidden.md", "hidden.md"),
        ("~$a\n\0b\u202e.MD", "ab.MD"),
        ("a.md. ", "a.md"),
        ("con.txt", "_con.txt"),
        ("ä" * 300 + ".docx", "ä" * 97 + ".docx"),
    ],
)
def test_an_upload_is_kept_under_a_safe_name(tmp_path: Path, name: str, kept: str) -> None:
    data = tmp_path / "data"
    data.write_text("content")
    folder = tmp_path / "uploads"
    assert save_upload(folder, name, data) == folder / kept
    assert [(file.name, file.read_text()) for file in folder.iterdir()] == [(kept, "content")]
    assert len(kept.encode()) <= 200


@pytest.mark.parametrize("name", ["", "..", ".md", "a.exe", "a.md/", "a.docm", "///"])
def test_an_upload_without_a_usable_name_is_refused(tmp_path: Path, name: str) -> None:
    data = tmp_path / "data"
    data.write_text("content")
    with pytest.raises(DocumentError):
        save_upload(tmp_path / "uploads", name, data)
    assert not (tmp_path / "uploads").exists()


def test_an_upload_replaces_its_namesake_whole_or_not_at_all(tmp_path: Path) -> None:
    data, folder = tmp_path / "data", tmp_path / "uploads"
    data.write_text("first")
    save_upload(folder, "a.md", data)
    outside = tmp_path / "outside.md"
    outside.write_text("untouched")
    (folder / "b.md").symlink_to(outside)
    data.write_text("second")
    save_upload(folder, "a.md", data)
    save_upload(folder, "b.md", data)
    with pytest.raises(DocumentError, match="more than"):
        save_upload(folder, "a.md", data, max_bytes=3)
    (folder / "c.md").mkdir()
    with pytest.raises(DocumentError, match="cannot be kept: Is a directory"):
        save_upload(folder, "c.md", data)
    assert {file.name: file.read_text() for file in folder.iterdir() if file.is_file()} == {"a.md": "second", "b.md": "second"}
    assert not (folder / "b.md").is_symlink()
    assert outside.read_text() == "untouched"
