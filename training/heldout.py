"""Questions for the examination: a sample of the sealed ones, or a fifth of the rated facts where a company has none."""

from __future__ import annotations

import hashlib
import itertools
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from feedback.records import Turn
from feedback.support import content
from feedback.values import fold, states_value, without_citations
from feedback.wording import REFUSAL, cited_numbers
from training.answer_values import other_spellings, value_in
from training.curation import Example, same_questions
from training.questions import QuestionRow

HELD_OUT = 5
"""One rated fact in this many is held out."""


def sample_by_fact(rows: Sequence[QuestionRow], *, limit: int, seed: int) -> list[QuestionRow]:
    """Return about `limit` questions: the first wording of as many facts as fit, then second wordings, and so on.

    Answerable facts and others come in the proportion of `rows`. The choice is stable for a seed.
    """
    wordings: dict[str, list[QuestionRow]] = {}
    for row in rows:
        wordings.setdefault(row.fact, []).append(row)
    chosen: list[QuestionRow] = []
    for answerable in (True, False):
        kind = [each for each in wordings.values() if each[0].answerable is answerable]
        random.Random(seed).shuffle(kind)
        share = round(limit * len(kind) / max(1, len(wordings)))
        rounds = itertools.chain.from_iterable(itertools.zip_longest(*kind))
        chosen.extend(itertools.islice((row for row in rounds if row is not None), share))
    return chosen


@dataclass(frozen=True)
class _Case:
    """A curated example with what can be asked of it. `value` is None for a refusal, and where no single value can be taken."""

    example: Example
    turn: Turn
    documents: tuple[str, ...]  # that the completion cites
    value: str | None
    fact: str

    @property
    def can_examine(self) -> bool:
        """Whether it asks something that an answer in other words can be right on; a follow-up hangs on what was said before."""
        is_whole = self.value is not None and bool(self.documents)
        return (is_whole or self.example.completion == REFUSAL) and not self.turn.asked.history

    def row(self) -> QuestionRow:
        question = self.turn.asked.question
        spellings = () if self.value is None else other_spellings(self.value, question)
        return QuestionRow(
            id=self.example.turn_id,
            fact=self.fact,
            question=question,
            answer=self.value or "",
            accepted=spellings,
            sources=self.documents if self.value else (),
            collection=self.turn.asked.collection,
        )


def hold_out(examples: Sequence[Example], turns: Mapping[str, Turn]) -> tuple[list[Example], list[QuestionRow]]:
    """Split curated examples into what is trained on and questions that examine, by facts.

    A fact is a value on a page, in all its wordings, or a question that the documents do not answer. A fifth of the facts is
    drawn, by the fact alone, so that the next nights draw the same. Nothing of these is trained on: no wording, no
    conversation in which one of the questions was asked, no other answer that gives the value away. Only what asks for a
    single value examines.
    """
    facts: dict[str, list[_Case]] = {}
    cases = [_case(example, turns[example.turn_id]) for example in examples]
    for case in cases:
        facts.setdefault(case.fact, []).append(case)
    drawn = [
        group
        for fact, group in facts.items()
        if int(hashlib.sha256(fact.encode()).hexdigest(), 16) % HELD_OUT == 0 and any(case.can_examine for case in group)
    ]
    held = {case.example.id for group in drawn for case in group}
    rows = [row for group in drawn for row in _wordings(group)]
    rest = [case for case in cases if case.example.id not in held]
    asks = _asks_one_of(rest, [row.question for row in rows])
    kept = [case.example for case, asked in zip(rest, asks, strict=True) if not asked and not _gives_away(case, rows)]
    return kept, rows


def _case(example: Example, turn: Turn) -> _Case:
    numbers = cited_numbers(example.completion)
    documents = tuple(dict.fromkeys(passage.document for passage in turn.passages if passage.number in numbers))
    question = turn.asked.question
    value = None if example.completion == REFUSAL else value_in(without_citations(example.completion), question)
    if value is not None and documents:
        stems = sorted(set(content(value)))
        # figures alone where there are any: units are left out or put in as one likes
        fact = f"{documents[0]}: {' '.join([stem for stem in stems if stem[0].isdigit()] or stems)}"
    else:
        fact = " ".join(sorted(set(content(question)))) or fold(question)
    return _Case(example, turn, documents, value, fact)


def _wordings(group: Sequence[_Case]) -> list[QuestionRow]:
    """Return each question of a fact once, as the strongest example answers it, the strongest first."""
    rows: dict[str, QuestionRow] = {}
    for case in sorted((case for case in group if case.can_examine), key=lambda case: -case.example.weight):
        rows.setdefault(fold(case.turn.asked.question), case.row())
    return list(rows.values())


def _asks_one_of(cases: Sequence[_Case], questions: Sequence[str]) -> list[bool]:
    """Say, for each case, whether it asks one of the questions, or one was asked earlier in the conversation of its prompt."""
    asked = [
        [case.turn.asked.question, *(message.content for message in case.example.prompt[:-1] if message.role == "user")]
        for case in cases
    ]
    names = iter(same_questions([*questions, *itertools.chain.from_iterable(asked)]))
    held = set(itertools.islice(names, len(questions)))
    return [not held.isdisjoint(list(itertools.islice(names, len(each)))) for each in asked]


def _gives_away(case: _Case, rows: Sequence[QuestionRow]) -> bool:
    """Say whether a completion states a value that is asked for, with its page before it."""
    answer, shown = without_citations(case.example.completion), {passage.document for passage in case.turn.passages}
    return any(states_value(answer, value) for row in rows if not shown.isdisjoint(row.sources) for value in row.values)
