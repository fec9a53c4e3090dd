"""A sentence that holds exactly one value becomes a question for it, by a few rules of English word order.

"A Lockgate link expires after 21 days." gives "After how many days does a Lockgate link expire?" and 21 days. Where no rule fits
there is no question: few good ones teach more than many odd ones.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from feedback.support import UNITS
from training.answer_values import quantities
from training.english import AUXILIARIES, BASES, BEFORE_NOUNS, CLAUSES, VERBS, ordered, small, to_me, words_of

MOST_WORDS = 26
"""Words of a question at most."""
MOST_CHARS = 400
"""A longer sentence is not looked at."""

_UNBOUND = words_of("it they them this these those he she him there here such above below former latter ones whatever")
_UNBOUND_ONE = re.compile(r"\b(?:the|a|an|every|each|this|that|further|other|new|own|first|second|last) one\b")
_LEADING = re.compile(r"(?:If|When|After|Before|Once|Where|While|During|For|In|On|At|With|Without|From|Until)\b")
_PREPOSITIONS = words_of("within after for in on at by before from until below above over under with since during to through")
_LIMITS = (
    *("up to", "at least", "at most", "no more than", "not more than", "no later than", "no earlier than", "more than"),
    *("less than", "fewer than", "no less than", "a maximum of", "a minimum of"),
)
_DROPPED = (
    *("only", "about", "exactly", "another", "just", "as many as", "around", "roughly", "nearly", "almost"),
    *("a total of", "a further"),
)
_NEVER_BEFORE = BEFORE_NOUNS | words_of("these those all and or than between worth either both")
_NUMBERED = words_of(
    "room version step stage form phase level section page gate door hall chamber zone line grade band class rank type",
    "building floor bay dock unit model number no article clause paragraph chapter part port channel extension",
)
"""After one of these a number is a name."""
_EMAIL = re.compile(r"[\w.+-]+@[\w-]+(?:\.[\w-]+)+")
_EXTENSION = re.compile(r"\b(?:ext(?:ension|\.)?) (\d{2,6})\b", re.IGNORECASE)
_TAILS = (
    re.compile(r"'(?:s|(?= ))"),
    re.compile(r" (?:off|ahead|in advance|apart|earlier|later|old|long|deep|high|away|notice|running|in a row)\b"),
    re.compile(
        r" of (?:(?:the|their|its|a|an|your|his|her|that|any) )?[\w'-]+(?: [\w'-]+)?"
        r"(?= (?:on|in|at|for|by|from|before|after|with|without|to|is|are|may|can|must|will|and|or|when|if|unless)\b|[,;]|$)"
    ),
    re.compile(r" (?:on|in) (?:the|your|their|a) [\w'-]+$"),
)
_TIME_TAIL = re.compile(
    r" (?:before|after) (?:(?:the|their|its|a|an|your) )?[\w'-]+(?: [\w'-]+){0,3}?(?= (?:to|and|or|for|through|in|on)\b|[,;]|$)"
    r"| (?:before|after) [\w' -]{3,60}$"
)
_FOR_EACH = re.compile(r" (?:a|an|per|each|every) [a-z]+(?: hour)?\b")
_CLOCK = re.compile(r"\d{1,2}[:.]\d{2}(?:\s?[ap]\.?m\.?)?|\d{1,2}\s?[ap]\.?m\.?", re.IGNORECASE)
_MONTH = re.compile(r"January|February|March|April|May|June|July|August|September|October|November|December")
ROLE_NOUNS = (
    "Manager|Officer|Lead|Leader|Coordinator|Director|Adviser|Advisor|Counsel|Steward|Technician|Owner|Clerk|Supervisor|"
    "Controller|Administrator|Partner|Secretary|Engineer|Nurse|Doctor|Accountant|Registrar|Buyer|Planner|Chair|President|Warden|"
    "Desk|Team|Department|Committee|Council|Office"
)
_ROLE = re.compile(
    rf"\b[Tt]he ((?:[A-Z][\w&-]* (?:and (?=[A-Z]))?)*(?:{ROLE_NOUNS})\b(?: of(?: the)? [A-Z]\w+)?"
    r"|(?:Head|Chief|Director) of(?: the)? [A-Z]\w+(?: [A-Z]\w+)*)"
)
_NAMED = re.compile(r"\b[Tt]he ([a-z]+(?: [a-z]+){0,3}), ((?:Dr |Mr |Mrs |Ms )?[A-Z][\w'-]+ [A-Z][\w'-]+)(?=[,.]|$)")


@dataclass(frozen=True)
class ValueQuestion:
    """A question with the value that answers it, and other spellings that count."""

    question: str
    answer: str
    accepted: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Value:
    """A value in a sentence: where it stands, what asks for it, and how it is spelled. `phrase` begins with a small letter."""

    start: int
    end: int
    phrase: str
    answer: str
    accepted: tuple[str, ...] = ()
    needs: tuple[str, ...] = ()  # one of these words must come right before it


def question_of(sentence: str, names: frozenset[str] = frozenset()) -> ValueQuestion | None:
    """Return the question that a sentence answers with its only value, or None.

    `names` are words that keep their capital letter wherever they stand.
    """
    if len(sentence) > MOST_CHARS:
        return None
    text = re.sub(r"\s*\([^()]*\)", "", sentence).strip().rstrip(".!").strip()
    named = _NAMED.search(text)
    if named and not quantities(text):
        return ValueQuestion(f"Who is the {named[1]}?", named[2])
    for clause in text.split("; "):
        made = _of_clause(clause, names)
        if made is not None:
            return made
    return None


def _of_clause(clause: str, names: frozenset[str]) -> ValueQuestion | None:
    value = _only_value(clause)
    if value is None or re.search(r"[:\"\u201c\u201d?]", clause[: value.start] + clause[value.end :]):
        return None
    clause, condition, value = _main_clause(clause, value)
    phrase, start = _with_words_before(clause, value)
    if phrase is None:
        return None
    after = clause[value.end :]
    moved = _moved_with(phrase, after)
    rest = _up_to_next_clause(after[len(moved) :], whole=phrase == "who")
    if rest.startswith((" of ", " million", " billion", " thousand")) or clause[: value.start].endswith(
        ("\u00b1", "~", "<", ">")
    ):
        return None
    asked = ordered(small(clause[:start].strip(), names), f"{phrase}{to_me(moved)}", rest.strip())
    if asked is None:
        return None
    question = " ".join(f"{asked} {condition}".split())
    words = re.findall(r"[\w'-]+", question.casefold())
    if len(words) > MOST_WORDS or len(words) < 4 or _UNBOUND.intersection(words) or _UNBOUND_ONE.search(question):
        return None
    return ValueQuestion(question[0].upper() + question[1:] + "?", value.answer, value.accepted)


def _only_value(text: str) -> _Value | None:
    """Return the one value of a clause, None when there is none, or several, or none that can be asked for."""
    mails = list(_EMAIL.finditer(text))
    extensions = list(_EXTENSION.finditer(text))
    numbers = [
        match
        for match in quantities(text)
        if not any(each.start() <= match.start() < each.end() for each in (*mails, *extensions))
    ]
    if len(mails) + len(extensions) + len(numbers) > 1:
        return None
    if mails:
        return _Value(*mails[0].span(), "which e-mail address", mails[0][0], needs=("to", "at", "from"))
    if extensions:
        return _Value(*extensions[0].span(), "which extension", extensions[0][1], (extensions[0][0],), needs=("on", "at", "to"))
    if numbers:
        return _of_number(text, numbers[0])
    roles = list(_ROLE.finditer(text))
    if len(roles) != 1:
        return None
    role = roles[0]
    if role.start() == 0:
        return _Value(*role.span(), "who", role[1])
    return _Value(*role.span(), "whom", role[1], needs=("by", "to", "from", "with"))


def _of_number(text: str, match: re.Match[str]) -> _Value | None:
    start, end = match.span()
    value = match[0].strip()
    end = start + len(match[0].rstrip())
    before, after = text[:start].split(), text[end:]
    if after[:1] in ("-", "/") or (before and (before[-1].casefold() in _NUMBERED or before[-1].endswith("-"))):
        return None
    if _MONTH.search(value):
        return _Value(start, end, "what date", value, needs=("on", "by", "before", "until", "from", "after", "since"))
    if _CLOCK.fullmatch(value):
        return _Value(start, end, "what time", value, needs=("at", "from", "until", "by", "before", "after"))
    if re.search(r"[€$£]|EUR|USD|GBP", value) or re.search(r"\b(?:euros?|dollars?|pounds?)$", value):
        return _Value(start, end, "how much", value)
    if re.search(r"%$|\bper ?cent$", value):
        return _Value(start, end, "what percentage", value)
    unit = re.search(r"[A-Za-z]+$", value)
    if unit and unit[0].casefold() in UNITS and not re.search(r"\d\s?(?:-|to)\s?\d", value):
        kind = re.search(r"\b(working|business|calendar|full|whole|paid)\b", value)
        many = unit[0] if len(unit[0]) < 3 or unit[0].endswith("s") or unit[0] == "people" else f"{unit[0]}s"
        return _Value(start, end, f"how many {kind[0] + ' ' if kind else ''}{many}", value)
    counted = re.match(
        r" ((?!(?:of|in|to|and|or|more|at|on|for|by|per|a|an|the|less|times)\b)[a-z-]+ )?([a-z]{3,}s)\b(?!')", after
    )
    if (
        re.fullmatch(r"\d{1,3}(?:,\d{3})*", value)
        and counted
        and not counted[2].endswith("ss")
        and counted[2] not in ("is", "was", "has")
    ):
        noun = counted[0].strip()
        if counted[1] and counted[1].strip() in AUXILIARIES | BASES | VERBS.keys():
            return None
        return _Value(start, end + counted.end(), f"how many {noun}", f"{value} {noun}", (value,))
    return None


def _moved_with(phrase: str, after: str) -> str:
    """Return what follows a value and goes with it to the front of the question: "days of leave", "weeks before the visit"."""
    moved = ""
    for tail in _TAILS[:3]:
        found = tail.match(after[len(moved) :])
        moved += found[0] if found else ""
    if moved.lstrip().startswith("of ") and (place := _TAILS[3].match(after[len(moved) :])):
        moved += place[0]
    if re.match(r"(?:\w+ (?:to|least|most|\w+ than) )?how many", phrase) and (time := _TIME_TAIL.match(after[len(moved) :])):
        moved += time[0]
    if phrase.split()[0] in _PREPOSITIONS and "how much" in phrase and (each := _FOR_EACH.match(after[len(moved) :])):
        moved += each[0]
    return moved


def _main_clause(clause: str, value: _Value) -> tuple[str, str, _Value]:
    """Part a condition that stands before the main clause from it: returns the clause, the condition, the value in the clause."""
    head, comma, rest = clause.partition(", ")
    if not comma or not _LEADING.match(head) or value.start < len(head) + 2:
        return clause, "", value
    cut = len(clause) - len(rest)
    moved = _Value(value.start - cut, value.end - cut, value.phrase, value.answer, value.accepted, value.needs)
    return rest, head[0].lower() + head[1:], moved


def _with_words_before(clause: str, value: _Value) -> tuple[str | None, int]:
    """Return what asks for the value, with the preposition or the limit before it, and where that begins; None: cannot be."""
    before = clause[: value.start].rstrip()
    phrase = value.phrase
    words = before.casefold()
    for dropped in _DROPPED:
        if re.search(rf"(?:^|\s){dropped}$", words):
            before = before[: -len(dropped)].rstrip()
            words = before.casefold()
            phrase = phrase.replace("how many", "how many more") if dropped in ("another", "a further") else phrase
    if re.search(r"(?:^|\s)every$", words):
        return None, 0
    for limit in _LIMITS:
        if re.search(rf"(?:^|\s){limit}$", words):
            phrase, before = f"{limit} {phrase}", before[: -len(limit)].rstrip()
            words = before.casefold()
    last = words.rpartition(" ")[2]
    if last == "of":
        named = re.search(r"\b(?:a|an|the) ((?:[a-z-]+ )?[a-z]+) of$", before)
        if named is None or clause[value.end :].startswith((" of", "'")) or phrase.startswith(("who", "which")):
            return None, 0
        phrase, before = f"what {named[1]}", before[: named.start()].rstrip()
        limit = next((each for each in _LIMITS if before.casefold().endswith(f" {each}")), "")
        if limit:
            phrase, before = f"{limit} {phrase}", before[: -len(limit)].rstrip()
        last = before.rpartition(" ")[2]
        return (f"{last} {phrase}", len(before) - len(last)) if last in _PREPOSITIONS else (phrase, len(before))
    if last in _PREPOSITIONS:
        if value.needs and last not in value.needs:
            return None, 0
        return f"{last} {phrase}", len(before) - len(last)
    if value.needs or last in _NEVER_BEFORE or re.search(r"\b(?:a|an|the) \S+$", words):
        return None, 0
    return phrase, len(before)


def _up_to_next_clause(rest: str, *, whole: bool) -> str:
    """Return what follows the value up to the next clause; a condition at the end stays, and with `whole` a relative clause."""
    cut = CLAUSES.search(rest)
    if cut is None or (cut[0] in ("if", "when", "unless") and "," not in rest):
        return rest
    if whole:
        return re.split(r"[,;]|\b(?:and|but|so|because|while)\b", rest)[0]
    return rest[: cut.start()]
