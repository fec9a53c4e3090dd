"""`nightschool examine`: an adapter against the base model or another adapter, suite by suite, with what the gate says of it."""

from __future__ import annotations

import tempfile
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from assistant.config import NightSettings, Settings
from assistant.engines.base import BASE_VERSION
from assistant.examination import answers_key, contestant, decision_of, kept_answers, objected_in, on_common_ground, report_of
from assistant.examination_plan import QUESTIONS, Sizes, plan, write_plan
from assistant.examiner import Request, Show, examine
from assistant.home import Home
from assistant.models import open_base
from assistant.web.report_view import examination_page
from feedback.errors import SettingsError
from training.examinations import ExaminationStore
from training.questions import load_questions
from training.registry import AdapterRegistry

BY_HAND = {"unanswerable": 100, "paraphrases": 100_000, "pushback": 50, "general": 100}
"""A person who asks has more time than a night: the whole suites, and every fact in two wordings."""
LEAST_GENERAL = 20
"""So many general answers are read under any limit: fewer tell nothing."""


def examine_by_hand(
    home: Home,
    settings: Settings,
    *,
    adapter: str,
    against: str,
    questions: Path | None,
    limit: int,
    show: Show,
    report: Path | None = None,
) -> dict[str, Any]:
    """Examine a version of the registry against another (or "base"); only the answers are kept, for the next time.

    `questions` is a file of questions (None: the one that the settings name), `limit` the most of them (0: all). Every question
    with its answers, and what each model wrote on the general prompts, go into the page `report`.
    Returns {"adapter", "against", "verdict", "reason", "figures", "floors", "not_judged", "summaries", "asked", "seconds"}.
    Raises AdapterError, DocumentError, SettingsError.
    """
    file = questions or (Path(settings.night.questions) if settings.night.questions else None)
    if file is None:
        raise SettingsError("There are no questions to examine with: name a JSONL file with --questions, or set night.questions.")
    if report is not None and not report.parent.is_dir():
        raise SettingsError(f"The report {report} cannot be written: there is no folder {report.parent}, make it first.")
    rows = load_questions(file)
    sizes = sizes_by_hand(settings.night, questions=len(rows), limit=limit, prompts=report is not None)
    base, registry = open_base(home.models, settings.engine.base_model), AdapterRegistry(home.db, home.adapters)
    contestants = {name: contestant(registry, name, version) for name, version in _versions(adapter, against).items()}
    store = ExaminationStore(home.db)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / QUESTIONS
        write_plan(path, plan(rows, sizes, seed=settings.night.seed))
        keys = {
            name: answers_key(home, settings, base, each.version, questions=path, sizes=sizes)
            for name, each in contestants.items()
        }
        results = kept_answers(store, keys)
        missing = tuple(each for name, each in contestants.items() if name not in results)
        seconds = 0.0
        if missing:
            request = Request(home=home.root, settings=settings, contestants=missing, sizes=sizes, objected=objected_in(results))
            found = examine(request, Path(folder), show=show)
            seconds = found["seconds"]
            for name, result in found["contestants"].items():
                store.keep(keys[name], result)
                results[name] = result
    common = on_common_ground(results)
    decision = decision_of(common, settings.night)
    told = report_of(common, decision, seed=settings.night.seed)
    if report is not None:
        page = examination_page(told, run_id="by hand", candidate=adapter, folder=None)
        report.write_text(page, encoding="utf-8")
    return {
        "adapter": adapter,
        "against": against,
        "verdict": decision.verdict,
        "reason": decision.reason,
        "figures": told["figures"],
        "floors": [asdict(floor) for floor in decision.floors],
        "not_judged": [asdict(floor) for floor in decision.not_judged],
        "summaries": {name: result["summary"] for name, result in common.items()},
        "asked": common["candidate"]["asked"],
        "seconds": seconds,
    }


def sizes_by_hand(night: NightSettings, *, questions: int, limit: int, prompts: bool) -> Sizes:
    """Return the whole suites, or with a `limit` as many answers of each as domain questions."""
    whole = Sizes(examined=limit or questions, prompts=prompts, perplexity=night.perplexity, **BY_HAND)
    if not limit:
        return whole
    return replace(
        whole,
        paraphrases=0,
        unanswerable=min(limit, whole.unanswerable),
        pushback=min(limit, whole.pushback),
        general=min(max(limit, LEAST_GENERAL), whole.general),
    )


def _versions(adapter: str, against: str) -> dict[str, str]:
    """Return who is examined, by name; the base is, whoever else is."""
    others = {"serving": against} if against != BASE_VERSION else {}
    return {"base": BASE_VERSION, **others, "candidate": adapter}
