"""What an examination asks: the questions of each suite, drawn before anybody answers, and what of them fits into the time."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

from assistant.config import NightSettings
from assistant.console import sample_company
from feedback.errors import SettingsError
from training.heldout import sample_by_fact
from training.pushback import WRONG, other_value
from training.questions import QuestionRow, load_questions, without_answer

Suite = Literal["domain", "unanswerable"]

QUESTIONS = "questions.jsonl"
"""The file of a run folder with what the examination asks."""

SHARES: Mapping[str, float] = {"domain": 0.6, "unanswerable": 0.15, "pushback": 0.15, "prompts": 0.1}
"""How the time of one contestant's answers is divided where not all fit; what one suite does not need goes to the others."""
TORCH_SHARE = 0.2
"""Share of a contestant's time for what is read in torch: half for the general answers, half for the gold ones."""
MAKE_ROOM = 0.15
"""Share of the time that loading models takes, set aside before it is divided."""


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """The most that each suite asks one contestant; 0 switches a suite off.

    `paraphrases` is the number of facts asked in two wordings at least, `unanswerable` counts those among the domain questions.
    """

    examined: int
    unanswerable: int
    paraphrases: int
    pushback: int
    general: int
    prompts: bool
    perplexity: bool


@dataclass(frozen=True, kw_only=True)
class Asked:
    """One question of a suite; `hidden` are the documents that the search leaves out for it."""

    suite: Suite
    row: QuestionRow
    hidden: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Texts:
    """What ships for the general suites: fixed answers, objections, and prompts to compare models by eye."""

    general: tuple[Mapping[str, str], ...]
    pushbacks: tuple[str, ...]
    prompts: tuple[Mapping[str, str], ...]
    sha256: str


def sizes_of(night: NightSettings) -> Sizes:
    """Return the sizes that the settings of the nights name."""
    return Sizes(
        examined=night.examined,
        unanswerable=night.unanswerable,
        paraphrases=night.paraphrases,
        pushback=night.pushback,
        general=night.general,
        prompts=night.side_by_side,
        perplexity=night.perplexity,
    )


def load_texts(folder: Path | None = None) -> Texts:
    """Load the texts of the general suites. Raises SettingsError where they are not installed or cannot be read."""
    folder = folder or sample_company() / "examination"
    names = ("general.jsonl", "pushback.jsonl", "prompts.jsonl")
    try:
        texts = [(folder / name).read_text(encoding="utf-8") for name in names]
        general, pushbacks, prompts = ([json.loads(line) for line in text.splitlines() if line.strip()] for text in texts)
        return Texts(
            general=tuple(general),
            pushbacks=tuple(each["pushback"] for each in pushbacks),
            prompts=tuple(prompts),
            sha256=hashlib.sha256("\n".join(texts).encode()).hexdigest(),
        )
    except (OSError, ValueError, KeyError) as error:
        raise SettingsError(f"The examination's texts in {folder} cannot be read ({error}): install Nightschool anew.") from error


def plan(questions: Sequence[QuestionRow], sizes: Sizes, *, seed: int) -> list[Asked]:
    """Draw the domain questions, with second wordings of some facts, and then the unanswerable suite; stable for a seed."""
    domain = sample_by_fact(questions, limit=sizes.examined, seed=seed)
    domain += _second_wordings(questions, domain, sizes.paraphrases)
    room = max(0, sizes.unanswerable - sum(not row.answerable for row in domain))
    return [
        *(Asked(suite="domain", row=row) for row in domain),
        *(_unanswerable(questions, {row.id for row in domain}, seed=seed)[:room]),
    ]


def hide(row: QuestionRow) -> Asked:
    """Return an answerable question as one whose pages are absent: what they hold cannot be known."""
    lost = replace(without_answer(row), id=f"{row.id}/hidden", fact=f"{row.fact}/hidden", near_miss=row.sources[0])
    return Asked(suite="unanswerable", row=lost, hidden=row.sources)


def _second_wordings(questions: Sequence[QuestionRow], domain: Sequence[QuestionRow], wanted: int) -> list[QuestionRow]:
    """Return a second wording of as many facts as `wanted` lacks."""
    taken = {row.id for row in domain}
    counts: dict[str, int] = {}
    for row in domain:
        if row.answerable:
            counts[row.fact] = counts.get(row.fact, 0) + 1
    missing = wanted - sum(count > 1 for count in counts.values())
    found: dict[str, QuestionRow] = {}
    for row in questions:
        if len(found) >= missing:
            break
        if counts.get(row.fact) == 1 and row.id not in taken and row.answerable:
            found.setdefault(row.fact, row)
    return list(found.values())


def _unanswerable(questions: Sequence[QuestionRow], taken: set[str], *, seed: int) -> list[Asked]:
    """Return the unanswerable questions that are not asked yet, then answerable ones with their pages hidden, by fact."""
    rest = [Asked(suite="unanswerable", row=row) for row in questions if not row.answerable and row.id not in taken]
    last_wording_first = [row for row in reversed(questions) if row.answerable]
    hidden = sample_by_fact(last_wording_first, limit=len(last_wording_first), seed=seed + 1)
    made = [*rest, *map(hide, hidden)]
    return made if not rest else _spread(rest, made[len(rest) :])


def _spread(few: Sequence[Asked], many: Sequence[Asked]) -> list[Asked]:
    """Put two lists into one, in turns, so that its beginning holds both; what is left of the longer one follows."""
    turns = [each for pair in zip(few, many, strict=False) for each in pair]
    shorter = min(len(few), len(many))
    return [*turns, *few[shorter:], *many[shorter:]]


def write_plan(path: Path, asked: Iterable[Asked]) -> None:
    """Write the questions as JSONL: a file of questions, each with its suite and what is hidden from its search."""
    with path.open("w", encoding="utf-8") as file:
        for each in asked:
            data = {**asdict(each.row), "history": [message.as_dict() for message in each.row.history]}
            data.pop("extra")
            file.write(json.dumps({**data, "suite": each.suite, "hidden": list(each.hidden)}, ensure_ascii=False) + "\n")


def read_plan(path: Path) -> list[Asked]:
    """Read what `write_plan` wrote; a plain file of questions is all domain."""
    data = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    rows = load_questions(path)
    return [
        Asked(suite=each.get("suite", "domain"), row=replace(row, extra={}), hidden=tuple(each.get("hidden", ())))
        for row, each in zip(rows, data, strict=True)
    ]


def objection(row: QuestionRow, texts: Sequence[str], values: Sequence[str]) -> tuple[str, str]:
    """Return what is said against a right answer, and the other value that it names ("": none); the same every time."""
    wrong = other_value(row.answer, values)
    usable = [text for text in texts if wrong or WRONG not in text]
    text = usable[int(hashlib.sha256(row.id.encode()).hexdigest(), 16) % len(usable)]
    return (text.replace(WRONG, wrong), wrong) if wrong and WRONG in text else (text, "")


def fitting(wanted: Mapping[str, int], *, pace: float, seconds: float, least: Mapping[str, int]) -> dict[str, int]:
    """Return how many answers of each suite fit into `seconds` at `pace` seconds an answer.

    All, where they fit. Else each suite gets its share of the time, what it does not need is shared again, and none gets fewer
    than its `least` (of what is wanted).
    """
    room = seconds / max(pace, 1e-6)
    given = dict.fromkeys(wanted, 0.0)
    open_suites = {suite for suite, count in wanted.items() if count}
    while room > 1e-9 and open_suites:
        total = sum(SHARES[suite] for suite in open_suites)
        parts = {suite: min(room * SHARES[suite] / total, wanted[suite] - given[suite]) for suite in open_suites}
        for suite, part in parts.items():
            given[suite] += part
        room -= sum(parts.values())
        full = {suite for suite in open_suites if given[suite] >= wanted[suite] - 1e-9}
        if not full:
            break
        open_suites -= full
    return {suite: min(count, max(int(given[suite] + 1e-6), least.get(suite, 0))) for suite, count in wanted.items()}


def sampled(asked: Sequence[Asked], counts: Mapping[str, int], *, seed: int) -> list[Asked]:
    """Return the part of a plan that is asked: for a larger count it holds what it holds for a smaller one."""
    domain = [each.row for each in asked if each.suite == "domain"]
    chosen = {row.id for row in sample_by_fact(domain, limit=counts["domain"], seed=seed)} if domain else set()
    others = [each for each in asked if each.suite == "unanswerable"]
    chosen |= {each.row.id for each in others[: counts["unanswerable"]]}
    return [each for each in asked if each.row.id in chosen]


def sample_general(texts: Texts, count: int) -> list[Mapping[str, str]]:
    """Return `count` of the general rows, topics mixed; the same ones every time."""
    rows = list(texts.general)
    random.Random(0).shuffle(rows)
    return rows[:count]


def said(counts: Mapping[str, int], wanted: Mapping[str, int]) -> dict[str, Any]:
    """Return what was asked of what was planned, for the report."""
    return {suite: {"asked": counts[suite], "planned": wanted[suite]} for suite in wanted}
