"""Is something said of a page, or its opposite? A "not" before the same word turns a statement round, whatever else agrees."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence

from feedback.values import fold

_AFTER = re.compile(r"(?:[\s-]+[^\W_]+(?:[.,:/]\d+)*)*")
_BEFORE = re.compile(r"(?:[^\W_]+(?:[.,:/]\d+)*[\s-]+)*$")
_WORD = re.compile(r"[^\W_]+(?:[.,:/]\d+)*")
_NEGATION = re.compile(r"(?<![\w-])(?:not|no|never|without|nor|neither|nobody|none)(?![\w-])")
_DENYING = frozenset(
    _WORD.findall(
        "nothing nowhere forbid forbids forbidden prohibit prohibits prohibited ban bans banned refuse refuses refused deny "
        "denied exclude excludes excluded impossible unless except only fail fails lack lacks free"
    )
)
"""Words by which a page can deny without a "not"."""
_AUXILIARIES = frozenset(
    _WORD.findall("is are was were be may can could must should shall will would do does did has have had need needs")
)
_VALUE_WORDS = 4
"""Up to so many words without a verb, a text is a value: what is said of it stands in the question."""
_SPELLED_OUT = (
    (re.compile(r"\bcan't\b|\bcannot\b"), "can not"),
    (re.compile(r"\bwon't\b"), "will not"),
    (re.compile(r"n't\b"), " not"),
    (re.compile(r"\bno longer\b(?! than)"), "not"),
)
_LIMIT = re.compile(  # "no more than 3", "may not cost over 3" set a limit, as "not only" does not deny
    r"\b(?:no|not|never)(?:"
    r"(?: (?!\w+ed\b)\w+){0,2} (?:(?:more|less|fewer|longer|later|earlier|higher|lower|further|sooner|greater|larger) than\b"
    r"|exceed\w*)"
    r"|(?: (?:be|go|cost|weigh|last|take|rise|run|stay|come))? (?:above|over|below|under|beyond) (?=\W*(?:\w{3} )?\d)"
    r"|(?= only\b))"
)
_ANSWERING_NO = re.compile(r"^\W*no\b(?=\s*(?:[,;:.!]|\s-|$))", re.IGNORECASE)
_PREFACE = re.compile(r"^(?:it is|it's|that is|this is|they are|(?:the )?answer is):? ")
_STATING = re.compile(r"\w(?:ed|able|ible)\b")
_BLOCK = re.compile(r"\n\s*(?=\n|[-*|#>+]|\d+[.)]\s)")  # an empty line, an item, a row of a table, a heading
_SENTENCE = re.compile(r"(?<=[.!?:;])\s+")
_CLAUSE = re.compile(r",?\s+(?:but|whereas|while|however|though|although|unlike)\s+|,\s+(?=not\b)")

Stems = Callable[[str], Sequence[str]]
"""Cuts a text into the words that are compared, in order, without the idle ones."""


def says_the_opposite(text: str, source: str, stems: Stems) -> bool:
    """Say whether a sentence of `text` is negated where the sentence of `source` that holds most of it is not, or reversely.

    A value ("on Sundays") is not compared: what it is said of stands in the question. "No, ..." answers, and negates nothing.
    """
    held = _sentences(source)
    return any(_turned(said, held, stems) for said in _sentences(_ANSWERING_NO.sub("", text)) if not _is_value(said))


def _is_value(sentence: str) -> bool:
    value = _PREFACE.sub("", sentence)
    words = _WORD.findall(value)
    states = _NEGATION.search(value) or _STATING.search(value) or _AUXILIARIES.intersection(words)
    return len(words) <= _VALUE_WORDS and not states


def _turned(sentence: str, held: Sequence[str], stems: Stems) -> bool:
    words = frozenset(stems(sentence))
    clauses = [clause for each in held for clause in _CLAUSE.split(each)]
    # of a sentence in two halves, of which one denies, the half may be meant or the whole
    nearest = [*_nearest(words, held, stems), *_nearest(words, clauses, stems)]
    return bool(nearest) and all(_differ(sentence, words, each, stems) for each in nearest)


def _nearest(words: frozenset[str], parts: Sequence[str], stems: Stems) -> list[str]:
    """Return the parts that hold most of the words; none when no part holds any."""
    counts = [len(words.intersection(stems(part))) for part in parts]
    most = max(counts, default=0)
    return [part for part, count in zip(parts, counts, strict=True) if count == most] if most else []


def _differ(sentence: str, words: frozenset[str], other: str, stems: Stems) -> bool:
    shared = words.intersection(stems(other))
    ours, theirs = set(_negated(sentence, stems)), set(_negated(other, stems))
    only_ours, only_theirs = (ours - theirs) & shared, (theirs - ours) & shared
    if only_ours and only_theirs:  # "no dogs are allowed" and "dogs are not allowed" are one
        return False
    denied = _NEGATION.search(other) or _DENYING.intersection(_WORD.findall(other))
    return bool(only_ours or only_theirs or (ours and not denied))


def _negated(sentence: str, stems: Stems) -> Iterator[str]:
    """Yield what each negation of a sentence stands before, or after at the end of a phrase. Numbers are not compared."""
    for negation in _NEGATION.finditer(sentence):
        after = _AFTER.match(sentence, negation.end())
        before = _BEFORE.search(sentence, 0, negation.start())
        found = (stems(after[0]) if after else ())[:1] or (stems(before[0]) if before else ())[-1:]
        yield from (stem for stem in found if not stem[0].isdigit())


def _sentences(source: str) -> list[str]:
    return [part for block in _BLOCK.split(source) for part in _SENTENCE.split(_spelled_out(fold(block))) if part]


def _spelled_out(folded: str) -> str:
    for pattern, words in _SPELLED_OUT:
        folded = pattern.sub(words, folded)
    return _LIMIT.sub(" ", folded)
