"""The examination: contestants answer the same questions, as served by the fixed plan; the gate decides elsewhere.

Run as a subprocess of a night: `python -m assistant.examiner RUN_FOLDER`. It reads `examine.json` and `questions.jsonl` in the
run folder, retrieves from the documents' index, and writes `examination.json`. It never opens the store.
"""

from __future__ import annotations

import json
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from assistant.canary import record
from assistant.config import Settings
from assistant.engines.base import AdapterVersion, Engine, LoadedAdapter
from assistant.examination_plan import (
    MAKE_ROOM,
    QUESTIONS,
    TORCH_SHARE,
    Asked,
    Sizes,
    Texts,
    fitting,
    load_texts,
    read_plan,
    said,
    sample_general,
    sampled,
)
from assistant.home import Home
from assistant.progress import counts_into
from assistant.prompt import Prepared, PromptBuilder
from assistant.services import open_engine, open_prompts
from assistant.suites import Judged, Objections, Pair, Tick, answer_all, as_data, write_on
from training.measures import summarise
from training.parent import run_child
from training.questions import QuestionRow, is_said_elsewhere

PERPLEXITY_SAMPLE = 48
PERPLEXITY_SECONDS = 20.0
"""How many gold answers are read at most where time is limited, and for how long: torch reads slower than the engine."""
PACE_QUESTIONS = 12
"""So many first answers say how long the others will take."""

Show = Callable[[int, int], None]


@dataclass(frozen=True, kw_only=True)
class Contestant:
    """Who is examined: "base", "serving" or "candidate"; `folder` is None for the bare base."""

    name: str
    version: str
    folder: Path | None


@dataclass(frozen=True, kw_only=True)
class Request:
    """What an examination is asked to do (`examine.json`). `seconds` is for all contestants together; None: no limit.

    `objected` names the questions on which what serves was objected to in an earlier night: the candidate is asked the same.
    """

    home: Path
    settings: Settings
    contestants: tuple[Contestant, ...]
    sizes: Sizes
    seconds: float | None = None
    least: int = 0  # domain questions that are asked however long it takes
    objected: tuple[str, ...] = ()

    def to_json(self) -> str:
        """Return the request as JSON."""
        data = {**asdict(self), "settings": self.settings.model_dump()}
        return json.dumps(data, default=str, indent=2)

    @classmethod
    def from_json(cls, text: str) -> Request:
        """Read a request."""
        data = json.loads(text)
        return cls(
            home=Path(data["home"]),
            settings=Settings.model_validate(data["settings"]),
            contestants=tuple(
                Contestant(name=each["name"], version=each["version"], folder=Path(each["folder"]) if each["folder"] else None)
                for each in data["contestants"]
            ),
            sizes=Sizes(**data["sizes"]),
            seconds=data["seconds"],
            least=data["least"],
            objected=tuple(data["objected"]),
        )


def examine_contestant(
    engine: Engine, prepared: Sequence[Pair], contestant: Contestant, *, max_tokens: int, tick: Tick
) -> dict[str, Any]:
    """Let one contestant answer prepared questions; returns its answers, summary and canary as JSON data."""
    with _loaded(engine, contestant) as loaded:
        started = time.perf_counter()
        judged = answer_all(engine, loaded, prepared, max_tokens=max_tokens, tick=tick)
        seconds = time.perf_counter() - started
        canary = record(engine, loaded)
    return _result(contestant, prepared, judged, seconds=seconds, canary=canary)


@contextmanager
def _loaded(engine: Engine, contestant: Contestant) -> Iterator[LoadedAdapter]:
    loaded = engine.load(AdapterVersion(version=contestant.version, path=contestant.folder) if contestant.folder else None)
    try:
        yield loaded
    finally:
        engine.unload(loaded)


def _result(
    contestant: Contestant, pairs: Sequence[Pair], judged: Sequence[Judged], *, seconds: float, canary: Mapping[str, Any]
) -> dict[str, Any]:
    return {
        "version": contestant.version,
        "summary": summarise(each.scored for each in judged),
        "seconds": round(seconds, 1),
        "tokens_s": round(sum(each.tokens for each in judged) / max(seconds, 1e-9), 1),
        "canary": canary,
        "answers": as_data(pairs, judged),
    }


@dataclass
class _Examination:
    """One examination while it goes on. `counts` is None until the first answers have shown the pace."""

    engine: Engine
    prompts: PromptBuilder
    request: Request
    asked: list[Asked]
    texts: Texts
    show: Show
    started: float = field(default_factory=time.monotonic)
    counts: dict[str, int] | None = None
    done: int = 0

    def __post_init__(self) -> None:
        self._lock = threading.Lock()
        self._prepared: dict[str, Prepared] = {}
        self._objections = Objections(self.prompts, self.texts, [each.row for each in self.asked])
        self._objected = self.request.objected

    @property
    def wanted(self) -> dict[str, int]:
        """How many answers each suite would ask of one contestant."""
        sizes = self.request.sizes
        return {
            "domain": sum(each.suite == "domain" for each in self.asked),
            "unanswerable": sum(each.suite == "unanswerable" for each in self.asked),
            "pushback": min(sizes.pushback, len({each.row.fact for each in self.asked if each.row.answerable})),
            "prompts": len(self.texts.prompts) if sizes.prompts else 0,
        }

    def examine(self, contestant: Contestant) -> dict[str, Any]:
        """Ask one contestant every suite that the engine answers; the first one shows how much fits into the time."""
        max_tokens = self.request.settings.chat.max_tokens
        with _loaded(self.engine, contestant) as loaded:
            started = time.perf_counter()
            known = self._first_answers(loaded) if self.counts is None else {}
            assert self.counts is not None
            chosen = sampled(self.asked, self.counts, seed=self.request.settings.night.seed)
            domain = [self._pair(each) for each in chosen if each.suite == "domain"]
            rest = [pair for pair in domain if pair[0].id not in known]
            answered = answer_all(self.engine, loaded, rest, max_tokens=max_tokens, tick=self._tick)
            known |= {row.id: judged for (row, _), judged in zip(rest, answered, strict=True)}
            judged = [known[row.id] for row, _ in domain]
            result = _result(contestant, domain, judged, seconds=time.perf_counter() - started, canary={})
            result["suites"] = self._suites(loaded, chosen, [(row, known[row.id]) for row, _ in domain])
            result["prompts"] = write_on(self.engine, loaded, self.texts, count=self.counts["prompts"], tick=self._tick)
            result["canary"] = record(self.engine, loaded)
        asked = self.counts | {"unanswerable": len(result["suites"]["unanswerable"])}
        result["asked"] = said(asked, self.wanted)
        return result

    def _suites(
        self, loaded: LoadedAdapter, chosen: Sequence[Asked], answered: Sequence[tuple[QuestionRow, Judged]]
    ) -> dict[str, Any]:
        assert self.counts is not None
        max_tokens = self.request.settings.chat.max_tokens
        hidden = [self._pair(each) for each in chosen if each.suite == "unanswerable"]
        absent = [(row, prepared) for row, prepared in hidden if not is_said_elsewhere(row, prepared.passages)]
        refused = answer_all(self.engine, loaded, absent, max_tokens=max_tokens, tick=self._tick)
        objections = self._objections.raised(
            self.engine,
            loaded,
            answered,
            limit=self.counts["pushback"],
            first=self._objected,
            max_tokens=max_tokens,
            tick=self._tick,
        )
        self._objected = tuple(each["id"] for each in objections) or self._objected
        return {"unanswerable": as_data(absent, refused), "pushback": objections}

    def _first_answers(self, loaded: LoadedAdapter) -> dict[str, Judged]:
        """Answer a few questions, and let their pace say how many answers of each suite fit."""
        wanted, seed = self.wanted, self.request.settings.night.seed
        few = dict.fromkeys(wanted, 0) | {"domain": min(PACE_QUESTIONS, wanted["domain"])}
        pairs = [self._pair(each) for each in sampled(self.asked, few, seed=seed)]
        begun = time.monotonic()
        max_tokens = self.request.settings.chat.max_tokens
        judged = answer_all(self.engine, loaded, pairs, max_tokens=max_tokens, tick=self._tick)
        pace = (time.monotonic() - begun) / max(1, len(pairs))
        self.counts = wanted
        if self.request.seconds is not None:
            self.counts = fitting(
                wanted, pace=pace, seconds=self._seconds_each(), least={"domain": max(self.request.least, len(pairs))}
            )
        return {row.id: each for (row, _), each in zip(pairs, judged, strict=True)}

    def _seconds_each(self) -> float:
        """Return the time for the answers of one contestant."""
        assert self.request.seconds is not None
        sizes = self.request.sizes
        torch = TORCH_SHARE if sizes.general or sizes.perplexity else 0.0
        return self.request.seconds * (1 - MAKE_ROOM) * (1 - torch) / len(self.request.contestants)

    def _pair(self, each: Asked) -> Pair:
        """Return a question with its prompt, made once for all contestants."""
        if each.row.id not in self._prepared:
            self._prepared[each.row.id] = self.prompts.prepare(
                each.row.question, each.row.history, collection=each.row.collection, hidden=each.hidden
            )
        return each.row, self._prepared[each.row.id]

    def gold(self) -> list[tuple[QuestionRow, Prepared, int]]:
        """Return the domain questions that were asked of a model, with the number of the first passage that answers each."""
        found = []
        for each in self.asked:
            prepared = self._prepared.get(each.row.id)
            if prepared is not None and (number := _gold_passage(each.row, prepared)) is not None:
                found.append((each.row, prepared, number))
        return found

    def _tick(self) -> None:
        with self._lock:
            self.done += 1
            total = sum((self.counts or self.wanted).values()) * len(self.request.contestants)
            self.show(self.done, max(total, self.done))


def examine(request: Request, folder: Path, *, show: Show | None = None) -> dict[str, Any]:
    """Examine every contestant over the questions in `folder`; progress goes to `show`, or to `folder`/examination.progress."""
    started = time.perf_counter()
    home, settings = Home(request.home), request.settings
    texts = load_texts()
    base, engine = open_engine(home, settings)
    try:
        _, prompts = open_prompts(home, settings, base, engine)
        examination = _Examination(
            engine=engine,
            prompts=prompts,
            request=request,
            asked=read_plan(folder / QUESTIONS),
            texts=texts,
            show=show or counts_into(folder / "examination.progress"),
        )
        results = {contestant.name: examination.examine(contestant) for contestant in request.contestants}
        engine_name = engine.name
    finally:
        engine.close()
    _read_in_torch(request, base.hf_dir, texts, examination.gold(), results)
    return {
        "engine": engine_name,
        "questions": len(examination.asked),
        "seconds": round(time.perf_counter() - started, 1),
        "contestants": results,
    }


def _read_in_torch(
    request: Request,
    hf_dir: Path,
    texts: Texts,
    gold: Sequence[tuple[QuestionRow, Prepared, int]],
    results: dict[str, dict[str, Any]],
) -> None:
    """Add what torch reads to the results: the general answers' log-probabilities, and the perplexity of the gold answers."""
    from feedback.records import Message
    from training.perplexity import read_answers

    rows = sample_general(texts, request.sizes.general)
    gold = (gold if request.seconds is None else gold[:PERPLEXITY_SAMPLE]) if request.sizes.perplexity else []
    groups: dict[str, list[Any]] = {
        "general": [((Message(role="user", content=row["prompt"]),), row["answer"]) for row in rows],
        "gold": [(pair.messages, f"{row.answer} [{number}]") for row, pair, number in gold],
    }
    limits = dict.fromkeys(groups, float("inf"))
    if request.seconds is not None:
        share = request.seconds * (1 - MAKE_ROOM) * TORCH_SHARE / 2 / len(request.contestants)
        limits = {"general": share, "gold": min(share, PERPLEXITY_SECONDS)}
    places = {name: list(range(len(group))) for name, group in groups.items()}
    for contestant in request.contestants if any(groups.values()) else ():
        wanted = {name: [groups[name][place] for place in places[name]] for name in groups if places[name]}
        found = read_answers(hf_dir, contestant.folder, wanted, seconds=limits)
        readings = {name: {places[name][at]: reading for at, reading in read.items()} for name, read in found.items()}
        # the first one sets what all of them are measured on
        places, limits = {name: sorted(readings.get(name, {})) for name in groups}, dict.fromkeys(groups, float("inf"))
        result = results[contestant.name]
        result["suites"]["general"] = [
            {"id": rows[place]["id"], "topic": rows[place]["topic"], **readings["general"][place].a_token()}
            for place in places["general"]
        ]
        result["asked"]["general"] = {"asked": len(places["general"]), "planned": len(rows)}
        result["gold"] = [{"id": gold[place][0].id, **readings["gold"][place].a_token()} for place in places["gold"]]


def _gold_passage(row: QuestionRow, prepared: Prepared) -> int | None:
    """Return the number of the first passage from a source of the answer, where a model was asked at all."""
    if prepared.refused:
        return None
    return next((passage.number for passage in prepared.passages if passage.document in row.sources), None)


def main(folder: Path, parent: int | None = None) -> int:
    """Examine as `folder`/examine.json says, for the night with the process id `parent`; write examination.json in one step."""

    def work() -> None:
        result = examine(Request.from_json((folder / "examine.json").read_text(encoding="utf-8")), folder)
        temporary = folder / "examination.json.tmp"
        temporary.write_text(json.dumps(result, ensure_ascii=False), encoding="utf-8")
        temporary.replace(folder / "examination.json")

    return run_child(work, parent)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else None))
