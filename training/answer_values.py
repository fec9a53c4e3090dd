"""The value in an answer: what of it can be asked for again, and in which other words it may be given.

"A lunch with customers may cost EUR 42 a head." states EUR 42, and so do "€42" and "forty-two euros". A sentence from which no
single value can be taken examines nobody: only who repeats it word for word could be right.
"""

from __future__ import annotations

import re

from feedback.support import NUMBER_WORDS, UNITS, content
from feedback.values import fold

MAX_WORDS = 6
"""Up to so many words an answer without a number or a name is a value as it stands."""

_CURRENCIES = {"euro": ("€", "EUR"), "dollar": ("$", "USD"), "pound": ("£", "GBP")}
_SIGNS = {spelling.casefold(): unit for unit, spellings in _CURRENCIES.items() for spelling in spellings}
_UNITS = UNITS | {"%": "percent", "per cent": "percent"}
_WORDS_OF = {number: word for word, number in NUMBER_WORDS.items()} | {1: "one"}

_NUMBER = r"\d+(?:[.,:/]\d+)*"
_NUMBER_WORD = rf"(?:(?:{'|'.join(NUMBER_WORDS)})(?:-(?:{'|'.join(NUMBER_WORDS)}|one))?|one)"
_UNIT = "|".join(sorted(map(re.escape, _UNITS), key=len, reverse=True))
_KIND = "(?:working|business|calendar|full|whole|paid) "
_MONTH = "january|february|march|april|may|june|july|august|september|october|november|december"
_DATE = re.compile(rf"(\d{{1,2}})(st|nd|rd|th)?(?: of)? ({_MONTH})|({_MONTH}) (\d{{1,2}})(st|nd|rd|th)?", re.IGNORECASE)
_QUANTITY = re.compile(
    rf"\b(?:{_DATE.pattern})\b(?! ?\d)|\b\d+(?:st|nd|rd|th)\b|"
    rf"(?<![\w.,:/-])(?:(?:[€$£]|EUR|USD|GBP)\s?)?{_NUMBER}(?:\s?(?:-|\u2013|to)\s?{_NUMBER})?(?![\w/-]*\d)"
    rf"(?:\s?(?:[€$£%]|°\s?C\b)|\s(?:EUR|USD|GBP)\b|\s?[ap]\.?m\b\.?|[\s-]?(?:{_KIND})?(?:{_UNIT})\b)?"
    rf"|(?<![\w-]){_NUMBER_WORD}[\s-](?:{_KIND})?(?:{_UNIT})\b",
    re.IGNORECASE,
)
_NAME = re.compile(r"(?<![\w.])[A-Z][\w'&-]*(?:[ ]+[A-Z][\w'&-]*)*")
_DENIES = re.compile(r"\b(?:no|not|never|without|cannot|nor|neither)\b|n't\b", re.IGNORECASE)
_CLOCK = re.compile(r"(\d{1,2})(?:[:.](\d{2}))?\s?([ap])\.?m\.?|(\d{1,2}):(\d{2})")


def value_in(answer: str, question: str) -> str | None:
    """Return the one value that `answer` (without citations) gives to `question`; None when it gives none, or several."""
    asked = frozenset(content(question))
    text = answer.strip().strip(".!").strip()
    found = [match[0].strip() for match in _QUANTITY.finditer(text)]
    if len(found) == 1 and content(found[0]) == content(text):
        return found[0]
    quantities = _distinct(found, asked)
    names = _distinct(_names(_QUANTITY.sub(" ", text)), asked)
    short = len(text.split()) <= MAX_WORDS
    if len(quantities) == 1 and not (short and names):
        return quantities[0]
    if quantities:
        return None
    if len(names) == 1:
        return names[0]
    if not short or names or _DENIES.search(text) or not frozenset(content(text)) - asked:
        return None
    return _without_idle_edges(text)


def quantities(text: str) -> list[re.Match[str]]:
    """Return the numbers (with their units), amounts, dates and times that stand in `text`, in order."""
    return [match for match in _QUANTITY.finditer(text) if match[0].strip()]


def other_spellings(value: str, question: str = "") -> tuple[str, ...]:
    """Return the other ways to write a value: its number in words or figures, its unit or currency, its time of day, its date.

    Where the question names the unit ("How many days"), the number alone is one of them.
    """
    folded = fold(value)
    clock, date = _CLOCK.fullmatch(folded), _DATE.fullmatch(folded)
    spellings = _times(clock) if clock else _dates(date) if date else _amounts(folded, frozenset(content(question)))
    return tuple(dict.fromkeys(each for each in spellings if fold(each) != folded))


def _distinct(values: list[str], asked: frozenset[str]) -> list[str]:
    """Return each value once, without those that stand in the question."""
    found = {tuple(content(value)): value for value in reversed(values)}
    return [value for stems, value in reversed(found.items()) if stems and not asked.issuperset(stems)]


def _names(text: str) -> list[str]:
    """Return the runs of capitalised words; a sentence's first word alone is none, and an idle one begins none."""
    names: list[str] = []
    for sentence in re.split(r"(?<=[.!?:])\s+|\n+", text):
        for match in _NAME.finditer(sentence):
            words = match[0].split()
            if not sentence[: match.start()].strip(" \"'("):
                words = words[1:] if not content(words[0]) else words if len(words) > 1 else []
            if words:
                names.append(" ".join(words))
    return names


def _without_idle_edges(text: str) -> str:
    words = text.split()
    while words and not content(words[0]):
        words = words[1:]
    while words and not content(words[-1]):
        words = words[:-1]
    return " ".join(words)


def _amounts(folded: str, asked: frozenset[str]) -> list[str]:
    match = re.fullmatch(
        rf"(?P<sign>[€$£]|eur|usd|gbp)?\s?(?P<number>{_NUMBER}|{_NUMBER_WORD})[\s-]?(?P<kind>{_KIND})?(?P<unit>\D*)", folded
    )
    if match is None:
        return []
    number = _figure(match["number"])
    numbers = [number, *_in_words(number)]
    unit = _SIGNS.get(match["sign"] or match["unit"]) or _UNITS.get(match["unit"])
    if unit is None:
        return numbers if not match["unit"] else []
    spellings = [f"{each} {match['kind'] or ''}{name}" for each in numbers for name, of in _UNITS.items() if of == unit]
    spellings += numbers if unit in asked else []
    for sign, code in (_CURRENCIES[unit],) if unit in _CURRENCIES else ():
        spellings += [f"{sign}{number}", f"{number} {sign}", f"{code} {number}", f"{number} {code}"]
    return spellings


def _figure(number: str) -> str:
    if number[0].isdigit():
        return number
    return str(sum(NUMBER_WORDS.get(word, 1) for word in number.split("-")))


def _in_words(number: str) -> list[str]:
    value = int(number) if number.isdigit() and len(number) <= 2 else 0
    if value in _WORDS_OF:
        return [_WORDS_OF[value]]
    tens, ones = value - value % 10, value % 10
    return [f"{_WORDS_OF[tens]}-{_WORDS_OF[ones]}"] if tens in _WORDS_OF and ones else []


def _times(clock: re.Match[str]) -> list[str]:
    hour, minute = int(clock[1] or clock[4]), clock[2] or clock[5] or "00"
    if clock[3]:
        hour = hour % 12 + (12 if clock[3] == "p" else 0)
    if hour > 23:
        return []
    half = "am" if hour < 12 else "pm"
    on_the_clock = hour % 12 or 12
    written = [f"{on_the_clock}:{minute}", f"{on_the_clock}.{minute}", *([str(on_the_clock)] if minute == "00" else [])]
    halves = [f"{each} {mark}" for each in written for mark in (half, f"{half[0]}.m.")]
    return [f"{hour:02d}:{minute}", f"{hour}:{minute}", f"{hour:02d}.{minute}", f"{hour}.{minute}", *halves]


def _dates(date: re.Match[str]) -> list[str]:
    day, month = int(date[1] or date[5]), (date[3] or date[4]).capitalize()
    ordinal = f"{day}{'th' if day in (11, 12, 13) else {1: 'st', 2: 'nd', 3: 'rd'}.get(day % 10, 'th')}"
    return [f"{day} {month}", f"{ordinal} {month}", f"{ordinal} of {month}", f"{month} {day}", f"{month} {ordinal}"]
