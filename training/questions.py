"""Files of questions: what an examination asks, and what the demo's employees ask and correct from.

One JSON object a line:

    {"id": "travel-flights-03", "fact": "travel/flights/seat-class", "question": "...", "answer": "€140",
     "accepted": ["140 euros"], "sources": ["travel/flights.md"]}

A row without sources is one that the documents do not answer. All wordings of one fact share its `fact`.
"""

from __future__ import annotations

import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from feedback.errors import DocumentError
from feedback.records import Message, Passage
from feedback.values import states_value
from feedback.wording import MAX_QUESTION_CHARS

FAULTS_SHOWN = 5
"""How many faults of one file an error names before it only counts them."""


@dataclass(frozen=True, kw_only=True)
class QuestionRow:
    """One question with what counts as its answer. `extra` holds the other text fields of its row, to group by."""

    id: str
    fact: str  # the id when the row names no fact: then it stands alone
    question: str
    answer: str = ""  # "" when the documents do not answer it (or when the file does not say how: see load_questions)
    accepted: tuple[str, ...] = ()  # other spellings of the answer
    sources: tuple[str, ...] = ()  # documents that hold the answer: paths below the documents folder; none: unanswerable
    near_miss: str = ""  # a document that speaks of the subject without answering
    history: tuple[Message, ...] = ()
    collection: str = ""  # of the documents that are asked; "": all of them
    lost: tuple[str, ...] = ()  # what the answer was before its pages were taken away
    extra: Mapping[str, str] = field(default_factory=dict, hash=False)

    @property
    def answerable(self) -> bool:
        """Whether the documents answer it."""
        return bool(self.sources)

    @property
    def values(self) -> tuple[str, ...]:
        """Every spelling of the answer that counts, the answer itself first; empty when unanswerable."""
        return (self.answer, *self.accepted) if self.answer else ()


def load_questions(path: Path, *, group: str = "fact", answers: bool = True) -> list[QuestionRow]:
    """Read a file of questions; `group` names the field that wordings of one fact share.

    With `answers` False a row may have sources without an answer: enough to measure what a search finds.
    Raises DocumentError, naming the file and every faulty line (the first few), also for a file without questions.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except OSError as error:
        raise DocumentError(f"The questions {path} cannot be read ({error.strerror}): name a JSONL file.") from error
    except UnicodeDecodeError as error:
        raise DocumentError(f"The questions {path} are not UTF-8 text (byte {error.start}): save them as UTF-8.") from error
    rows: list[QuestionRow] = []
    faults: list[str] = []
    lines_by_id: dict[str, int] = {}
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            row = _parse_row(line, group=group, answers=answers)
        except ValueError as error:
            faults.append(f"line {number}: {error}")
            continue
        first = lines_by_id.setdefault(row.id, number)
        if first != number:
            faults.append(f"line {number}: the id {row.id!r} is taken by line {first}")
            continue
        rows.append(row)
    if faults:
        more = f"; and {len(faults) - FAULTS_SHOWN} more" if len(faults) > FAULTS_SHOWN else ""
        raise DocumentError(f"The questions {path} have faults: {'; '.join(faults[:FAULTS_SHOWN])}{more}. Mend those lines.")
    if not rows:
        raise DocumentError(f"The questions {path} hold no question: write one JSON object a line.")
    return rows


def split_by(
    rows: Sequence[QuestionRow], field_name: str, share: float, seed: int = 0
) -> tuple[list[QuestionRow], list[QuestionRow]]:
    """Split whole groups of rows into (kept, held out), with `share` in (0, 1) of the groups held out.

    Answerable and unanswerable groups are split apart, so both halves get their share of each. A row that named no fact
    takes its group as its fact, so that wordings are never counted as facts. Raises DocumentError for a field that
    rows lack, and for a split that leaves one half empty.
    """
    groups: dict[tuple[bool, str], list[QuestionRow]] = {}
    for row in rows:
        value = _group_of(row, field_name)
        named = replace(row, fact=value) if row.fact == row.id else row
        groups.setdefault((row.answerable, value), []).append(named)
    keys: set[tuple[bool, str]] = set()
    for answerable in (True, False):
        names = sorted(key for key in groups if key[0] is answerable)
        random.Random(seed).shuffle(names)
        keys.update(names[: round(len(names) * share)])
    # a group with both kinds of rows would stand in both halves: the answerable rows decide
    for answerable, value in groups:
        if not answerable and (True, value) in groups:
            (keys.add if (True, value) in keys else keys.discard)((False, value))
    kept = [row for key, group in groups.items() if key not in keys for row in group]
    held_out = [row for key, group in groups.items() if key in keys for row in group]
    if not kept or not held_out:
        raise DocumentError(
            f"{len(groups)} groups by {field_name!r} cannot be split with a share of {share}: one half would be empty."
        )
    return kept, held_out


def _group_of(row: QuestionRow, field_name: str) -> str:
    if field_name == "fact":
        return row.fact
    if field_name == "page" and "page" not in row.extra:
        return next(iter(row.sources), row.near_miss) or row.id
    if field_name not in row.extra:
        known = ", ".join(["fact", "page", *sorted(row.extra)])
        raise DocumentError(f"The question {row.id!r} has no field {field_name!r} to split by; it has {known}.")
    return row.extra[field_name]


def _parse_row(line: str, *, group: str, answers: bool) -> QuestionRow:
    try:
        data = json.loads(line)
    except json.JSONDecodeError as error:
        raise ValueError(f"not JSON ({error.msg} at column {error.colno})") from error
    if not isinstance(data, dict):
        raise ValueError(f"a JSON object was expected, not {type(data).__name__}")
    question = _text(data, "question", required=True)
    if len(question) > MAX_QUESTION_CHARS:
        raise ValueError(f"the question has {len(question)} characters, more than {MAX_QUESTION_CHARS}")
    row_id = _text(data, "id", required=True)
    accepted = _texts(data, "accepted")
    answer = _text(data, "answer") or next(iter(accepted), "")
    sources = tuple(clean_source(source) for source in _texts(data, "sources"))
    if answer and not sources:
        raise ValueError("it has an answer but no sources: name the documents that hold it")
    if sources and not answer and answers:
        raise ValueError("it has sources but no answer: give the answer, or leave the sources empty")
    known = {"id", "question", "answer", "accepted", "sources", "near_miss", "history", "collection", "lost", "fact", group}
    return QuestionRow(
        id=row_id,
        fact=_text(data, group) or _text(data, "fact") or row_id,
        question=question,
        answer=answer,
        accepted=tuple(value for value in accepted if value != answer),
        sources=sources,
        near_miss=clean_source(_text(data, "near_miss")),
        history=_history(data),
        collection=_text(data, "collection"),
        lost=tuple(_texts(data, "lost")),
        extra={key: value for key, value in data.items() if key not in known - {group} and isinstance(value, str)},
    )


def take_pages_away(rows: Sequence[QuestionRow], share: float, *, seed: int = 0) -> tuple[list[QuestionRow], list[str]]:
    """Make about `share` of the facts unanswerable by leaving pages out of the documents.

    Returns the rows, those that only these pages answer without an answer, and the pages to leave out.
    """
    by_page: dict[str, set[str]] = {}
    for row in rows:
        for page in row.sources:
            by_page.setdefault(clean_source(page), set()).add(row.fact)
    wanted = round(len({row.fact for row in rows}) * share)
    pages = sorted(by_page)
    random.Random(seed).shuffle(pages)
    gone: set[str] = set()
    facts: set[str] = set()
    for page in pages:
        if len(facts) >= wanted:
            break
        if len(facts | by_page[page]) <= max(wanted + 1, 1):
            gone.add(page)
            facts |= by_page[page]
    # a fact with another page that stays is still answered
    changed: list[QuestionRow] = []
    for row in rows:
        left = tuple(source for source in row.sources if clean_source(source) not in gone)
        is_lost = bool(row.sources) and not left
        changed.append(without_answer(row) if is_lost else replace(row, sources=left))
    return changed, sorted(gone)


def without_answer(row: QuestionRow) -> QuestionRow:
    """Return an answerable row as one whose pages are taken away; it keeps its values as `lost`."""
    return replace(row, answer="", accepted=(), sources=(), lost=row.values)


def is_said_elsewhere(row: QuestionRow, passages: Sequence[Passage]) -> bool:
    """Say whether passages state what was lost with a row's pages: to refuse it then is as right as to answer."""
    return any(states_value(passage.text, value) for value in row.lost for passage in passages)


def clean_source(path: str) -> str:
    """Return a document path as passages name it: forward slashes, no leading "./" or "/"."""
    return path.strip().replace("\\", "/").removeprefix("./").lstrip("/")


def _text(data: dict[str, Any], key: str, *, required: bool = False) -> str:
    value = data.get(key)
    if value is None and not required:
        return ""
    if not isinstance(value, str) or (required and not value.strip()):
        raise ValueError(f"{key!r} must be {'a text that is not empty' if required else 'a text'}, not {value!r}")
    return value.strip()


def _texts(data: dict[str, Any], key: str) -> list[str]:
    value = data.get(key)
    if value is None:
        return []
    if not isinstance(value, list) or not all(isinstance(item, str) and item.strip() for item in value):
        raise ValueError(f"{key!r} must be a list of texts, not {value!r}")
    return [item.strip() for item in value]


def _history(data: dict[str, Any]) -> tuple[Message, ...]:
    value = data.get("history")
    if value is None:
        return ()
    if not isinstance(value, list):
        raise ValueError(f"'history' must be a list of messages, not {value!r}")
    messages: list[Message] = []
    for item in value:
        role = item.get("role") if isinstance(item, dict) else None
        content = item.get("content") if isinstance(item, dict) else None
        if role not in ("user", "assistant") or not isinstance(content, str):
            raise ValueError(f"a message of 'history' must hold a role (user, assistant) and a content, not {item!r}")
        messages.append(Message(role=role, content=content))
    return tuple(messages)
