"""Secrets and personal data that must not become training data: an adapter can repeat what it was trained on.

Only what has a recognisable shape is found. What the company's own documents say (a help desk's address, a switchboard's
number) is no secret: the caller names the texts in which a find is allowed.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

_EMAIL = re.compile(r"[\w.+-]+@[\w-]+(?:\.[\w-]+)+")
_IBAN = re.compile(r"\b[A-Z]{2}\d{2}(?: ?[A-Z0-9]{4}){2,7}(?: ?[A-Z0-9]{1,3})?\b")
_CARD = re.compile(r"(?<![\w.,=-])(?:\d{13,19}|\d{4}([ -])\d{4}\1\d{4}\1\d{1,7}|\d{4}[ -]\d{6}[ -]\d{5})(?![\w-])")
_PHONE = re.compile(r"(?<!\w)(?:\+|00)\d[\d ()./-]{7,}\d(?!\w)")
_SOCIAL = re.compile(r"(?<![\w-])\d{3}-\d{2}-\d{4}(?![\w-])")
_NAMED_SECRET = re.compile(
    r"(?i)\b(?:pass ?word|passwd|passphrase|pwd|pin(?: code)?|secret|api[ _-]?key|access[ _-]?key|token)\b"
    r"\s*(?:[:=]\s*|is\s+(?=\S*\d))\S{4,}"
)
_KEY = re.compile(
    r"\b(?:sk-[\w-]{16,}|gh[pousr]_\w{20,}|github_pat_\w{20,}|AKIA[0-9A-Z]{16}|xox[abprs]-[\w-]{10,}|eyJ[\w-]{10,}\.[\w-]{10,}\.[\w-]*)"
    r"|-----BEGIN [A-Z ]*PRIVATE KEY-----|(?i:\bbearer\s+[\w.~+/-]{16,})"
)


def find_personal(text: str, *, allowed_in: Iterable[str] = ()) -> str | None:
    """Name the first secret or piece of personal data in `text` ("an e-mail address"), or None.

    A find that stands in one of the `allowed_in` texts too, whatever its spacing, does not count.
    """
    known = [_squeezed(source) for source in allowed_in]
    for kind, pattern in (
        ("a password or another secret", _NAMED_SECRET),
        ("an access key", _KEY),
        ("an e-mail address", _EMAIL),
        ("a bank account number", _IBAN),
        ("a card number", _CARD),
        ("a social security number", _SOCIAL),
        ("a phone number", _PHONE),
    ):
        for match in pattern.finditer(text):
            found = match[0]
            if pattern is _IBAN and sum(char.isdigit() for char in found) < 10:
                continue
            if pattern is _CARD and not _luhn(found):
                continue
            if not any(_squeezed(found) in source for source in known):
                return kind
    return None


def _squeezed(text: str) -> str:
    return re.sub(r"[^\w@+=:]", "", text).casefold()


def _luhn(number: str) -> bool:
    """Say whether the check digit of a card number is right (ISO/IEC 7812-1)."""
    total = 0
    for place, digit in enumerate(int(char) for char in reversed(number) if char.isdigit()):
        doubled = digit * (1 + place % 2)
        total += doubled - 9 if doubled > 9 else doubled
    return total % 10 == 0
