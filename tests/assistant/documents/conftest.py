"""Small files of every format, made here, a reader whose limits a test can reach, and an empty store."""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import pytest

from assistant.documents.reading import Reader, ReadLimits
from assistant.documents.store import DocumentStore

Piece = tuple[float, float, float, str]
"""x, y and size in points, and the text."""


def write_pdf(file: Path, pages: Iterable[Iterable[Piece]]) -> Path:
    """Write a PDF by hand: Helvetica, A4, each piece a text object of its own."""
    streams = []
    for page in pages:
        shown = "".join(f"BT /F1 {size} Tf {x} {y} Td ({text}) Tj ET\n" for x, y, size, text in page)
        streams.append(shown.encode("latin-1"))
    font = b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica /Encoding /WinAnsiEncoding >>"
    objects = [b"<< /Type /Catalog /Pages 2 0 R >>", b"", font]
    kids = []
    for stream in streams:
        objects.append(b"<< /Length %d >>\nstream\n%s\nendstream" % (len(stream), stream))
        objects.append(
            b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 595 842] /Contents %d 0 R /Resources << /Font << /F1 3 0 R >> >> >>"
            % len(objects)
        )
        kids.append(b"%d 0 R" % len(objects))
    objects[1] = b"<< /Type /Pages /Kids [%s] /Count %d >>" % (b" ".join(kids), len(kids))
    return write_pdf_objects(file, objects)


def write_pdf_objects(file: Path, objects: Sequence[bytes]) -> Path:
    """Write a PDF of these objects, numbered from 1, of which the first is the catalogue."""
    body = bytearray(b"%PDF-1.4\n")
    offsets = []
    for number, content in enumerate(objects, 1):
        offsets.append(len(body))
        body += b"%d 0 obj\n%s\nendobj\n" % (number, content)
    table = b"".join(b"%010d 00000 n \n" % offset for offset in offsets)
    trailer = b"trailer << /Size %d /Root 1 0 R >>\nstartxref\n%d\n%%%%EOF" % (len(objects) + 1, len(body))
    file.write_bytes(body + b"xref\n0 %d\n0000000000 65535 f \n%s%s" % (len(objects) + 1, table, trailer))
    return file


_W = 'xmlns:w="http://schemas.openxmlformats.org/wordprocessingml/2006/main"'


def write_docx(file: Path, body: str, *, extra: dict[str, bytes] | None = None) -> Path:
    """Write the least DOCX around the XML of a body; `extra` are further parts."""
    parts: dict[str, str | bytes] = {
        "[Content_Types].xml": '<Types xmlns="http://schemas.openxmlformats.org/package/2006/content-types">'
        '<Default Extension="rels" ContentType="application/vnd.openxmlformats-package.relationships+xml"/>'
        '<Override PartName="/word/document.xml" '
        'ContentType="application/vnd.openxmlformats-officedocument.wordprocessingml.document.main+xml"/></Types>',
        "_rels/.rels": '<Relationships xmlns="http://schemas.openxmlformats.org/package/2006/relationships"><Relationship '
        'Id="r1" Type="http://schemas.openxmlformats.org/officeDocument/2006/relationships/officeDocument" '
        'Target="word/document.xml"/></Relationships>',
        "word/document.xml": f"<w:document {_W}><w:body>{body}</w:body></w:document>",
        "word/styles.xml": f'<w:styles {_W}><w:style w:type="paragraph" w:styleId="H1"><w:name w:val="heading 1"/></w:style>'
        "</w:styles>",
        "word/_rels/document.xml.rels": '<Relationships xmlns="http://schemas.openxmlformats.org/package/2006/relationships">'
        '<Relationship Id="s" Type="http://schemas.openxmlformats.org/officeDocument/2006/relationships/styles" '
        'Target="styles.xml"/><Relationship Id="n" '
        'Type="http://schemas.openxmlformats.org/officeDocument/2006/relationships/numbering" '
        'Target="numbering.xml"/></Relationships>',
        "word/numbering.xml": f'<w:numbering {_W}><w:abstractNum w:abstractNumId="0"><w:lvl w:ilvl="0"><w:numFmt w:val="bullet"/>'
        '</w:lvl></w:abstractNum><w:num w:numId="1"><w:abstractNumId w:val="0"/></w:num></w:numbering>',
    }
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in {**parts, **(extra or {})}.items():
            archive.writestr(name, content)
    return file


def docx_paragraph(text: str, properties: str = "") -> str:
    return f"<w:p><w:pPr>{properties}</w:pPr><w:r><w:t>{text}</w:t></w:r></w:p>"


@pytest.fixture
def store(tmp_path_factory: pytest.TempPathFactory) -> DocumentStore:
    """An empty store, outside of the folder that a test fills."""
    return DocumentStore(tmp_path_factory.mktemp("store") / "documents.db")


@pytest.fixture(scope="session")
def limits() -> ReadLimits:
    """Limits that a test can reach."""
    return ReadLimits(max_bytes=2_000_000, seconds=20, memory_mb=600, max_pages=40, max_chars=200_000)


@pytest.fixture(scope="session")
def reader(limits: ReadLimits) -> Iterator[Reader]:
    """A reader whose worker the tests share."""
    with Reader(limits) as shared:
        yield shared


@pytest.fixture(scope="session")
def pdf() -> Callable[..., Path]:
    """`pdf(file, pages)`: see `write_pdf`."""
    return write_pdf


@pytest.fixture
def pdf_objects() -> Callable[..., Path]:
    """`pdf_objects(file, objects)`: see `write_pdf_objects`."""
    return write_pdf_objects


@pytest.fixture(scope="session")
def docx() -> Callable[..., Path]:
    """`docx(file, body, extra=)`: see `write_docx`."""
    return write_docx


@pytest.fixture(scope="session")
def paragraph() -> Callable[..., str]:
    """`paragraph(text, properties)`: the XML of a paragraph of a DOCX."""
    return docx_paragraph
