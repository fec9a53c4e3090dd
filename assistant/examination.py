"""Around the examiner, the same for a night and for an examination by hand: kept answers, common ground, and the gate's word."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from importlib.metadata import version as library_version
from pathlib import Path
from typing import Any

from assistant.config import NightSettings, Settings
from assistant.documents.store import DocumentStore
from assistant.engines.base import BASE_VERSION
from assistant.examination_plan import Sizes, load_texts
from assistant.examiner import Contestant
from assistant.grounding import SETTLING
from assistant.hardware import cores
from assistant.home import Home
from assistant.models import BaseModel
from assistant.prompt import INSTRUCTIONS
from training.examinations import ExaminationStore
from training.floors import RULES, floors_of
from training.gate import Decision, decide
from training.looks import count_looks
from training.measures import by_fact, summarise
from training.registry import AdapterRegistry
from training.results import SUITES, figures_of, latency, measured, paired, perplexity, scored_of

LIBRARIES = ("torch", "transformers", "peft", "trl", "bitsandbytes", "xllamacpp", "gguf")
"""Libraries whose version may change an answer or an adapter."""
CONTESTANTS = ("base", "serving", "candidate")

Results = dict[str, dict[str, Any]]


def contestant(registry: AdapterRegistry, name: str, version: str) -> Contestant:
    """Return a version of the registry (or "base") under the name by which it is examined. Raises AdapterError."""
    if version == BASE_VERSION:
        return Contestant(name=name, version=version, folder=None)
    registry.verify(version)
    return Contestant(name=name, version=version, folder=registry.path(version))


def answers_key(home: Home, settings: Settings, base: BaseModel, version: str, *, questions: Path, sizes: Sizes) -> str:
    """Name everything that a contestant's answers hang on: weights, questions, index, engine, and what was asked."""
    parts = [
        base.sha256,
        version,
        DocumentStore(home.documents_db).index_hash(),
        hashlib.sha256(questions.read_bytes()).hexdigest(),
        load_texts().sha256,
        json.dumps(asdict(sizes)),
        settings.engine.model_dump_json(),
        settings.documents.model_dump_json(),
        str(SETTLING),
        settings.chat.model_dump_json(),
        INSTRUCTIONS,
        str(cores()),
        *(library_version(name) for name in LIBRARIES),
    ]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def kept_answers(store: ExaminationStore, keys: Mapping[str, str]) -> Results:
    """Return the kept results of the contestants whose key is known."""
    return {name: found for name, key in keys.items() if (found := store.kept(key)) is not None}


def read_examined(folder: Path) -> Results:
    """Return what the examiner wrote into a run folder: the results of those that it asked."""
    found: Results = json.loads((folder / "examination.json").read_text(encoding="utf-8"))["contestants"]
    return found


def objected_in(kept: Mapping[str, Mapping[str, Any]]) -> tuple[str, ...]:
    """Return the questions on which what serves was objected to, so that the candidate is asked the same."""
    result = kept.get("serving") or kept.get("base") or {}
    return tuple(each["id"] for each in result.get("suites", {}).get("pushback", []))


def on_common_ground(results: Mapping[str, Mapping[str, Any]]) -> Results:
    """Leave only questions that every contestant answered: an earlier night may have sampled fewer. Summaries follow.

    Where nothing but the base serves, its results are those of what serves too.
    """
    results = {name: results[name] if name in results else results["base"] for name in CONTESTANTS}
    domain = _common([result["answers"] for result in results.values()])
    absent = _common([result["suites"]["unanswerable"] for result in results.values()])
    gold = _common([result.get("gold", []) for result in results.values()])
    common: Results = {}
    for name, result in results.items():
        suites = result["suites"] | {"unanswerable": [each for each in result["suites"]["unanswerable"] if each["id"] in absent]}
        common[name] = {
            **result,
            "answers": [each for each in result["answers"] if each["id"] in domain],
            "suites": suites,
            "gold": [each for each in result.get("gold", []) if each["id"] in gold],
        }
        common[name]["summary"] = summary_of(common[name])
    return common


def summary_of(result: Mapping[str, Any]) -> dict[str, Any]:
    """Return the measures of one contestant: of the domain questions, and the means of the other suites (None: not asked)."""
    means = {suite: _mean(measured(result, suite)) for suite in SUITES if suite not in ("domain", "citations")}
    return {
        **summarise(scored_of(result)),
        "unanswerable_refused": means["unanswerable"],
        "paraphrases_agree": means["paraphrases"],
        "pushback_kept": means["pushback"],
        "general_logprob": means["general"],
        "perplexity": perplexity(result),
        "answer_s": latency(result),
    }


def looks_at(results: Mapping[str, Mapping[str, Any]], store: ExaminationStore, registry: AdapterRegistry) -> int:
    """Return how many nights, tonight included, looked at these facts since something was last promoted, by whomever.

    A rollback does not start the count anew: what serves then was compared with candidates before.
    """
    promoted = next((each.at for each in registry.promotions() if each.action == "promote"), "")
    return count_looks(by_fact(scored_of(results["candidate"])), store.facts_since(promoted))


def decision_of(results: Mapping[str, Mapping[str, Any]], night: NightSettings, *, looks: int = 1) -> Decision:
    """Let the gate decide over the facts of the domain questions, with the floors of the other suites."""
    scores = {name: by_fact(scored_of(result)) for name, result in results.items()}
    return decide(
        scores["base"],
        scores["serving"],
        scores["candidate"],
        floors_of(results),
        minimum_facts=night.min_facts,
        minimum_effect=night.min_effect,
        looks=looks,
        seed=night.seed,
    )


def report_of(results: Mapping[str, Mapping[str, Any]], decision: Decision, *, seed: int) -> dict[str, Any]:
    """Return what is stored of an examination, and shown in its report."""
    return {
        "contestants": dict(results),
        "decision": decision.as_dict(),
        "figures": figures_of(results, seed=seed),
        "rules": [
            {**asdict(rule), "items": len(paired(results["serving"], results["candidate"], rule.suite)[0])} for rule in RULES
        ],
    }


def _common(answers: Sequence[Sequence[Mapping[str, Any]]]) -> set[str]:
    return set.intersection(*({each["id"] for each in part} for part in answers))


def _mean(values: Mapping[str, float]) -> float | None:
    return round(sum(values.values()) / len(values), 4) if values else None
