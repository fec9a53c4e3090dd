"""Texts whose encoding nobody declared: all are read, and a report says of which the letters may be wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

from assistant.documents.reading import Reader


def test_lines_in_two_encodings_are_both_read(reader: Reader, tmp_path: Path) -> None:
    file = tmp_path / "mixed.txt"
    file.write_bytes("Müller\n".encode() + "Köln \x81".encode("latin-1") + b"\nlast")
    page = reader.read(file)
    assert page.text == "Müller\nKöln \ufffd\nlast" and "letters may be wrong" in page.doubt


@pytest.mark.parametrize("name", ["page.md", "page.csv", "page.html"])
@pytest.mark.parametrize(
    ("encoding", "text"), [("shift-jis", "出張規程 宿泊費"), ("koi8-r", "Правила командировок"), ("cp1252", "Größe für €140")]
)
def test_a_text_whose_encoding_was_guessed_is_read_with_a_doubt(
    reader: Reader, tmp_path: Path, name: str, encoding: str, text: str
) -> None:
    file = tmp_path / name
    file.write_bytes(f"<p>{text}</p>".encode(encoding))
    page = reader.read(file, name=f"team/{name}")
    assert page.doubt == (f"team/{name} is not UTF-8; it was read as Windows-1252, so letters may be wrong: save it as UTF-8.")
    assert (text in page.text) == (encoding == "cp1252")
    file.write_text(f"<p>{text}</p>", encoding="utf-8")
    assert reader.read(file).doubt == "" and text in reader.read(file).text


def test_a_declared_encoding_is_no_guess_and_damage_is_a_doubt(reader: Reader, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    page.write_bytes("<meta charset='shift-jis'><p>出張規程</p>".encode("shift-jis"))
    assert (reader.read(page).doubt, "出張規程" in reader.read(page).text) == ("", True)
    cut = tmp_path / "cut.txt"
    cut.write_bytes("Größe".encode("utf-16")[:-1])
    assert reader.read(cut).doubt.startswith(f"{cut} is damaged UTF-16") and "Größ" in reader.read(cut).text
