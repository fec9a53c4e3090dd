"""Values as they are compared: what changes none is folded away, and a value counts only when it is stated whole."""

from __future__ import annotations

import itertools
import re
import unicodedata
from functools import lru_cache

from feedback.wording import CITATION

_CITATION_LIST = re.compile(r"\[\d{1,2}(?:\s*,\s*\d{1,2})+\]")  # "[1, 2]" cites nothing, but states no value either
_LINK = re.compile(r"!?\[([^\]]*)\]\([^)\s]*\)")
_MARKS = re.compile(r"[*`~]|(?<!\w)_+|_+(?!\w)|^\s{0,3}#{1,6}\s", re.MULTILINE)
_THOUSANDS = re.compile(r"(?<![\d.,])\d{1,3}(?:,\d{3})+(?!\d|,\d)")
_FOLDS = str.maketrans(
    {"\u2018": "'", "\u2019": "'", "\u201c": '"', "\u201d": '"', "\u2014": " - ", "\u2015": " - "}
    | dict.fromkeys("\u2010\u2011\u2012\u2013\u2212", "-")
)
# a sign belongs to its number only where no word or digit comes before it
_TOKEN = re.compile(r"(?:(?<![\w.,)-])-)?\d+(?:[.,:/]\d+)*|[^\W\d_]+|[^\w\s-]|_")
_EDGE_MARKS = " \t\n.,;:!?\"'"


def fold(text: str) -> str:
    """Fold what does not change a value: case, spacing, kinds of dashes and quotes, Markdown marks, thousands commas."""
    text = _LINK.sub(r"\1", unicodedata.normalize("NFKC", text).translate(_FOLDS))
    text = _THOUSANDS.sub(lambda match: match[0].replace(",", ""), _MARKS.sub("", text))
    return " ".join(text.split()).casefold()


def without_citations(text: str) -> str:
    """Return `text` without its `[n]`, so that a passage's number is never taken for a value."""
    return _CITATION_LIST.sub("", CITATION.sub("", text)).strip()


def states_value(text: str, value: str) -> bool:
    """Say whether `text` states `value` whole: not as a part of a longer number, range, code or compound word."""
    pattern = _value_pattern(value)
    return pattern is not None and pattern.search(fold(text)) is not None


@lru_cache(maxsize=4096)
def _value_pattern(value: str) -> re.Pattern[str] | None:
    tokens = _TOKEN.findall(fold(value).strip(_EDGE_MARKS))
    if not tokens:
        return None
    parts = [re.escape(tokens[0])]
    for before, after in itertools.pairwise(tokens):
        # "15 km", "15km" and "15-km" are one value; "on call" and "on-call" too, "oncall" is not
        apart = (before[-1].isalpha() and after[0].isalpha()) or (before[-1].isdigit() and after[-1].isdigit())
        parts.append((r"[\s-]+" if apart else r"[\s-]*") + re.escape(after))
    return re.compile(_left_edge(tokens[0]) + "".join(parts) + _right_edge(tokens[-1]))


def _left_edge(token: str) -> str:
    if token[0].isdigit():
        return r"(?<!\w)(?<!\d[.,:/-])(?<![\s(]-)(?<!^-)"
    if token[0].isalpha():
        return r"(?<!\w)(?<!\w-)"
    return ""


def _right_edge(token: str) -> str:
    if token[-1].isdigit():
        return r"(?!\w)(?![.,:/-]\d)"
    if token[-1].isalpha():
        return r"(?!\w)(?!-\w)"
    return ""
