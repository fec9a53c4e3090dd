"""One sentence in the page: what went wrong, or what was done."""

from __future__ import annotations

from html import escape


def notice_html(sentence: str, *, bad: bool = True) -> str:
    """Return a sentence that a screen reader speaks when it appears; "" for none."""
    if not sentence:
        return ""
    return f'<p class="{"ns-bad" if bad else "ns-done"}" role="{"alert" if bad else "status"}">{escape(sentence)}</p>'
