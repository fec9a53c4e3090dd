"""What all readers share: bytes become text, text becomes clean, rows become a Markdown table."""

from __future__ import annotations

import codecs
import re
from collections.abc import Sequence

MAX_CONTROL_SHARE = 0.02
"""A text in which more of the characters are control characters than this is not a text."""

_UTF16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
_CONTROL = re.compile(r"[\x00-\x08\x0e-\x1f\x7f]")
_LINE_END = re.compile(r"\r\n?|[\x0b\x0c\x85\u2028\u2029]")
_INVISIBLE = re.compile(r"[\x00-\x08\x0e-\x1f\x7f-\x9f\u200b\ufeff\ud800-\udfff]")
_TRAILING = re.compile(r"[ \t]+$", re.MULTILINE)
_GAP = re.compile(r"\n{3,}")
_SIGNATURES = (
    (b"%PDF-", "a PDF"),
    (b"PK\x03\x04", "a ZIP or Office file"),
    (b"PK\x05\x06", "a ZIP file"),
    (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "an old or password-protected Office file"),
    (b"\x89PNG", "a picture"),
    (b"\xff\xd8\xff", "a picture"),
    (b"GIF8", "a picture"),
    (b"\x1f\x8b", "a compressed file"),
    (b"\x7fELF", "a program"),
    (b"MZ\x90\x00", "a program"),
    (b"{\\rtf", "an RTF file"),
)
_GUESSED = "is not UTF-8; it was read as Windows-1252, so letters may be wrong: save it as UTF-8"
_DAMAGED = "is damaged UTF-16; what could not be read became \ufffd: save it as UTF-8"


class Refused(Exception):
    """A file that is not read; `str()` is what follows the file's name in a sentence, without the full stop."""


class Unsettled(Refused):
    """A file that is not read at this moment; its content is not at fault."""


def signature(head: bytes) -> str | None:
    """Return what the first bytes of a file say that it is, with its article, or None when they say nothing."""
    return next((kind for magic, kind in _SIGNATURES if head.startswith(magic)), None)


def decode(data: bytes, declared: str | None = None) -> tuple[str, str]:
    """Decode a text of unknown encoding: UTF-16 with its mark, UTF-8, `declared`, else each line as UTF-8 or Windows-1252.

    A byte that none of them knows becomes U+FFFD; no page is lost for its encoding. Returns the text, and a doubt about it as
    what follows the file's name in a sentence, "" for none. Raises Refused for what is no text.
    """
    if data.startswith(_UTF16):
        text = data.decode("utf-16", errors="replace")
        return text, _DAMAGED if "\ufffd" in text else ""
    kind = signature(data)
    if kind or b"\0" in data:
        raise Refused(f"is {kind or 'a binary file'}, not a text: give it the suffix that it should have")
    text, doubt = _decoded(data, declared)
    if len(_CONTROL.findall(text)) > MAX_CONTROL_SHARE * len(text):
        raise Refused("is a binary file, not a text: give it the suffix that it should have")
    return text, doubt


def _decoded(data: bytes, declared: str | None) -> tuple[str, str]:
    for encoding in ("utf-8-sig", declared):
        try:
            if encoding:
                return data.decode(encoding), ""
        except (UnicodeError, LookupError):
            continue
    lines = data.removeprefix(codecs.BOM_UTF8).split(b"\n")
    return b"\n".join(_line_as_utf8(line) for line in lines).decode("utf-8"), _GUESSED


def _line_as_utf8(line: bytes) -> bytes:
    try:
        line.decode("utf-8")
    except UnicodeDecodeError:
        return line.decode("cp1252", errors="replace").encode()
    return line


def clean(text: str) -> str:
    """Return a text with "\\n" line ends and without what nobody can see: NUL, control characters, lone surrogates."""
    return _INVISIBLE.sub("", _LINE_END.sub("\n", text)).replace("\xa0", " ")


def join_pages(pages: Sequence[str]) -> tuple[str, tuple[int, ...]]:
    """Join the cleaned pages of a document; returns the text and the offset at which each page begins."""
    pieces: list[str] = []
    starts: list[int] = []
    at = 0
    for page in pages:
        starts.append(at)
        piece = _GAP.sub("\n\n", _TRAILING.sub("", clean(page))).strip("\n") + "\n\n"
        pieces.append(piece)
        at += len(piece)
    return "".join(pieces), tuple(starts)


def table(rows: Sequence[Sequence[str]]) -> str:
    """Return rows of cells as a Markdown table whose header is the first row; short rows are filled up."""
    width = max(len(row) for row in rows)
    lines = ["| " + " | ".join(_cell(cell) for cell in [*row, *[""] * (width - len(row))]) + " |" for row in rows]
    return "\n".join([lines[0], "|" + " --- |" * width, *lines[1:]])


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")
