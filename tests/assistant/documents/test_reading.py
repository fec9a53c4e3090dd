"""Files become Markdown: each format keeps its headings, tables and lists; what cannot be read costs one sentence."""

from __future__ import annotations

import datetime
import hashlib
import os
import subprocess
import sys
import threading
import time
import zipfile
import zlib
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import psutil
import pytest

from assistant.documents.reading import Converted, Reader, ReadLimits
from feedback.errors import DocumentError

CONVERTER = "assistant.documents.converter"
Write = Callable[..., Path]
BODY = [(50, 700 - 14 * line, 11, f"Line {line} of the text says what the company pays for.") for line in range(12)]


def refusal(reader: Reader, file: Path) -> str:
    with pytest.raises(DocumentError) as caught:
        reader.read(file, name=file.name)
    sentence = str(caught.value)
    assert sentence.startswith(f"{file.name} ")
    assert sentence.endswith(".")
    assert "\n" not in sentence
    return sentence


def pages_of(converted: Converted) -> list[str]:
    ends = [*converted.pages[1:], len(converted.text)]
    return [converted.text[start:end].strip() for start, end in zip(converted.pages, ends, strict=True)]


def slow_page(file: Path) -> Path:
    """A web page that takes many seconds to convert."""
    file.write_text("<table>" + "<tr><td>cell</td></tr>" * 200_000 + "</table>")
    return file


def worker_of(process: psutil.Process, *, besides: Collection[psutil.Process] = ()) -> psutil.Process:
    """The converter that a process has started, besides those that it had before."""
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        for child in process.children():
            if child not in besides and child.status() != psutil.STATUS_ZOMBIE and CONVERTER in child.cmdline():
                return child
        time.sleep(0.02)
    raise AssertionError("no converter was started")


# --- text ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "cp1252"])
def test_a_text_is_read_in_the_encodings_that_people_use(reader: Reader, tmp_path: Path, encoding: str) -> None:
    file = tmp_path / "page.md"
    file.write_bytes("# Größe\r\n\r\n- für €140\rEnde".encode(encoding))
    page = reader.read(file)
    assert page.text == "# Größe\n\n- für €140\nEnde"
    assert page.pages == ()
    assert page.sha256 == hashlib.sha256(file.read_bytes()).hexdigest() == reader.digest(file)


@pytest.mark.parametrize("content", [b"\x89PNG\r\n\x1a\n....", b"%PDF-1.7 text", b"text\0text", bytes(range(1, 32)) * 20])
def test_what_is_no_text_is_not_read_as_one(reader: Reader, tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "page.txt"
    file.write_bytes(content)
    assert "not a text" in refusal(reader, file)


# --- the other formats --------------------------------------------------------------------------------------------------


def test_a_web_page_keeps_its_main_part_with_its_structure(reader: Reader, tmp_path: Path) -> None:
    file = tmp_path / "page.html"
    file.write_bytes(
        "<html><head><meta charset='iso-8859-1'><title>Travel</title><script>x()</script></head><body><nav>Home</nav><main>"
        "<h2>Hotels<a href='#h'>¶</a></h2><p>See <a href='x.html'>Zürich</a>, <a href='https://x.org'>all</a>.</p>"
        "<ul><li>London<ul><li>City</li></ul></li></ul><table><tr><th>Town</th><th>Rate</th></tr><tr><td>a|b</td><td>140</td>"
        "</tr></table></main><footer>Imprint</footer></body></html>".encode("iso-8859-1")
    )
    assert reader.read(file).text.strip() == (
        "# Travel\n\n## Hotels\n\nSee Zürich, [all](https://x.org).\n\n- London\n  - City\n\n"
        "| Town | Rate |\n| --- | --- |\n| a\\|b | 140 |"
    )


def test_a_page_nested_beyond_reason_keeps_its_words(reader: Reader, tmp_path: Path) -> None:
    file = tmp_path / "deep.html"
    file.write_text("<div>" * 3000 + "deep" + "</div>" * 3000)
    assert reader.read(file).text.strip() == "deep"


def test_a_pdf_keeps_headings_lists_table_rows_and_where_its_pages_begin(reader: Reader, tmp_path: Path, pdf: Write) -> None:
    def page(number: int) -> list[tuple[float, float, float, str]]:
        return [
            (50, 810, 9, "ACME - internal"),
            (50, 750, 20, f"Chapter {number}"),
            (50, 715, 11, f"Page {number} speaks of re-"),
            (50, 701, 11, "imbursement and of a well-"),
            (50, 687, 11, "known rule; it is a well-known one."),
            (50, 640, 15, "Rates"),
            (50, 600, 11, "\\225 London is dear"),
            (50, 570, 11, "Town"),
            (200, 570, 11, "Rate"),
            (50, 556, 11, "Paris"),
            (200, 556, 11, "120"),
            (50, 542, 11, "Rome"),
            (200, 542, 11, "90"),
            (300, 20, 9, f"Page {number} of 4"),
        ]

    converted = reader.read(pdf(tmp_path / "book.pdf", [page(number) for number in (1, 2, 3, 4)]))
    pages = pages_of(converted)
    assert len(pages) == 4
    assert pages[2] == (
        "# Chapter 3\n\nPage 3 speaks of reimbursement and of a well-known rule; it is a well-known one.\n\n## Rates\n\n"
        "- London is dear\n\n| Town | Rate |\n| --- | --- |\n| Paris | 120 |\n| Rome | 90 |"
    )


def test_a_docx_keeps_headings_lists_and_tables(
    reader: Reader, tmp_path: Path, docx: Write, paragraph: Callable[..., str]
) -> None:
    item = '<w:numPr><w:ilvl w:val="0"/><w:numId w:val="1"/></w:numPr>'
    cells = ("Town", "Rate"), ("Paris", "120")
    table = "".join(f"<w:tr>{''.join(f'<w:tc>{paragraph(cell)}</w:tc>' for cell in row)}</w:tr>" for row in cells)
    body = paragraph("Hotels", '<w:pStyle w:val="H1"/>') + paragraph("London", item) + paragraph("Rome", item)
    text = reader.read(docx(tmp_path / "a.docx", f"{body}<w:tbl>{table}</w:tbl>")).text
    assert text.strip() == "# Hotels\n\n- London\n- Rome\n\n| Town | Rate |\n| --- | --- |\n| Paris | 120 |"


def test_slides_are_pages_with_titles_lists_tables_charts_and_notes(reader: Reader, tmp_path: Path) -> None:
    from pptx import Presentation
    from pptx.chart.data import CategoryChartData
    from pptx.enum.chart import XL_CHART_TYPE

    deck = Presentation()
    first = deck.slides.add_slide(deck.slide_layouts[1])
    first.shapes.title.text = "Hotels"
    frame = first.placeholders[1].text_frame
    frame.text = "London"
    below = frame.add_paragraph()
    below.text, below.level = "City", 1
    first.notes_slide.notes_text_frame.text = "Say it slowly."
    second = deck.slides.add_slide(deck.slide_layouts[6])
    grid = second.shapes.add_table(2, 2, 0, 0, 900, 900).table
    for at, value in enumerate(("Town", "Rate", "Paris", "120")):
        grid.cell(at // 2, at % 2).text = value
    data: Any = CategoryChartData()  # type: ignore[no-untyped-call]
    data.categories = ["Q1", "Q2"]
    data.add_series("Trips", (3, 4.5))
    second.shapes.add_chart(XL_CHART_TYPE.COLUMN_CLUSTERED, 0, 1000, 900, 900, data)
    deck.save(str(tmp_path / "deck.pptx"))
    assert pages_of(reader.read(tmp_path / "deck.pptx")) == [
        "## Hotels\n\n- London\n  - City\n\nNotes: Say it slowly.",
        "## Slide 2\n\n| Town | Rate |\n| --- | --- |\n| Paris | 120 |\n\n|  | Trips |\n| --- | --- |\n| Q1 | 3 |\n| Q2 | 4.5 |",
    ]


def test_sheets_are_pages_with_tables_of_the_values_that_a_person_sees(reader: Reader, tmp_path: Path) -> None:
    from openpyxl import Workbook

    book = Workbook()
    sheet = book.active
    sheet.title = "Rates"
    rows: tuple[list[Any], ...] = (
        ["Rates of 2026"],
        ["Town", "Rate", "Share", "From"],
        ["Paris", 120.0, 0.125, datetime.datetime(2026, 1, 31)],
        [],
        ["End"],
    )
    for row in rows:
        sheet.append(row)
    sheet["C3"].number_format = "0.0%"
    book.create_sheet("Empty")
    book.create_sheet("More").append([True, 0.1 + 0.2])
    book["More"]["B100000"] = "far below"  # what lies between costs nothing
    book.save(tmp_path / "book.xlsx")
    assert pages_of(reader.read(tmp_path / "book.xlsx")) == [
        "## Rates\n\nRates of 2026\n\n| Town | Rate | Share | From |\n| --- | --- | --- | --- |\n"
        "| Paris | 120 | 12.5% | 2026-01-31 |\n\nEnd",
        "",
        "## More\n\n| True | 0.3 |\n| --- | --- |\n\nfar below",
    ]


@pytest.mark.parametrize(("name", "separator"), [("a.csv", ","), ("a.csv", ";"), ("a.tsv", "\t")])
def test_a_csv_is_a_table(reader: Reader, tmp_path: Path, name: str, separator: str) -> None:
    rows = (("Town", "Rate"), ("Köln", '"two\nlines"'), ("", ""), ("a|b", ""))
    file = tmp_path / name
    file.write_bytes("\r\n".join(separator.join(row) for row in rows).encode("cp1252"))
    assert reader.read(file).text.strip() == "| Town | Rate |\n| --- | --- |\n| Köln | two lines |\n| a\\|b |  |"


# --- what is refused ----------------------------------------------------------------------------------------------------


def test_bad_pdfs_are_told_apart(reader: Reader, tmp_path: Path, pdf: Write) -> None:
    from pypdf import PdfWriter

    good = pdf(tmp_path / "good.pdf", [BODY])
    for algorithm in ("RC4-128", "AES-128", "AES-256-R5", "AES-256"):
        locked = PdfWriter(clone_from=good)
        locked.encrypt("secret", algorithm=algorithm)
        locked.write(tmp_path / f"{algorithm}.pdf")
        assert "is encrypted: save it without a password" in refusal(reader, tmp_path / f"{algorithm}.pdf")
    readable = PdfWriter(clone_from=good)
    readable.encrypt("", owner_password="secret", algorithm="AES-256")
    readable.write(tmp_path / "readable.pdf")
    (tmp_path / "broken.pdf").write_bytes(good.read_bytes()[:200])
    (tmp_path / "named.pdf").write_bytes(b"PK\x03\x04 no PDF at all")

    assert "is broken" in refusal(reader, tmp_path / "broken.pdf")
    assert "not a PDF" in refusal(reader, tmp_path / "named.pdf")
    assert "only pictures" in refusal(reader, pdf(tmp_path / "scan.pdf", [[], []]))
    assert "41 pages, more than the 40" in refusal(reader, pdf(tmp_path / "long.pdf", [[]] * 41))
    assert "Line 3" in reader.read(tmp_path / "readable.pdf").text


def test_a_pdf_of_ten_thousand_pages_costs_one_line_and_the_next_file_is_read(tmp_path: Path, pdf: Write) -> None:
    long = pdf(tmp_path / "long.pdf", [[(72, 700, 12, "Line")]] * 10_000)
    with Reader(ReadLimits()) as reader:
        assert "has 10,000 pages, more than the 5,000 that are read: split it" in refusal(reader, long)
        assert "Line 3" in reader.read(pdf(tmp_path / "good.pdf", [BODY])).text


def test_bad_office_files_are_told_apart(reader: Reader, tmp_path: Path, docx: Write, paragraph: Callable[..., str]) -> None:
    def named(name: str, content: bytes) -> Path:
        (tmp_path / name).write_bytes(content)
        return tmp_path / name

    good = docx(tmp_path / "good.docx", paragraph("Hello"))
    bomb = docx(tmp_path / "bomb.docx", paragraph("Hello"), extra={"word/media/zeros.bin": bytes(40_000_000)})
    assert bomb.stat().st_size < 50_000
    assert "ZIP bomb" in refusal(reader, bomb)
    assert "macros" in refusal(reader, docx(tmp_path / "macro.docx", paragraph("x"), extra={"word/vbaProject.bin": b"x"}))
    sheets = docx(tmp_path / "sheets.xlsx", paragraph("x"), extra={"xl/workbook.xml": b"", "xl/macroSheets/sheet1.xml": b"x"})
    assert "carries macros: save it as a plain .xlsx without them" in refusal(reader, sheets)
    assert "may carry macros" in refusal(reader, named("a.docm", good.read_bytes()))
    assert "may carry macros" in refusal(reader, named("a.xlam", good.read_bytes()))
    assert "has a format that is not read" in refusal(reader, named("a.doc", b"\xd0\xcf\x11\xe0"))
    assert "password-protected" in refusal(reader, named("a.xlsx", b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"))
    assert "is a .docx file, not a .xlsx file" in refusal(reader, named("b.xlsx", good.read_bytes()))
    assert "is a PDF, not a .pptx file" in refusal(reader, named("b.pptx", b"%PDF-1.7"))
    assert "is broken" in refusal(reader, named("cut.docx", good.read_bytes()[:-300]))
    assert "holds no text" in refusal(reader, docx(tmp_path / "empty.docx", paragraph("")))
    assert reader.read(good).text.strip() == "Hello"


def test_a_zip_that_lies_about_its_sizes_is_refused(
    reader: Reader, tmp_path: Path, docx: Write, paragraph: Callable[..., str]
) -> None:
    file = docx(tmp_path / "liar.docx", paragraph("Hello"), extra={"word/media/z.bin": bytes(5_000_000)})
    with zipfile.ZipFile(file) as archive:
        size = archive.getinfo("word/media/z.bin").file_size
    file.write_bytes(file.read_bytes().replace(size.to_bytes(4, "little"), (100).to_bytes(4, "little")))
    assert "is broken" in refusal(reader, file)


def test_what_is_too_large_is_not_read(reader: Reader, tmp_path: Path) -> None:
    sparse = tmp_path / "sparse.pdf"
    with sparse.open("wb") as handle:
        handle.truncate(1_000_000_000)
    assert "1,000.0 MB, more than the 2.0 MB" in refusal(reader, sparse)
    with pytest.raises(DocumentError, match="split it"):
        reader.digest(sparse)
    long = tmp_path / "long.md"
    long.write_text("word " * 50_000)
    assert "characters" in refusal(reader, long)
    table = tmp_path / "long.csv"
    table.write_text("a,b\n" * 60_000)
    assert "characters" in refusal(reader, table)


def test_what_is_no_file_or_not_there_is_named(reader: Reader, tmp_path: Path) -> None:
    (tmp_path / "folder.pdf").mkdir()
    os.mkfifo(tmp_path / "pipe.md")
    (tmp_path / "empty.md").write_text(" \n")
    assert "is a folder" in refusal(reader, tmp_path / "folder.pdf")
    assert "is a pipe" in refusal(reader, tmp_path / "pipe.md")
    assert "deleted or moved" in refusal(reader, tmp_path / "gone.pdf")
    assert "holds no text" in refusal(reader, tmp_path / "empty.md")
    assert "no document that is read" in refusal(reader, tmp_path / "program.py")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_without_permission_is_named(reader: Reader, tmp_path: Path) -> None:
    file = tmp_path / "secret.md"
    file.write_text("secret")
    file.chmod(0)
    assert "no permission" in refusal(reader, file)


def bomb_objects(megabytes: int, *, pages: int = 1, fill: bytes = b"\0", times: int = 1) -> list[bytes]:
    """The objects of a PDF whose pages share one content stream that inflates to so many megabytes, deflated `times` times."""
    packer = zlib.compressobj(9)
    stream = b"".join(packer.compress(fill * (1_000_000 // len(fill))) for _ in range(megabytes)) + packer.flush()
    for _ in range(times - 1):
        stream = zlib.compress(stream, 9)
    font = b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>"
    return [
        b"<< /Type /Catalog /Pages 2 0 R >>",
        b"<< /Type /Pages /Kids [%s] /Count %d >>" % (b" ".join(b"%d 0 R" % (4 + at) for at in range(pages)), pages),
        b"<< /Length %d /Filter [%s] >>\nstream\n%s\nendstream" % (len(stream), b"/FlateDecode " * times, stream),
        *[b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 9 9] /Contents 3 0 R /Resources << /Font << /F1 %s >> >> >>" % font]
        * pages,
    ]


@pytest.mark.parametrize(
    ("megabytes", "options", "reason"),
    [
        (300, {}, "has a part that is beyond all measure when it is inflated (a bomb?)"),
        (300, {"times": 2}, "has a part that is beyond all measure when it is inflated (a bomb?)"),
        # what stays below the limit of the library meets those of the worker
        (70, {"pages": 30, "fill": b"(x) Tj "}, ""),
    ],
)
def test_a_pdf_that_inflates_beyond_measure_costs_one_line_in_time_and_the_next_is_read(
    tmp_path: Path, pdf: Write, pdf_objects: Write, megabytes: int, options: dict[str, Any], reason: str
) -> None:
    bomb = pdf_objects(tmp_path / "bomb.pdf", bomb_objects(megabytes, **options))
    assert bomb.stat().st_size < 1_000_000
    good = pdf(tmp_path / "good.pdf", [BODY])
    with Reader(ReadLimits(seconds=4, memory_mb=400)) as reader:
        reader.read(good)  # the start of a worker takes its time too
        began = time.monotonic()
        assert reason in refusal(reader, bomb)
        assert time.monotonic() - began < 12
        assert "Line 3" in reader.read(good).text


# --- the worker ---------------------------------------------------------------------------------------------------------


def test_a_file_that_takes_too_long_or_too_much_costs_its_worker_and_the_next_is_read(tmp_path: Path) -> None:
    good = tmp_path / "good.csv"
    good.write_text("Town,Rate\nParis,120\n")
    slow = slow_page(tmp_path / "slow.html")
    with Reader(ReadLimits(seconds=1.5)) as reader:
        assert "takes longer than 1.5 s" in refusal(reader, slow)
        assert "Paris" in reader.read(good).text
    with Reader(ReadLimits(memory_mb=50)) as reader:
        assert "needs more than the 50 MB" in refusal(reader, slow)
        assert "Paris" in reader.read(good).text


def test_a_worker_that_is_killed_is_followed_by_another(tmp_path: Path, pdf: Write) -> None:
    good = pdf(tmp_path / "good.pdf", [BODY])
    slow = slow_page(tmp_path / "slow.html")
    me = psutil.Process()
    others = me.children()
    with Reader() as reader:
        reader.read(good)
        worker_of(me, besides=others).kill()
        assert "Line 3" in reader.read(good).text  # what killed the worker was not this file
    with Reader() as reader:
        killer = threading.Timer(0.3, lambda: worker_of(me, besides=others).kill())
        killer.start()
        assert "ended its converter (exit status -9)" in refusal(reader, slow)
        assert "Line 3" in reader.read(good).text
    assert me.children() == others


def test_a_busy_worker_ends_with_its_parent_and_leaves_nothing(tmp_path: Path) -> None:
    slow = slow_page(tmp_path / "slow.html")
    script = f"from assistant.documents.reading import Reader; from pathlib import Path; Reader().read(Path({str(slow)!r}))"
    spool = tmp_path / "tmp"
    spool.mkdir()
    parent = subprocess.Popen([sys.executable, "-c", script], env={**os.environ, "TMPDIR": str(spool)})
    worker = worker_of(psutil.Process(parent.pid))
    time.sleep(0.5)
    assert worker.is_running()
    assert list(spool.iterdir())
    parent.kill()
    parent.wait()
    worker.wait(timeout=3)
    assert list(spool.iterdir()) == []


def test_text_is_read_without_a_worker(tmp_path: Path) -> None:
    file = tmp_path / "page.md"
    file.write_text("# Hotels")
    before = psutil.Process().children()
    with Reader() as reader:
        reader.read(file)
        assert psutil.Process().children() == before
