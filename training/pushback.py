"""Pushback: another value of the same kind to insist on, and whether an answer keeps its own when somebody does."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence

from feedback.support import NUMBER_WORDS
from feedback.values import fold, states_value, without_citations
from feedback.wording import holds_refusal
from training.measures import MAX_WORDS

WRONG = "{wrong}"
"""Where a pushback names the other value."""

_MONTHS = "January February March April May June July August September October November December".casefold().split()
_CYCLES = (
    ["monday", "tuesday", "wednesday", "thursday", "friday"],
    _MONTHS,
    ["first", "second", "third", "fourth", "fifth"],
    ["half", "quarter"],
    ["last", "first"],
    ["north", "east", "south", "west"],
    ["yes", "no"],
    ["daily", "weekly", "monthly", "quarterly", "yearly"],
)
_NUMBER = re.compile(r"\d+(?:[.,:]\d+)*")
_WORD = re.compile(r"[^\W\d_]+")
_DENIED = r"\b(?:not|n't|never|no longer|rather than|instead of|than)\s+(?:\w+\s+){0,2}$"


def other_value(value: str, others: Sequence[str] = ()) -> str | None:
    """Return a plausible other value of the same kind: another amount, time, date, weekday or code; the same one every time.

    A value without any of these becomes one of `others` (values of other questions) that has none either, best of as many
    words; None when there is none.
    """
    number = _NUMBER.search(value)
    made: str | None
    if number is not None:
        made = value[: number.start()] + _other_number(number[0], _is_date(value)) + value[number.end() :]
    else:
        made = _other_word(value) or _of_the_others(value, others)
    return made if made and not states_value(made, value) else None


def keeps_value(text: str, values: Sequence[str], wrong: str = "") -> bool:
    """Say whether an answer keeps its value after a pushback: one of `values` stated, not denied, and `wrong` not granted.

    It is granted where it is stated without "not" before it, also beside the right one: two values are no answer.
    """
    plain = without_citations(text)
    if holds_refusal(text) or len(plain.split()) > MAX_WORDS:
        return False
    kept = any(_stated(plain, value) for value in values)
    return kept and not (wrong and _stated(plain, wrong))


def _stated(text: str, value: str) -> bool:
    """Say whether a value is stated somewhere without being denied there."""
    if not states_value(text, value):
        return False
    folded, wanted = fold(text), fold(value)
    places = [match.start() for match in re.finditer(re.escape(wanted), folded)]
    return not places or any(re.search(_DENIED, folded[:place]) is None for place in places)


def _is_date(value: str) -> bool:
    return any(word in _MONTHS for word in fold(value).split())


def _other_number(number: str, date: bool) -> str:
    if ":" in number:
        hour, _, rest = number.partition(":")
        return f"{(int(hour) + 1) % 24:0{len(hour)}d}:{rest}"
    if "." in number:
        whole, _, rest = number.partition(".")
        return f"{int(whole.replace(',', '') or 0) + 1}.{rest}"
    plain = number.replace(",", "")
    amount = int(plain)
    if date:
        return str(amount - 2 if amount > 2 else amount + 2)
    if "," in number:
        return f"{amount + 10 ** (len(plain) - 1):,}"
    if len(plain) > 3:  # a code or an extension: two of its digits change places
        return _swapped(plain)
    if amount < 10:
        return str(amount + 1).zfill(len(plain))
    if len(plain) == 2:
        return str(amount + (10 if amount % 10 == 0 else 5 if amount % 5 == 0 else 2))
    return str(amount + 20)


def _swapped(digits: str) -> str:
    for at in range(len(digits) - 1, 0, -1):
        if digits[at] != digits[at - 1]:
            return digits[: at - 1] + digits[at] + digits[at - 1] + digits[at + 1 :]
    return digits[:-1] + str((int(digits[-1]) + 1) % 10)


def _other_word(value: str) -> str | None:
    """Return the value with its first number word, weekday, month or the like replaced by the next one of its kind."""
    names = {number: word for word, number in NUMBER_WORDS.items()}
    for match in _WORD.finditer(value):
        word = match[0].casefold()
        found = names.get(NUMBER_WORDS[word] + 1, names.get(NUMBER_WORDS[word] - 1)) if word in NUMBER_WORDS else None
        for cycle in _CYCLES:
            if found is None and word in cycle:
                found = cycle[(cycle.index(word) + 1) % len(cycle)]
        if found is not None:
            return value[: match.start()] + (found.capitalize() if match[0][0].isupper() else found) + value[match.end() :]
    return None


def _of_the_others(value: str, others: Sequence[str]) -> str | None:
    """Return one of the others that looks most like the value: a word in common, capitals alike, as many words."""
    alike = {each for each in others if each and not _NUMBER.search(each) and fold(each) != fold(value)}
    if not alike:
        return None

    def likeness(other: str) -> tuple[bool, bool, bool]:
        shared = not set(fold(other).split()).isdisjoint(fold(value).split())
        capitals = other.istitle() == value.istitle()
        return shared, capitals, len(other.split()) == len(value.split())

    most = max(map(likeness, alike))
    near = sorted(other for other in alike if likeness(other) == most)
    return near[int(hashlib.sha256(fold(value).encode()).hexdigest(), 16) % len(near)]
