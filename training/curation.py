"""From ratings to training examples: every rated turn becomes an example, or a refusal with a reason that its rater can read.

Sources, strongest first: an answer that an admin verified; a correction; a thumbs-up whose answer a cited passage supports.
People do not type citations: the `[n]` of the passage that supports a correction is appended here. Near-duplicates are found
by their letters (rapidfuzz); a paraphrase that shares few words with its model is not.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from feedback.records import Message, Passage, RatedTurn
from feedback.support import as_read, best_support, laid_out, shown, support_share
from feedback.values import fold, states_value, without_citations
from feedback.wording import REFUSAL, cited_numbers, holds_refusal, is_refusal
from training.absent import says_absent
from training.example_checks import CountTokens, CurrentText, asks_sealed, outdated, personal, too_long

Source = Literal["verified", "correction", "thumbs_up", "seed", "starter", "general"]
"""The first three come from ratings; the others are rows that a night adds to them."""

WEIGHTS: Mapping[Source, float] = {
    "verified": 3.0, "correction": 2.0, "thumbs_up": 1.0, "seed": 1.0, "starter": 1.0, "general": 1.0
}  # fmt: skip
"""How likely an example is to be drawn when there are more than the time budget allows; also the order of strength."""
SAME_QUESTION = 95
"""Similarity in [0, 100] from which two questions with the same numbers are one question."""
RATERS_TO_CAP = 3
"""With fewer raters than this nobody's examples are capped: one of two has at least half of them."""

ABSENT_TAG = "should have refused"  # of feedback.records.REASONS: it says what the answer should have been, as a correction does

NOTHING_SAID = (
    "It has neither a thumbs-up nor a correction, so it does not say what the right answer is: write one to have it learned."
)
NO_PROMPT = "No model was asked for this answer (the documents were too far from the question), so there is nothing to train."
UNSUPPORTED = (
    "No passage of this answer supports the correction: write the value as the documents state it, or have the page added."
)
UNFINISHED = (
    "The answer was cut off, stopped or failed, so a rating of it says nothing to learn: write the whole answer as a correction."
)
BROKEN = ("failed", "interrupted")
"""Finish reasons of an answer that the machine broke off: what it should have been is only known when somebody writes it."""
STEPS = "The model looked for this answer by itself, with tools, which a night does not learn from yet."
NOT_CITED = "The answer cites no passage, so a thumbs-up on it is no target: write the right answer as a correction."
WRONG_CITATION = "The answer cites a passage that was not given to it: write the right answer as a correction."
BOTH = "The answer says that the documents do not answer, and answers: write what it should have been as a correction."
BARE_THUMB = "The passages that the answer cites do not support it: write the right answer as a correction."
EMPTY = "The correction holds no text besides citations: write the right answer."
SEALED = (
    "The question is one of the sealed examination's, or nearly: it is kept out of training so that the examination stays honest."
)
STRONGER = "A stronger answer to the same question says otherwise (an admin's, or a correction): that one is learned."
HELD = "Somebody else rated an answer to the same question differently: an admin has to decide, by correcting one of them."
CHANGED_MIND = "You gave another answer to the same question later: that one is learned."
DUPLICATE = "The same answer to the same question is learned already from another rating."


@dataclass(frozen=True, kw_only=True)
class Example:
    """One row to train on: the exact messages of a turn, and what should have come after them."""

    id: str
    prompt: tuple[Message, ...]
    completion: str
    source: Source
    turn_id: str
    user_id: str
    weight: float


def unrated(name: str, prompt: tuple[Message, ...], completion: str, source: Source) -> Example:
    """Return a row that stands behind no rating, with the weight of its source."""
    return Example(id=name, prompt=prompt, completion=completion, source=source, turn_id="", user_id="", weight=WEIGHTS[source])


@dataclass(frozen=True, kw_only=True)
class Refusal:
    """A rated turn that does not become an example, with the reason in a sentence for its rater."""

    turn_id: str
    user_id: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class Curated:
    """What curation made of the ratings: each rating is in one of the two lists, both oldest first."""

    examples: list[Example]
    refusals: list[Refusal]


@dataclass(frozen=True)
class _Candidate:
    place: int  # among the ratings, oldest first
    rated: RatedTurn
    source: Source
    completion: str

    @property
    def plain(self) -> str:
        return without_citations(self.completion)

    @property
    def refuses(self) -> bool:
        return self.completion == REFUSAL

    @property
    def rank(self) -> tuple[float, int]:
        """Strongest first, then newest."""
        return -WEIGHTS[self.source], -self.place

    @property
    def cited_chunks(self) -> set[int]:
        numbers = cited_numbers(self.completion)
        return {passage.chunk_id for passage in self.rated.turn.asked.passages if passage.number in numbers}

    @property
    def chunks(self) -> set[int]:
        return {passage.chunk_id for passage in self.rated.turn.asked.passages}


def curate(
    rated: Sequence[RatedTurn],
    *,
    sealed_questions: Sequence[str] = (),
    max_share: float = 0.5,
    max_chars: int = 600,
    min_chars: int = 1,
    count_tokens: CountTokens | None = None,
    max_tokens: int = 2048,
    current_text: CurrentText | None = None,
) -> Curated:
    """Turn ratings (oldest first) into examples and refusals.

    `max_chars` and `min_chars` limit a completion without its citations; `max_tokens` limits an example with its prompt, as
    `count_tokens` counts it (None: not checked). `max_share` of all that could be learned is the most that one person
    contributes, strongest and newest first, where there are at least three raters; what an admin verified is not counted.
    `current_text` gives the text of a document (by collection and name) as it stands now, None when it is gone: an example
    that cites a passage which no longer stands there is quarantined (None: not checked).
    """
    reasons: dict[int, str] = {}
    candidates: list[_Candidate] = []
    sealed = [fold(question) for question in sealed_questions]
    for place, one in enumerate(rated):
        try:
            candidate = _candidate(place, one)
        except _Unfit as unfit:
            reasons[place] = str(unfit)
            continue
        reason = _fault(candidate, max_chars=max_chars, min_chars=min_chars)
        reason = reason or outdated(candidate.completion, one.turn.asked.passages, current_text)
        reason = reason or (SEALED if asks_sealed(one, sealed) else None)
        reason = reason or too_long(one.turn.asked.messages, candidate.completion, count_tokens, max_tokens)
        if reason:
            reasons[place] = reason
        else:
            candidates.append(candidate)
    disliked = {
        (fold(one.turn.asked.question), fold(one.turn.answer.text))
        for one in rated
        if one.turn.answer and one.feedback.thumb == "down"
    }
    for group in _same_questions(candidates):
        reasons |= _settle(group, disliked)
    kept = _capped([candidate for candidate in candidates if candidate.place not in reasons], max_share, reasons)
    return Curated(
        examples=[_example(candidate) for candidate in kept],
        refusals=[
            Refusal(turn_id=rated[place].turn.id, user_id=rated[place].feedback.user_id, reason=reasons[place])
            for place in sorted(reasons)
        ],
    )


class _Unfit(Exception):
    """A rating that is no target. Its text is the reason."""


def _candidate(place: int, rated: RatedTurn) -> _Candidate:
    """Return what the rating would teach. Raises _Unfit."""
    feedback, asked, answer = rated.feedback, rated.turn.asked, rated.turn.answer
    correction = (feedback.correction or "").strip()
    absent = feedback.thumb == "down" and ABSENT_TAG in feedback.reasons
    if not correction and not absent and (feedback.thumb != "up" or answer is None):
        raise _Unfit(NOTHING_SAID)
    if not asked.messages:
        raise _Unfit(NO_PROMPT)
    if asked.sampling.get("plan") == "agent" or (answer is not None and answer.steps):
        raise _Unfit(STEPS)
    secret = personal(rated, correction or (answer.text if answer else ""))
    if secret:
        raise _Unfit(secret)
    source: Source = "verified" if feedback.verified else "correction"
    if correction:
        return _Candidate(place, rated, source, _corrected(correction, asked.passages, asked.question))
    if answer is None or answer.finish_reason in BROKEN:
        raise _Unfit(UNFINISHED)
    if absent:
        return _Candidate(place, rated, source, REFUSAL)
    if answer.finish_reason not in ("stop", "refused"):
        raise _Unfit(UNFINISHED)
    liked = _liked(answer.text, asked.passages, asked.question)
    return _Candidate(place, rated, "verified" if feedback.verified else "thumbs_up", liked)


def _corrected(correction: str, passages: Sequence[Passage], question: str) -> str:
    """Return a correction with the citation of the passage that supports it. Raises _Unfit."""
    plain = re.sub(r"[ \t]+([.,;:!?])", r"\1", re.sub(r"[ \t]+", " ", without_citations(correction))).strip()
    if not plain:
        raise _Unfit(EMPTY)
    if says_absent(plain) and not any(states_value(shown(passage), plain) for passage in passages):
        return REFUSAL
    # who did type a citation meant it, if that passage holds what he says
    named = [passage for passage in passages if passage.number in cited_numbers(correction)]
    support = best_support(plain, named, question) or best_support(plain, passages, question)
    if support is None:
        raise _Unfit(UNSUPPORTED)
    return f"{plain} [{support.number}]"


def _liked(answer: str, passages: Sequence[Passage], question: str) -> str:
    """Return an answer that was given a thumbs-up as it stands. Raises _Unfit."""
    text = answer.strip()
    if is_refusal(text):
        return REFUSAL
    if holds_refusal(text):
        raise _Unfit(BOTH)
    numbers = cited_numbers(text)
    cited = [passage for passage in passages if passage.number in numbers]
    if not numbers:
        raise _Unfit(NOT_CITED)
    if len(cited) < len(numbers):
        raise _Unfit(WRONG_CITATION)
    if support_share(text, "\n".join(shown(passage) for passage in cited), question) == 0:
        raise _Unfit(BARE_THUMB)
    return text


def _fault(candidate: _Candidate, *, max_chars: int, min_chars: int) -> str | None:
    """Return why a single candidate may not be learned, or None."""
    length = len(candidate.plain)
    if length > max_chars:
        return f"The answer has {length} characters, more than the {max_chars} that are learned: write it shorter."
    if length < min_chars:
        return f"The answer has {length} characters, fewer than the {min_chars} that are learned: write it out."
    return None


def _same_questions(candidates: Sequence[_Candidate]) -> list[list[_Candidate]]:
    """Group candidates by their question."""
    groups: dict[str, list[_Candidate]] = {}
    names = same_questions([candidate.rated.turn.asked.question for candidate in candidates])
    for name, candidate in zip(names, candidates, strict=True):
        groups.setdefault(name, []).append(candidate)
    return list(groups.values())


def same_questions(questions: Sequence[str]) -> list[str]:
    """Return, for each question, the first one that is the same: the same numbers, and nearly the same letters; folded."""
    from rapidfuzz import fuzz, process

    firsts: dict[tuple[str, ...], dict[str, None]] = {}
    names: list[str] = []
    for question in map(fold, questions):
        like = firsts.setdefault(tuple(re.findall(r"\d+", question)), {})
        found = process.extractOne(question, like.keys(), scorer=fuzz.ratio, score_cutoff=SAME_QUESTION)
        names.append(found[0] if found else question)
        like.setdefault(names[-1])
    return names


def _settle(group: list[_Candidate], disliked: set[tuple[str, str]]) -> dict[int, str]:
    """Settle what is said of one question: the stronger wins, equals that disagree are held, equals that agree are one."""
    reasons: dict[int, str] = {}
    kept: list[_Candidate] = []
    for candidate in sorted(group, key=lambda one: one.rank):
        rivals = [other for other in group if other is not candidate and _disagree(candidate, other)]
        if any(WEIGHTS[other.source] > WEIGHTS[candidate.source] for other in rivals):
            reasons[candidate.place] = STRONGER
            continue
        equals = [other for other in rivals if other.source == candidate.source]
        user = candidate.rated.feedback.user_id
        if any(other.rated.feedback.user_id == user and other.place > candidate.place for other in equals):
            reasons[candidate.place] = CHANGED_MIND
        elif any(other.rated.feedback.user_id != user and not _outdone(other, group) for other in equals) or (
            candidate.source == "thumbs_up" and _is_disliked(candidate, disliked)
        ):
            reasons[candidate.place] = HELD
        elif any(_agree(candidate, other) for other in kept):
            reasons[candidate.place] = DUPLICATE
        else:
            kept.append(candidate)
    return reasons


def _outdone(candidate: _Candidate, group: Sequence[_Candidate]) -> bool:
    """Say whether its own rater has taken a candidate back by a later one."""
    user = candidate.rated.feedback.user_id
    return any(
        other.source == candidate.source
        and other.rated.feedback.user_id == user
        and other.place > candidate.place
        and _disagree(candidate, other)
        for other in group
    )


def _is_disliked(candidate: _Candidate, disliked: set[tuple[str, str]]) -> bool:
    return (fold(candidate.rated.turn.asked.question), fold(candidate.completion)) in disliked


def _disagree(one: _Candidate, other: _Candidate) -> bool:
    """Say whether two answers to one question cannot both be right of what each was shown.

    A refusal and a value contradict each other only if the passage of the value was there to be read.
    """
    if one.refuses and other.refuses:
        return False
    if one.refuses or other.refuses:
        refusal, value = (one, other) if one.refuses else (other, one)
        return bool(value.cited_chunks & refusal.chunks)
    return bool(one.chunks & other.chunks) and not _agree(one, other)


def _agree(one: _Candidate, other: _Candidate) -> bool:
    if one.refuses or other.refuses:
        return one.refuses and other.refuses
    short, long = sorted((one.plain, other.plain), key=len)
    return fold(short) == fold(long) or support_share(short, long, one.rated.turn.asked.question) > 0


def _capped(candidates: list[_Candidate], max_share: float, reasons: dict[int, str]) -> list[_Candidate]:
    """Return the candidates within each person's cap, oldest first; the reasons for the others are added to `reasons`."""
    if len({candidate.rated.feedback.user_id for candidate in candidates}) < RATERS_TO_CAP:
        return candidates
    most = max(1, int(max_share * len(candidates)))
    counts: dict[str, int] = {}
    for candidate in sorted(candidates, key=lambda one: one.rank):
        if candidate.source == "verified":
            continue
        user = candidate.rated.feedback.user_id
        counts[user] = counts.get(user, 0) + 1
        if counts[user] > most:
            reasons[candidate.place] = (
                f"One person's ratings make at most {most} of {len(candidates)} examples: newer or stronger ones of yours are "
                "learned."
            )
    return [candidate for candidate in candidates if candidate.place not in reasons]


def _prompt(candidate: _Candidate) -> tuple[Message, ...]:
    """Return the messages of a turn; a cited passage whose lines in the prompt lack the answer stands there whole.

    An answer that nothing in its prompt says would teach to make answers up.
    """
    asked = candidate.rated.turn.asked
    *before, last = asked.messages
    content = last.content
    for passage in asked.passages:
        is_cited = passage.number in cited_numbers(candidate.completion)
        if is_cited and not support_share(candidate.plain, shown(as_read(passage)), asked.question):
            content = content.replace(laid_out(passage), laid_out(replace(passage, excerpt="")), 1)
    return (*before, replace(last, content=content))


def _example(candidate: _Candidate) -> Example:
    turn, user_id = candidate.rated.turn, candidate.rated.feedback.user_id
    digest = hashlib.sha256("\n".join((turn.id, user_id, candidate.completion)).encode()).hexdigest()
    return Example(
        id=digest[:16],
        prompt=_prompt(candidate),
        completion=candidate.completion,
        source=candidate.source,
        turn_id=turn.id,
        user_id=user_id,
        weight=WEIGHTS[candidate.source],
    )
