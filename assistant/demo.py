"""`nightschool demo`: the whole story in one command, in a throw-away home, through the parts that really serve.

Employees ask the practice questions, rate the answers and write what they should have said; a night learns from that; the
sealed questions, which nothing of it has touched, show the difference. It starts from the starter adapter that ships, as a
new home does, or from the bare base model.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import random
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from assistant.chat import Done
from assistant.config import ChatSettings, DocumentSettings, NightSettings, Settings, load
from assistant.console import announce_import, sample_company
from assistant.home import Home
from assistant.models import open_base
from assistant.night import run_night
from assistant.night_report import NightReport
from assistant.progress import NightBar, Progress
from assistant.services import Services, open_services
from assistant.shipped import install_starter
from feedback.errors import DocumentError, NightschoolError
from feedback.records import Turn
from training.examinations import ExaminationStore
from training.measures import score_answer
from training.questions import QuestionRow, is_said_elsewhere, load_questions, split_by, take_pages_away
from training.recipe import Objective
from training.registry import BASE, AdapterRegistry

EMPLOYEES = 6
ASKING = 4
"""Questions asked at the same time."""
SEALED_SHARE = 1 / 3
ABSENT_SHARE = 1 / 9
"""Share of the groups whose pages are taken away where a company's file has no unanswerable question."""
ASKING_SHARE, TRAINING_SHARE, EXAMINING_SHARE = 0.22, 0.44, 0.22
"""How the minutes are divided; the rest is loading, converting and publishing."""
SECONDS_PER_ANSWER = 1.5
"""What one answer may take before any was measured."""
ANSWER_TOKENS = 64
FULL_MINUTES = 20.0
"""A shorter story examines with the sealed questions alone; a longer one has time for some of every suite."""
_FEWER: dict[str, int] = {"unanswerable": 30, "pushback": 12}
_ONLY_QUESTIONS: dict[str, Any] = {
    "unanswerable": 0, "paraphrases": 0, "pushback": 0, "general": 0, "side_by_side": False, "perplexity": False
}  # fmt: skip
SIDE_BY_SIDE = 5
NOT_IN_DOCUMENTS = "This is not in the documents."


@dataclass(frozen=True, kw_only=True)
class Story:
    """What is played: documents and questions (None: the sample company), the time budget in minutes, what serves at first."""

    documents: Path | None
    questions: Path | None
    split_by: str
    minutes: float
    keep: Path | None = None
    start: Literal["starter", "base"] = "starter"
    objective: Objective = "sft"


@dataclass(frozen=True, kw_only=True)
class Told:
    """How the story ended."""

    asked: int
    rated_up: int
    corrected: int
    night: NightReport
    questions: int
    seconds: float
    start: str  # the version that served at first; "base" without the starter adapter
    examples: list[dict[str, str]] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        """Return the figures in the keys that the issue names."""
        decision = self.night.decision
        return {
            "questions": self.questions,
            "base": _marks(self.night.summaries.get("base")),
            "starter": None if self.start == BASE else _marks(self.night.summaries.get("serving")),
            "candidate": _marks(self.night.summaries.get("candidate")),
            "difference": {"mean": decision.base_mean, "low": decision.base_low, "high": decision.base_high}
            if decision
            else None,
            "difference_to_starter": {"mean": decision.difference_mean, "low": decision.low, "high": decision.high}
            if decision and self.start != BASE
            else None,
            "verdict": self.night.verdict,
            "reason": self.night.reason,
            "asked": self.asked,
            "rated_up": self.rated_up,
            "corrected": self.corrected,
            "trained_on": self.night.examples,
            "seconds": self.seconds,
            "side_by_side": self.examples,
        }

    def as_text(self) -> str:
        """Return the story's end as text: before, after, the verdict, and answers side by side."""
        data = self.as_dict()
        lines = [
            f"Asked {self.asked} practice questions: {self.rated_up} answers liked, {self.corrected} corrected; "
            f"{self.night.examples} examples learnt from.",
            "",
            f"On {self.questions} sealed questions         base   {'starter   ' if data['starter'] else ''}after the night",
        ]
        for key, label in _LABELS.items():
            middle = f"{_share(data['starter'].get(key))}      " if data["starter"] else ""
            lines.append(f"  {label:30} {_share(data['base'].get(key))}   {middle}{_share(data['candidate'].get(key))}")
        for name, label in (("difference", "base"), ("difference_to_starter", "starter adapter")):
            if data[name]:
                mean, low, high = (data[name][key] for key in ("mean", "low", "high"))
                lines.append(f"  score by fact against the {label}: {mean:+.2f} (95 % interval {low:+.2f} to {high:+.2f})")
        lines += [
            f"Verdict: {self.night.verdict or self.night.outcome}. {self.night.reason}",
            f"{self.seconds / 60:.1f} minutes.",
        ]
        for each in self.examples:
            lines += [
                "",
                f"Q: {each['question']}",
                f"   expected: {each['expected']}",
                f"   base:     {each['base']}",
                f"   after:    {each['candidate']}",
            ]
        return "\n".join(lines)


_LABELS = {
    "score": "right and cited, or refused",
    "accuracy": "value stated",
    "cited": "right page cited",
    "refusal_precision": "refusals that were right",
    "refusal_recall": "unanswerable ones refused",
}


def _marks(summary: Any) -> dict[str, Any]:
    return {key: (summary or {}).get(key) for key in _LABELS}


def _share(value: float | None) -> str:
    return "   -" if value is None else f"{value:.2f}"


def play(story: Story) -> Told:
    """Play the story; everything but what `keep` names is removed at the end. Raises DocumentError, SettingsError."""
    started = time.monotonic()
    folder, practice, sealed, absent = _company(story)
    with _throw_away_home(story.keep) as home, NightBar() as bar:
        sealed_file = home.root / "sealed.jsonl"
        settings = _settings(story, folder, sealed_file, len({row.fact for row in sealed}))
        start = _begin(home, settings) if story.start == "starter" else BASE
        with open_services(home, settings) as services:
            services.library.add_folder(folder)
            services.documents.remove(absent)
            sealed = [row for row in sealed if not (row.lost and _is_said_elsewhere(services, row))]
            asked = _ask_all(services, practice, seconds=story.minutes * 60 * ASKING_SHARE, show=bar.show)
        pace = asked.seconds / max(1, asked.count)
        examined = _examined(story.minutes, pace, len(sealed), contestants=2 if start == BASE else 3)
        settings = settings.model_copy(update={"night": settings.night.model_copy(update={"examined": examined})})
        _write_rows(sealed_file, sealed)
        report = run_night(home, settings, slot="", requested_by="demo", progress=bar.show)
        examination = ExaminationStore(home.db).load(report.run_id) if report.decision else None
    summary = report.summaries.get("candidate") or {}
    return Told(
        asked=asked.count,
        rated_up=asked.liked,
        corrected=asked.corrected,
        night=report,
        questions=int(summary.get("questions") or 0),
        seconds=round(time.monotonic() - started, 1),
        start=start,
        examples=_side_by_side(examination),
    )


def _company(story: Story) -> tuple[Path, list[QuestionRow], list[QuestionRow], list[str]]:
    """Return documents, practice and sealed questions, and the pages to take away (only where nothing is unanswerable)."""
    if story.documents is None or story.questions is None:
        data = sample_company()
        return (
            data / "handbook",
            load_questions(data / "questions" / "practice.jsonl"),
            load_questions(data / "questions" / "sealed.jsonl"),
            [],
        )
    if not story.documents.is_dir():
        raise DocumentError(f"There is no documents folder {story.documents}: name one with Markdown or text files.")
    rows = load_questions(story.questions, group=story.split_by)
    absent: list[str] = []
    if all(row.answerable for row in rows):
        rows, absent = take_pages_away(rows, ABSENT_SHARE)
    practice, sealed = split_by(rows, story.split_by, SEALED_SHARE)
    return story.documents, practice, sealed, absent


@contextlib.contextmanager
def _throw_away_home(keep: Path | None) -> Iterator[Home]:
    """Make an empty home that shares the imported base models of the user's own home; a failure leaves it for a look."""
    own, settings = load()
    announce_import(own, settings)
    if keep is not None:
        if keep.exists() and any(keep.iterdir()):
            raise NightschoolError(f"The folder {keep} is not empty: name a new one for the demo's home.")
        root = keep
        root.mkdir(parents=True, exist_ok=True)
    else:
        root = Path(tempfile.mkdtemp(prefix="nightschool-demo-"))
    remove = keep is None
    try:
        if not (root / "models").exists():
            (root / "models").symlink_to(own.models)
        yield Home(root)
    except Exception:
        remove = False  # what failed names logs in it
        print(f"The demo failed; its home is kept: {root}", file=sys.stderr, flush=True)
        raise
    finally:
        if remove:
            shutil.rmtree(root, ignore_errors=True)


def _begin(home: Home, settings: Settings) -> str:
    """Put the starter adapter into service, as the first start of a home does; returns what serves."""
    registry = AdapterRegistry(home.db, home.adapters)
    return install_starter(registry, open_base(home.models, settings.engine.base_model)) or BASE


def _settings(story: Story, folder: Path, sealed_file: Path, facts: int) -> Settings:
    minutes = story.minutes
    return Settings(
        documents=DocumentSettings(folder=str(folder)),
        chat=ChatSettings(max_tokens=ANSWER_TOKENS),
        night=NightSettings(
            cron="",
            minutes=minutes * TRAINING_SHARE,
            questions=str(sealed_file),
            objective=story.objective,
            min_examples=20,
            min_facts=min(20, max(2, facts)),
            examination=EXAMINING_SHARE / TRAINING_SHARE,
            **(_ONLY_QUESTIONS if minutes < FULL_MINUTES else _FEWER),
        ),
    )


def _examined(minutes: float, pace_s: float, sealed: int, *, contestants: int) -> int:
    """Return how many sealed questions the contestants can answer in their share of the time."""
    return max(24, min(sealed, int(minutes * 60 * EXAMINING_SHARE / (contestants * pace_s))))


def _is_said_elsewhere(services: Services, row: QuestionRow) -> bool:
    return is_said_elsewhere(row, services.prompts.prepare(row.question, row.history).passages)


def _write_rows(path: Path, rows: Sequence[QuestionRow]) -> None:
    with path.open("w", encoding="utf-8") as file:
        for row in rows:
            data = asdict(row)
            data.pop("extra")
            file.write(json.dumps(data, ensure_ascii=False) + "\n")


@dataclass
class _Asked:
    count: int = 0
    liked: int = 0
    corrected: int = 0
    seconds: float = 0.0


def in_turns(rows: Sequence[QuestionRow]) -> list[QuestionRow]:
    """Order questions so that every fact is asked once before any is asked again; the facts in a stable random order."""
    by_fact: dict[str, list[QuestionRow]] = {}
    for row in rows:
        by_fact.setdefault(row.fact, []).append(row)
    facts = sorted(by_fact)
    random.Random(0).shuffle(facts)
    rounds = itertools.zip_longest(*(by_fact[fact] for fact in facts))
    return [row for each in rounds for row in each if row is not None]


def _ask_all(services: Services, rows: Sequence[QuestionRow], *, seconds: float, show: Callable[[Progress], None]) -> _Asked:
    """Ask as many practice questions as the time allows, several at once, each employee in a conversation of his own."""
    people = [services.store.add_user(f"employee{n}", f"demo-password-{n}", "employee").id for n in range(1, EMPLOYEES + 1)]
    conversations = {person: services.store.start_conversation(person, history=False) for person in people}
    services.pool.acquire().release()
    asked, lock, started = _Asked(), threading.Lock(), time.monotonic()
    ordered = in_turns(rows)

    def one(numbered: tuple[int, QuestionRow]) -> None:
        number, row = numbered
        if time.monotonic() - started > seconds:
            return
        person = people[number % len(people)]
        turn = _ask(services, person, conversations[person], row)
        if is_said_elsewhere(row, turn.asked.passages):
            return  # another page may answer it: nobody can say what is right
        liked = _rate(services, person, turn, row)
        with lock:
            asked.count += 1
            asked.liked += liked
            asked.corrected += not liked
            elapsed = time.monotonic() - started
            share = max(asked.count / len(ordered), elapsed / seconds)
            show(
                Progress(
                    stage="Asking",
                    share=min(1.0, share),
                    detail=f"{asked.count} questions asked, {asked.liked} liked, {asked.corrected} corrected",
                    eta_s=elapsed / share - elapsed,
                )
            )

    with ThreadPoolExecutor(ASKING) as workers:
        list(workers.map(one, enumerate(ordered)))
    asked.seconds = time.monotonic() - started
    return asked


def _ask(services: Services, person: str, conversation: str, row: QuestionRow) -> Turn:
    done: Turn | None = None
    for event in services.chat.ask(user_id=person, conversation_id=conversation, question=row.question, history=False):
        if isinstance(event, Done):
            done = event.turn
    if done is None or done.answer is None or done.answer.error:
        raise NightschoolError(f"The question {row.id!r} got no answer: {done.answer.error if done and done.answer else 'none'}")
    return done


def _rate(services: Services, person: str, turn: Turn, row: QuestionRow) -> bool:
    """Rate as somebody who knows the answer would: thumbs up, or thumbs down with what it should have said."""
    assert turn.answer is not None
    scored = score_answer(turn.answer.text, row, turn.asked.passages)
    if scored.score:
        services.store.rate(turn.id, person, "up")
        return True
    reason = "wrong" if not scored.right else "no source"
    services.store.rate(turn.id, person, "down", [reason if row.answerable else "should have refused"])
    services.store.correct(turn.id, person, row.answer if row.answerable else NOT_IN_DOCUMENTS)
    return False


def _side_by_side(examination: Any) -> list[dict[str, str]]:
    """Pick answers to show: two that got better, one that got worse if there is one, one unanswerable, then any."""
    if not examination:
        return []
    base, candidate = (examination["contestants"][name]["answers"] for name in ("base", "candidate"))
    pairs = list(zip(base, candidate, strict=True))
    groups: list[list[Any]] = [
        [pair for pair in pairs if pair[1]["score"] > pair[0]["score"] and pair[0]["answerable"]][:2],
        [pair for pair in pairs if pair[1]["score"] < pair[0]["score"]][:1],
        [pair for pair in pairs if not pair[0]["answerable"]][:1],
        [pair for pair in pairs if not pair[1]["score"]][:SIDE_BY_SIDE],
        pairs,
    ]
    chosen: list[Any] = []
    for pair in itertools.chain.from_iterable(groups):
        if pair not in chosen and len(chosen) < SIDE_BY_SIDE:
            chosen.append(pair)
    return [
        {
            "question": first["question"],
            "expected": first["expected"] or "(not in the documents)",
            "base": " ".join(first["text"].split()),
            "candidate": " ".join(second["text"].split()),
        }
        for first, second in chosen
    ]
