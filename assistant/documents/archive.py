"""Is a file what its suffix says, and safe to open? Asked before a library opens it."""

from __future__ import annotations

import zipfile
import zlib
from pathlib import Path

from assistant.documents.text import Refused, signature

OFFICE_PARTS = {".docx": "word/", ".pptx": "ppt/", ".xlsx": "xl/"}
MACRO_PART = "vbaproject.bin"
MACRO_SHEETS = "xl/macrosheets/"
"""Where Excel 4.0 macros lie, which are sheets."""
MAX_INFLATED = 400_000_000
"""Bytes that an Office file may hold when it is inflated."""
MAX_RATIO = 200
"""How many times larger than the file its content may be, past `SMALL`: Office files stay below 50."""
SMALL = 10_000_000
MAX_PARTS = 20_000
_BLOCK = 1 << 20


def check_pdf(file: Path) -> None:
    """Refuse a file that does not begin as a PDF does."""
    with file.open("rb") as handle:
        head = handle.read(1024)
    if b"%PDF-" not in head:
        kind = signature(head)
        raise Refused(f"is {kind}, not a PDF: give it the suffix that it should have" if kind else "is not a PDF, or is broken")


def check_office(file: Path, suffix: str) -> None:
    """Refuse an Office file that is another kind, is encrypted, carries macros, is broken, or inflates beyond all measure."""
    with file.open("rb") as handle:
        head = handle.read(16)
    if head.startswith(b"\xd0\xcf\x11\xe0"):
        raise Refused(f"is password-protected or in an old Office format: save it as {suffix} without a password")
    if not head.startswith(b"PK"):
        raise Refused(f"is {signature(head) or 'something else'}, not a {suffix} file: give it the suffix that it should have")
    try:
        with zipfile.ZipFile(file) as archive:
            _check_parts(archive, suffix, file.stat().st_size)
    except (zipfile.BadZipFile, zlib.error, OSError, EOFError, NotImplementedError, ValueError) as error:
        raise Refused("is broken: its ZIP container cannot be opened") from error


def _check_parts(archive: zipfile.ZipFile, suffix: str, size: int) -> None:
    parts = archive.infolist()
    names = [part.filename.replace("\\", "/") for part in parts]
    if any(part.flag_bits & 1 for part in parts):
        raise Refused("is encrypted: save it without a password")
    if any(name.lower().rsplit("/", 1)[-1] == MACRO_PART or name.lower().startswith(MACRO_SHEETS) for name in names):
        raise Refused(f"carries macros: save it as a plain {suffix} without them")
    budget = min(MAX_INFLATED, max(SMALL, MAX_RATIO * size))
    if len(parts) > MAX_PARTS or sum(part.file_size for part in parts) > budget:
        raise Refused("is a ZIP bomb: its content is out of all proportion to its size")
    if not any(name.startswith(OFFICE_PARTS[suffix]) for name in names):
        kind = next((known for known, folder in OFFICE_PARTS.items() if any(name.startswith(folder) for name in names)), "ZIP")
        raise Refused(f"is a {kind} file, not a {suffix} file: give it the suffix that it should have")
    # the declared sizes may lie: inflate all, within the same budget, which proves the checksums too
    for part in parts:
        with archive.open(part) as content:
            while block := content.read(_BLOCK):
                budget -= len(block)
                if budget < 0:
                    raise Refused("is a ZIP bomb: its content is out of all proportion to its size")
