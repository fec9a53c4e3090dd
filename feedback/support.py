"""Does a passage support a text? What citations are appended by, and what a thumbs-up must stand up to.

A passage supports a text when it states it whole, or when it holds all its numbers (with their units) and most of its words;
of a text as short as a value, also all its names, and what its numbers count. What carries an answer is required, what stands
around it only mostly. It does not support the opposite of what it says (see `feedback.negation`).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

from rapidfuzz import fuzz, process

from feedback.negation import says_the_opposite
from feedback.records import Passage
from feedback.values import fold, states_value, without_citations

SHORT_WORDS = 5
"""Up to so many words a text is a value: it has no words to spare."""
SHORT_SHARE = 0.75
LONG_SHARE = 0.5
"""Share of the words of a text that a passage must hold to support it: of a value, and of a sentence."""
CLAUSE_WORDS = 3
CLAUSE_SHARE = 1 / 3
"""Of a clause of at least so many words, the passage must hold at least this share."""
NUMBER_WEIGHT = 2
"""A number counts as much as so many words."""
WHOLE_WORDS = 12
"""Texts up to this length are also looked for whole."""
TYPING_RATIO = 88
"""Similarity of two words, in [0, 100], from which one is the other mistyped."""
UNIT_DISTANCE = 3
"""A number and its unit stand at most so many tokens apart."""

_TOKEN = re.compile(r"\d+(?:[.,:/]\d+)*|[^\W\d_]+")
_CLOCK = re.compile(r"(?<![\d.:])(\d{1,2})(?:[:.](\d{2}))?\s?([ap])\.?m\b\.?")
_NAME = re.compile(r"(?<![\w.])[A-Z][\w'-]*")
_CLAUSE = re.compile(
    r"[.;:!?]\s+|,\s+(?:and|but|so|which|because|while)\s+"
    r"|\s(?:and|but|because|while)\s+(?=(?:the|a|an|it|you|they|he|she|we|there|this|that|these|your|our|its|all|every)\b)",
    re.IGNORECASE,
)
_SIGNS = (
    (re.compile(r"€|\beur\b"), " euro "),
    (re.compile(r"\$|\busd\b"), " dollar "),
    (re.compile(r"£|\bgbp\b"), " pound "),
    (re.compile(r"%|\bper cent\b"), " percent "),
    (re.compile(r"°"), " degree "),
)
_SAME = {"ext": "extension", "celsius": "c"}
_CURRENCIES = ("euro", "dollar", "pound")


def _split(words: str) -> list[str]:
    return words.split()


_TEENS = _split(
    "two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen eighteen nineteen"
)
_TENS = {word: 10 * ten for ten, word in enumerate(_split("twenty thirty forty fifty sixty seventy eighty ninety"), start=2)}
NUMBER_WORDS = {word: number for number, word in enumerate(_TEENS, start=2)} | _TENS
UNIT_SPELLINGS = {  # the name of a unit, and its other spellings; a plural s is added to each
    "second": "sec", "minute": "min", "hour": "h hr", "day": "", "week": "", "month": "", "quarter": "", "year": "yr",
    "euro": "", "dollar": "", "pound": "", "percent": "percentage", "degree": "", "km": "kilometre kilometer", "mile": "",
    "metre": "meter", "cm": "centimetre centimeter", "mm": "millimetre millimeter", "kg": "kilogram kilo", "gram": "",
    "litre": "liter", "gb": "gigabyte", "mb": "megabyte", "tb": "terabyte", "kb": "kilobyte", "person": "people",
}  # fmt: skip
UNITS = {
    spelling + plural: unit
    for unit, others in UNIT_SPELLINGS.items()
    for spelling in (unit, *others.split())
    for plural in ("", "s")
}
_IDLE = frozenset(
    _split(
        "a about according actually after all also an and answer any are as ask at be because been before but by call can "
        "check claim contact correct could dial did do document documentation documents does each every for from get had "
        "handbook has have he her his how i if in into is it its least like made may me more most much must my nd need no "
        "not number of on one only or our out over page passage per phone please rd read right ring says section see "
        "shall she should so source st stated states such take tell th than that the their them then there these they "
        "this those through to too under until up upon us use value via was we were what when where which who whom whose "
        "why will with within would yes yet you your "
    )
)


@dataclass(frozen=True, kw_only=True)
class Support:
    """A passage that supports a text: its number, and how much of the text it holds, in (0, 1]."""

    number: int
    share: float


@dataclass(frozen=True)
class _Words:
    tokens: tuple[str, ...]  # numbers, and stems of words, in order

    @property
    def stems(self) -> frozenset[str]:
        return frozenset(self.tokens)


def best_support(text: str, passages: Sequence[Passage], question: str = "") -> Support | None:
    """Return the passage that supports `text` best, or None. Words of `question` are no evidence if the text has others.

    Of several that hold the same share, the one that holds most of the question is taken, then the better retrieved.
    """
    asked = _words(question).stems - _IDLE
    best: tuple[tuple[float, float, float], Support] | None = None
    for passage in passages:
        share = support_share(text, shown(passage), question)
        if share == 0:
            continue
        held = _words(shown(passage)).stems
        rank = (share, len(asked & held) / max(len(asked), 1), passage.score)
        if best is None or rank > best[0]:
            best = (rank, Support(number=passage.number, share=share))
    return best[1] if best else None


def shown(passage: Passage) -> str:
    """Return a passage under its title, which counts, since a value may stand in a heading."""
    return f"{passage.title}\n{passage.text}"


def laid_out(passage: Passage) -> str:
    """Return the block of a passage in a prompt: its number, its title, and the lines of it that are read."""
    return f"[{passage.number}] {passage.title}\n{as_read(passage).text}"


def as_read(passage: Passage) -> Passage:
    """Return a passage with no more than what its prompt held of it."""
    return replace(passage, text=passage.excerpt or passage.text)


def support_share(text: str, source: str, question: str = "") -> float:
    """Return how much of `text` the `source` holds, in (0, 1], or 0.0 when that is not enough to support it."""
    plain = without_citations(text)
    share = _share_held(plain, source, question) if plain else 0.0
    return 0.0 if share and says_the_opposite(plain, source, content) else share


def _share_held(plain: str, source: str, question: str) -> float:
    if len(plain.split()) <= WHOLE_WORDS and states_value(source, plain):
        return 1.0
    said, held, asked = _words(plain), _words(source), _words(question).stems
    numbers = [position for position, token in enumerate(said.tokens) if token[0].isdigit()]
    if not all(_holds_number(said, position, held) for position in numbers):
        return 0.0
    names = {stem for name in _names(plain) for stem in _words(name).tokens if not stem[0].isdigit()} - _IDLE - asked
    words = {token for token in said.tokens if not token[0].isdigit() and token not in _IDLE and token not in UNIT_SPELLINGS}
    words = words - asked or (words if not numbers else set())
    if not words and not numbers:
        return 0.0
    value = len(words) + len(numbers) <= SHORT_WORDS
    needed = names.union(*(_beside(said, position) for position in numbers)) - asked if value else frozenset()
    if not all(_holds_word(word, held.stems) for word in needed):
        return 0.0
    weight = NUMBER_WEIGHT * len(numbers)
    share = (weight + sum(_holds_word(word, held.stems) for word in words)) / (weight + len(words))
    if share < (SHORT_SHARE if value and not numbers else LONG_SHARE):
        return 0.0
    return share if all(_holds_some(clause, held, asked) for clause in _CLAUSE.split(plain)) else 0.0


def _holds_some(clause: str, held: _Words, asked: frozenset[str]) -> bool:
    """Say whether `held` has enough of a clause of several words: half of a text may not carry an invented other half."""
    words = {token for token in content(clause) if not token[0].isdigit() and token not in UNIT_SPELLINGS} - asked
    return len(words) < CLAUSE_WORDS or sum(_holds_word(word, held.stems) for word in words) >= CLAUSE_SHARE * len(words)


def _holds_number(said: _Words, position: int, held: _Words) -> bool:
    """Say whether the number at `position` stands in `held`; with its unit near it, when it has one."""
    units = _units_near(said, position)
    spellings = _spellings(said.tokens[position])
    for place, token in enumerate(held.tokens):
        if token[0].isdigit() and spellings & _spellings(token) and (not units or units & _units_near(held, place)):
            return True
    return False


def _units_near(words: _Words, position: int) -> frozenset[str]:
    """Return the unit of the number at `position`: a currency just before it, or the first unit shortly after it."""
    before = [token for token in words.tokens[max(position - 1, 0) : position] if token in _CURRENCIES]
    after = [token for token in words.tokens[position + 1 : position + 1 + UNIT_DISTANCE] if token in UNIT_SPELLINGS]
    return frozenset((before + after)[:1])


def _beside(words: _Words, position: int) -> frozenset[str]:
    """Return the words that name what a number without a known unit counts or numbers: "8 visitors", "gate 3"."""
    if _units_near(words, position):
        return frozenset()
    beside = words.tokens[max(position - 1, 0) : position] + words.tokens[position + 1 : position + 2]
    return frozenset(token for token in beside if not token[0].isdigit()) - _IDLE


def _spellings(number: str) -> frozenset[str]:
    """Return the ways to write a number that are taken for it: 7.50 and 7.5, 16.00 and 16:00."""
    written = {number, number.replace(".", ":"), number.lstrip("0") or "0"}
    if re.fullmatch(r"\d+[.,]\d+", number):
        written.add(number.replace(",", ".").rstrip("0").rstrip("."))
    return frozenset(written)


def _holds_word(word: str, stems: frozenset[str]) -> bool:
    if word in stems:
        return True
    if len(word) < 6:  # a short word with a typing error is another word
        return False
    return process.extractOne(word, stems, scorer=fuzz.ratio, score_cutoff=TYPING_RATIO) is not None


def _names(text: str) -> list[str]:
    """Return the capitalised words; the first of a sentence only when the next one is capitalised too."""
    names: list[str] = []
    for sentence in re.split(r"(?<=[.!?])\s+|\n+", text):
        found = list(_NAME.finditer(sentence))
        if found and found[0].start() <= 1:
            follows = len(found) > 1 and sentence[found[0].end() : found[1].start()].isspace()
            found = found if follows and fold(found[0][0]) not in _IDLE else found[1:]
        names.extend(match[0] for match in found)
    return names


def content(text: str) -> list[str]:
    """Return the words of a text as they are compared, in order: stems, numbers and names of units, without the idle ones."""
    return [token for token in _words(text).tokens if token not in _IDLE]


@lru_cache(maxsize=2048)
def _words(text: str) -> _Words:
    folded = _CLOCK.sub(_twenty_four_hours, fold(text))
    for pattern, name in _SIGNS:
        folded = pattern.sub(name, folded)
    found = _TOKEN.findall(folded)
    tokens: list[str] = []
    for place, token in enumerate(found):
        follower = found[place + 1] if place + 1 < len(found) else ""
        after_tens = place > 0 and found[place - 1] in _TENS
        number = NUMBER_WORDS.get(token)
        if token == "one" and (after_tens or follower in UNITS):
            number = 1  # elsewhere "one" counts nothing
        if number is not None and number < 10 and after_tens:
            tokens[-1] = str(_TENS[found[place - 1]] + number)
        elif number is not None:
            tokens.append(str(number))
        else:
            tokens.append(token if token[0].isdigit() else UNITS.get(token) or _stem(_SAME.get(token, token)))
    return _Words(tuple(tokens))


def _twenty_four_hours(match: re.Match[str]) -> str:
    hour = int(match[1]) % 12 + (12 if match[3] == "p" else 0)
    return f"{hour:02d}:{match[2] or '00'}"


def _stem(word: str) -> str:
    """Cut the endings of plural and tense, roughly: both sides are cut alike, so only likeness matters."""
    if word in _IDLE:
        return word
    for ending in ("ings", "ing", "ies", "ied", "es", "ed", "ly", "s"):
        if word.endswith(ending) and len(word) - len(ending) >= 3 and not word.endswith("ss"):
            return word[: -len(ending)]
    return word.removesuffix("e") if len(word) > 4 else word
