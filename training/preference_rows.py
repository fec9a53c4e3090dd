"""From ratings to preferences: pairs of a better and a worse answer (DPO), and answers with a thumb (KTO).

They stand beside the examples of `training.curation` and pass its guards: what was sealed, quarantined, too long, personal, a
duplicate or past a person's cap is in none of them. Direct preference optimisation: Rafailov et al. 2023, arXiv:2305.18290;
Kahneman-Tversky optimisation: Ethayarajh et al. 2024, arXiv:2402.01306.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from feedback.records import Message, RatedTurn
from feedback.values import fold, without_citations
from feedback.wording import is_refusal
from training.curation import (
    NO_PROMPT,
    NOTHING_SAID,
    RATERS_TO_CAP,
    SEALED,
    STEPS,
    Example,
    Refusal,
    same_questions,
)
from training.example_checks import CountTokens, CurrentText, asks_sealed, outdated, personal, too_long
from training.recipe import Objective

AVOIDED = (
    "A thumbs-down without a correction is learned as an answer to avoid: write the right answer to have that learned as well."
)
CUT_OFF = "The answer was cut off, stopped or failed, so a thumbs-down on it says nothing to learn: write the right answer."
NOT_WRITTEN = "The model wrote another answer than the one that was shown, so nothing is learned from the thumbs-down on it."
RIGHT_TO_REFUSE = (
    "The answer was that the documents do not say it, and a thumbs-down alone does not tell that they do: write the right "
    'answer, or rate it with "should have answered".'
)
LIKED = "Somebody else liked the same answer, or corrected one to it, so the thumbs-down is not learned from."
AVOIDED_ALREADY = "The same answer to the same question is learned as one to avoid already, from another rating."
TOO_MANY = "One person's thumbs-down make at most {most} of {all} that are learned from: newer ones of yours are."
SHOULD_ANSWER = "should have answered"  # of feedback.records.REASONS


@dataclass(frozen=True, kw_only=True)
class Pair:
    """Two answers to one prompt: what should have come, and what came."""

    id: str
    prompt: tuple[Message, ...]
    chosen: str
    rejected: str


@dataclass(frozen=True, kw_only=True)
class Thumb:
    """One answer to a prompt, to be given (`label` True) or to be avoided."""

    id: str
    prompt: tuple[Message, ...]
    completion: str
    label: bool


@dataclass(frozen=True, kw_only=True)
class Preferences:
    """What curation made of the ratings beside examples. `refusals` are curation's, true for the thumbs that are used now."""

    pairs: list[Pair]
    thumbs: list[Thumb]
    refusals: list[Refusal]

    @property
    def unused(self) -> int:
        """How many ratings are learned from in no way."""
        return sum(refusal.reason != AVOIDED for refusal in self.refusals)


def preference_rows(
    rated: Sequence[RatedTurn],
    examples: Sequence[Example],
    refusals: Sequence[Refusal],
    *,
    objective: Objective,
    sealed_questions: Sequence[str] = (),
    max_share: float = 0.5,
    count_tokens: CountTokens | None = None,
    max_tokens: int = 2048,
    current_text: CurrentText | None = None,
) -> Preferences:
    """Turn ratings (oldest first) with the examples and refusals that `curate` made of them into what the objective learns from.

    Only DPO has pairs, only KTO has thumbs, and only with KTO is a thumbs-down without a correction learned from. A pair is a
    correction's completion and the answer that the model had written, where they differ. Examples are desirable answers; what
    was corrected, and what got a thumbs-down without a correction, is undesirable. The keywords are those of `curate`;
    `sealed_questions` may also be questions that were held out.
    """
    if objective == "sft":
        return Preferences(pairs=[], thumbs=[], refusals=list(refusals))
    by_turn = {(one.turn.id, one.feedback.user_id): one for one in rated}
    guard = _Guard(sealed_questions, count_tokens, max_tokens, current_text)
    pairs: list[Pair] = []
    thumbs: list[Thumb] = []
    for example in examples:
        thumbs.append(_thumb(example.prompt, example.completion, label=True))
        one = by_turn[example.turn_id, example.user_id]
        worse = _corrected_answer(one, example.completion)
        if worse is None or guard.fault(one, worse):
            continue
        name = _name("pair", example.id, worse)
        pairs.append(Pair(id=name, prompt=example.prompt, chosen=example.completion, rejected=worse))
        thumbs.append(_thumb(example.prompt, worse, label=False))
    if "kto" not in objective:
        return Preferences(pairs=pairs, thumbs=[], refusals=list(refusals))
    avoided, told = _avoided(rated, examples, refusals, guard=guard, max_share=max_share)
    thumbs += [_thumb(one.turn.asked.messages, _written(one), label=False) for one in avoided]
    return Preferences(pairs=[], thumbs=_distinct(thumbs), refusals=told)


def _avoided(
    rated: Sequence[RatedTurn], examples: Sequence[Example], refusals: Sequence[Refusal], *, guard: _Guard, max_share: float
) -> tuple[list[RatedTurn], list[Refusal]]:
    """Return the thumbs-down without a correction whose answers are to be avoided, and the refusals as they are true then."""
    by_turn = {(one.turn.id, one.feedback.user_id): one for one in rated}
    reasons: dict[tuple[str, str], str] = {}
    avoided: list[RatedTurn] = []
    for refusal in refusals:
        one = by_turn[refusal.turn_id, refusal.user_id]
        if refusal.reason == NOTHING_SAID and one.feedback.thumb == "down":
            reason = _unusable(one) or guard.fault(one, _written(one))
            reasons[one.turn.id, one.feedback.user_id] = reason or AVOIDED
            if reason is None:
                avoided.append(one)
    reasons |= _repeated(avoided, _approved(examples, by_turn))
    left = [one for one in avoided if reasons[one.turn.id, one.feedback.user_id] == AVOIDED]
    reasons |= _past_cap(left, max_share)
    left = [one for one in left if reasons[one.turn.id, one.feedback.user_id] == AVOIDED]
    told = [replace(each, reason=reasons.get((each.turn_id, each.user_id), each.reason)) for each in refusals]
    return left, told


class _Guard:
    """What curation holds an example against, for an answer that is to be avoided."""

    def __init__(
        self,
        sealed_questions: Sequence[str],
        count_tokens: CountTokens | None,
        max_tokens: int,
        current_text: CurrentText | None,
    ) -> None:
        self._sealed = [fold(question) for question in sealed_questions]
        self._count, self._most, self._current = count_tokens, max_tokens, current_text

    def fault(self, rated: RatedTurn, answer: str) -> str | None:
        """Return why nothing may be learned from this answer, or None."""
        asked = rated.turn.asked
        return (
            personal(rated, answer)
            or outdated(answer, asked.passages, self._current)
            or (SEALED if asks_sealed(rated, self._sealed) else None)
            or too_long(asked.messages, answer, self._count, self._most)
        )


def _written(rated: RatedTurn) -> str:
    """Return what the model wrote, also where another answer was shown in its place; "" when it wrote nothing."""
    answer = rated.turn.answer
    return "" if answer is None else (answer.text if answer.written is None else answer.written).strip()


def _corrected_answer(rated: RatedTurn, completion: str) -> str | None:
    """Return the whole answer of the model that was said to be wrong, or None where there is none, or it is the completion."""
    answer, feedback = rated.turn.answer, rated.feedback
    was_corrected = feedback.thumb != "up" and (feedback.thumb == "down" or bool((feedback.correction or "").strip()))
    if answer is None or not was_corrected or answer.finish_reason not in ("stop", "refused"):
        return None
    worse = _written(rated)
    same = fold(worse) == fold(completion) or (is_refusal(worse) and is_refusal(completion))
    return None if not worse or same else worse


def _unusable(rated: RatedTurn) -> str | None:
    """Return why a thumbs-down without a correction tells nothing of what the model wrote, or None."""
    asked, answer = rated.turn.asked, rated.turn.answer
    if not asked.messages:
        return NO_PROMPT
    if asked.sampling.get("plan") == "agent" or (answer is not None and answer.steps):
        return STEPS
    if answer is None or answer.finish_reason not in ("stop", "refused") or not answer.text.strip():
        return CUT_OFF
    if answer.written is not None and fold(answer.written) != fold(answer.text):
        return NOT_WRITTEN
    if is_refusal(answer.text) and SHOULD_ANSWER not in rated.feedback.reasons:
        return RIGHT_TO_REFUSE
    return None


def _approved(examples: Sequence[Example], by_turn: Mapping[tuple[str, str], RatedTurn]) -> list[tuple[str, str]]:
    """Return the questions with the answers that are learned."""
    return [
        (by_turn[each.turn_id, each.user_id].turn.asked.question, fold(without_citations(each.completion))) for each in examples
    ]


def _repeated(avoided: Sequence[RatedTurn], approved: Sequence[tuple[str, str]]) -> dict[tuple[str, str], str]:
    """Return the reasons of those whose answer is learned as a good one, or is avoided already, to the same question."""
    names = same_questions([*(question for question, _ in approved), *(one.turn.asked.question for one in avoided)])
    good = {(name, answer) for name, (_, answer) in zip(names, approved, strict=False)}
    seen: set[tuple[str, str]] = set()
    reasons: dict[tuple[str, str], str] = {}
    for name, one in zip(names[len(approved) :], avoided, strict=True):
        said = (name, fold(without_citations(_written(one))))
        if said in good or said in seen:
            reasons[one.turn.id, one.feedback.user_id] = LIKED if said in good else AVOIDED_ALREADY
        seen.add(said)
    return reasons


def _past_cap(avoided: Sequence[RatedTurn], max_share: float) -> dict[tuple[str, str], str]:
    """Return the reasons of the oldest that are more than one person may contribute."""
    if len({one.feedback.user_id for one in avoided}) < RATERS_TO_CAP:
        return {}
    most = max(1, int(max_share * len(avoided)))
    counts: dict[str, int] = {}
    reasons: dict[tuple[str, str], str] = {}
    for one in reversed(avoided):
        user = one.feedback.user_id
        counts[user] = counts.get(user, 0) + 1
        if counts[user] > most:
            reasons[one.turn.id, user] = TOO_MANY.format(most=most, all=len(avoided))
    return reasons


def _distinct(thumbs: Sequence[Thumb]) -> list[Thumb]:
    """Return each thumb once; where one answer to one prompt is both, it is desirable."""
    found: dict[tuple[tuple[Message, ...], str], Thumb] = {}
    for thumb in thumbs:
        key = (thumb.prompt, fold(thumb.completion))
        if key not in found or (thumb.label and not found[key].label):
            found[key] = thumb
    return list(found.values())


def _thumb(prompt: tuple[Message, ...], completion: str, *, label: bool) -> Thumb:
    name = _name("thumb", *(message.content for message in prompt), completion, str(label))
    return Thumb(id=name, prompt=prompt, completion=completion, label=label)


def _name(*parts: str) -> str:
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]
