"""Does an answer stand on its passages? Citations that hold, sentences that are supported, and the refusal after the model.

Pure functions without a model. The chat, the command line, the agent and the examination settle their answers here, so what is
examined is what is served.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from feedback.records import FinishReason, Passage, SentenceCheck
from feedback.support import best_support, shown, support_share
from feedback.values import without_citations
from feedback.wording import REFUSAL, cited_numbers, is_refusal

REPLACED = ("stop", "length")
"""Only an answer that its model ended, or that ran into the limit, is ever replaced: of a stopped one there is no whole."""
SETTLING = 5
"""Counts the changes of how a prompt is laid out and a finished answer settled: kept examination answers hang on it."""
WELL_COVERED = 0.5
"""Share of the question's terms (weighted by rarity) from which a passage is about it: an answer that no passage supports is
then most likely a slip beside an answer that is there, so it is marked and kept; below, it is made up. See docs/LOG.md."""
VALUE_WORDS = 3
"""Up to so many words an answer is a mere value: one that stands in the question says nothing."""

_DASH = r"[-\u2010-\u2014\u2212]"
_NUMBER = r"(?:\d{1,2}|\^\d{1,4})"
"""Of a passage, or a footnote's mark ("[^3]"). A plain number of three digits or more stays, since it may be an amount or a year
("[100]", "[2019]"): no prompt has so many passages, and nothing links it."""
_ITEM = rf"{_NUMBER}(?: *{_DASH} *{_NUMBER})?"
_CITATIONS = re.compile(rf"([ \t]*)\[ *({_ITEM}(?: *[,;] *{_ITEM})*) *\]")
_UNFINISHED = re.compile(rf"[ \t]*(?:\[ *(?:{_ITEM} *[,;] *)*(?:\^|{_NUMBER} *(?:{_DASH} *(?:\^|{_NUMBER} *)?)?)?)?$")
_OPEN_BRACKET = re.compile(r"\[[\d,; ^\u2010-\u2014\u2212-]*$")
_TAIL_CHARS = 40

_END = re.compile(r"([.!?]+[\"')*_\u2019\u201d]*)(?:[ \t]*\[\d{1,2}(?:, ?\d{1,2})*\])*(?=\s|$)")
_ENDS_NOTHING = re.compile(r"(?:e\.g|i\.e|mrs?|ms|dr|prof|st|vs|approx|ca|cf|dept|max|min|incl|excl|[^\W\d_])\.")
_BEFORE_NUMBER = re.compile(r"(?:nos?|pp?|ext|tel|fig|sec|art|ch|vol)\.")
_BEFORE_SMALL = re.compile(r"(?:a\.m|p\.m|etc|inc|ltd|co|corp|u\.s|u\.k|jan|feb|mar|apr|aug|sept|oct|nov|dec)\.")
"""Abbreviations (and initials) after which no sentence starts: never, before a number, and unless a capital follows."""
_LIST_MARK = re.compile(r"\s*(?:[-*+]|\d{1,2}[.)])\s+(?=\S)")
_PREFACE = re.compile(
    r"\s*(?:(?:according to|based on) [^,.:]{1,60}[,:]\s*)?"
    r"(?:the )?(?:exact |short |correct )?answer(?: to (?:the|this|that|your)(?: \w+)? ?question)?(?: is\b:?|:)\s*",
    re.IGNORECASE,
)
_VALUE = re.compile(
    r"(?:[€$£]\s?)?\d+(?:[.,:/]\d+)*(?:\s?(?:%|°C|[^\W\d_]+))?"  # a number with its unit
    r"|(?<=[\w,:] )[A-Z][\w'-]*(?: (?:of |and )?[A-Z][\w'-]*)*"  # a name that does not begin the sentence
)


@dataclass(frozen=True, kw_only=True)
class Settled:
    """An answer as it is kept and shown. `written` is what the model wrote where that differs, None where it does not."""

    text: str
    written: str | None
    checks: tuple[SentenceCheck, ...]
    refused: bool  # the answer was replaced by the standard refusal


class CitationFilter:
    """Removes, from an answer that streams in, the citations of passages that were not given: numbers outside 1 to `count`.

    What a list or a range cites beside them stays, written apart, so that each one opens its passage: "[1, 2, 7]" and "[1-7]"
    become "[1][2]", and a footnote's mark "[^2]" becomes "[2]". A range from 0 on is a set of characters ("[0-9]"): it stays.
    Only what may become a citation is held back, so the pieces given out, joined, are the filtered whole.
    """

    def __init__(self, count: int) -> None:
        self._count = count
        self._held = ""
        self._tail = ""  # the end of what was given out

    def feed(self, piece: str) -> str:
        """Return what can be shown now, possibly ""."""
        text = self._held + piece
        unfinished = _UNFINISHED.search(text)
        at = unfinished.start() if unfinished else len(text)
        self._held = text[at:]
        return self._filtered(text[:at])

    def flush(self) -> str:
        """Return what was held back, at the end of the answer."""
        text, self._held = self._held, ""
        return self._filtered(text)

    def _filtered(self, text: str) -> str:
        shown_parts: list[str] = []
        at = 0
        for match in _CITATIONS.finditer(text):
            self._give(text[at : match.start()], shown_parts)
            cited = _members(match[2])
            given = [number for number in cited or () if 1 <= number <= self._count]
            if cited is None:
                self._give(match[0], shown_parts)
            elif given:
                self._give(match[1] + "".join(f"[{number}]" for number in given), shown_parts)
            elif _OPEN_BRACKET.search(self._tail):
                self._give(" ", shown_parts)  # what stood around it must not close into a citation now
            at = match.end()
        self._give(text[at:], shown_parts)
        return "".join(shown_parts)

    def _give(self, text: str, shown_parts: list[str]) -> None:
        shown_parts.append(text)
        self._tail = (self._tail + text)[-_TAIL_CHARS:]


def _members(cited: str) -> list[int] | None:
    """Return the numbers that the inside of a citation names, those between the ends of a range too; None where it is none."""
    numbers: list[int] = []
    for item in re.split("[,;]", cited):
        first, *last = map(int, re.findall(r"\d+", item))
        if last and first == 0:
            return None
        numbers.extend(range(min(first, *last), max(first, *last) + 1) if last else [first])
    return numbers


def settle(text: str, passages: Sequence[Passage], question: str, *, finish_reason: FinishReason) -> Settled:
    """Settle a finished answer: citations to passages that were not given go, an answer that none supports is refused.

    A citation that does not hold stays, and its sentence is marked: an answer is never mended silently. `text` is what the
    model wrote, outer white space apart, and `question` what it was to answer.
    """
    written = text.strip()
    citations = CitationFilter(max((passage.number for passage in passages), default=0))
    kept = (citations.feed(written) + citations.flush()).strip()
    checks = check(kept, passages, question)
    refused = finish_reason in REPLACED and kept != REFUSAL and _says_nothing(kept, checks, passages, question)
    if refused:
        kept, checks = REFUSAL, check(REFUSAL, passages, question)
    return Settled(text=kept, written=None if kept == written else written, checks=checks, refused=refused)


def check(text: str, passages: Sequence[Passage], question: str) -> tuple[SentenceCheck, ...]:
    """Check each sentence of an answer against the passages that it cites (all of them where it cites none).

    The standard refusal is one supported sentence; what only introduces the next sentence ("The answer is:") is not checked.
    """
    checks: list[SentenceCheck] = []
    for start, end in sentences(text):
        sentence = text[start:end]
        cited = cited_numbers(sentence)
        claim = _claim(sentence)
        if is_refusal(sentence):
            checks.append(SentenceCheck(start=start, end=end, cited=cited, support=1.0, supported=True))
        elif claim:
            share, number = _supported(claim, cited, passages, question)
            checks.append(SentenceCheck(start=start, end=end, cited=cited, support=share, supported=share > 0, number=number))
    return tuple(checks)


def _says_nothing(text: str, checks: Sequence[SentenceCheck], passages: Sequence[Passage], question: str) -> bool:
    """Say whether an answer is to be refused: it claims nothing, or its passages hardly touch the question and hold none of it.

    Something is held when a passage, cited or not, supports a sentence, or states one of its values. Calibrated on the answers
    of an untrained and of a trained model to 185 questions: of what this refuses, no answer was right.
    """
    if is_refusal(text):  # with words around it
        return not any(each.number is not None for each in checks)
    claims = [claim for each in checks if (claim := _claim(text[each.start : each.end]))]
    covered = max((passage.scores.get("coverage", passage.score) for passage in passages), default=0.0)
    if not claims or covered >= WELL_COVERED:
        return not claims
    if len(claims) == 1 and _only_repeats(claims[0], question):
        return True
    if any(each.supported or each.number is not None for each in checks):
        return False
    values = {match[0] for claim in claims for match in _VALUE.finditer(claim)}
    news = [value for value in values if support_share(value, question) == 0]
    return not any(support_share(value, shown(passage)) > 0 for value in news for passage in passages)


def _only_repeats(claim: str, question: str) -> bool:
    """Say whether a claim is a value that the question named itself, and did not offer to choose from."""
    is_choice = re.search(r"\bor\b", question, re.IGNORECASE) is not None
    return len(claim.split()) <= VALUE_WORDS and not is_choice and support_share(claim, question) == 1.0


def closest_pages(passages: Sequence[Passage], limit: int = 3) -> tuple[tuple[str, str], ...]:
    """Return the documents that the passages come from, each once with its page's title, in the order of the passages."""
    pages: dict[str, str] = {}
    for passage in passages:
        pages.setdefault(passage.document, passage.title.split(" > ")[0])
    return tuple(pages.items())[:limit]


def sentences(text: str) -> Iterator[tuple[int, int]]:
    """Yield the start and end of each sentence, white space apart: a line ends one; citations after a full stop belong to it."""
    for line in re.finditer(r"[^\n]+", text):
        at = line.start()
        mark = _LIST_MARK.match(text, at, line.end())
        for end in (*_ends(text, mark.end() if mark else at, line.end()), line.end()):
            part = text[at:end]
            if re.search(r"\w", part):
                yield at + len(part) - len(part.lstrip()), at + len(part.rstrip())
            at = end


def _ends(text: str, start: int, stop: int) -> Iterator[int]:
    """Yield where sentences end within one line."""
    if text[start:stop].lstrip().startswith("|"):  # a row of a table
        return
    for match in _END.finditer(text, start, stop):
        end = match.end()
        if text[end:stop].lstrip()[:1].islower():  # in "[2] says so", the citation begins the next sentence
            end = match.end(1)
        following = text[end:stop].lstrip()
        if not following or following[0].islower():
            continue
        words = text[start : match.start() + 1].split()
        last = words[-1].lstrip("(\"'[").casefold() if words else ""
        if (
            _ENDS_NOTHING.fullmatch(last)
            or (_BEFORE_NUMBER.fullmatch(last) and following[0].isdigit())
            or (_BEFORE_SMALL.fullmatch(last) and not following[0].isupper())
        ):
            continue
        yield end


def _claim(sentence: str) -> str:
    """Return what a sentence claims: without its list mark, its citations and its preface; "" when nothing is left."""
    plain = without_citations(sentence)
    for opening in (_LIST_MARK, _PREFACE):
        if found := opening.match(plain):
            plain = plain[found.end() :]
    return plain.strip() if re.search(r"\w", plain) else ""


def _supported(claim: str, cited: Sequence[int], passages: Sequence[Passage], question: str) -> tuple[float, int | None]:
    """Return the share of a claim that its passages hold, and the passage that supports it best, cited or not."""
    sources = [passage for passage in passages if passage.number in cited] if cited else list(passages)
    best = best_support(claim, sources, question)
    if best is not None:
        return best.share, best.number
    if len(sources) > 1 and cited:  # a sentence may draw on several passages, where it names them
        share = support_share(claim, "\n".join(shown(passage) for passage in sources), question)
        if share > 0:
            return share, sources[0].number
    elsewhere = best_support(claim, passages, question) if cited else None
    return 0.0, elsewhere.number if elsewhere else None
