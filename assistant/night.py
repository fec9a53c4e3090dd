"""A night, top to bottom: curate, snapshot, train, examine, decide, publish, promote.

The night composes assistant and training, and loads no model itself: the trainer and the examiner are subprocesses, and the
run folder is all that they share. Whatever kills them or the night, the serving adapter stays as it is.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version as library_version
from pathlib import Path
from typing import Any, Literal

from assistant.config import Settings
from assistant.documents.store import DocumentStore
from assistant.engines.base import BASE_VERSION
from assistant.engines.select import engine_kind
from assistant.engines.template import ChatTemplate
from assistant.examination import (
    CONTESTANTS,
    LIBRARIES,
    answers_key,
    contestant,
    decision_of,
    kept_answers,
    looks_at,
    objected_in,
    on_common_ground,
    read_examined,
    report_of,
)
from assistant.examination_plan import QUESTIONS, Asked, plan, read_plan, sizes_of, write_plan
from assistant.examiner import Contestant, Request
from assistant.hardware import cores
from assistant.home import Home
from assistant.models import open_base
from assistant.night_report import NightReport
from assistant.night_rows import night_rows, seed_questions, shares_of
from assistant.night_watch import NightEnded, Show, Stages, examination_progress, rows_progress, training_progress
from assistant.progress import Progress
from assistant.services import engine_context
from assistant.shipped import starter_version
from assistant.web.report_view import REPORT, examination_page
from feedback.store import FeedbackStore
from training.curation import Example, curate
from training.dataset import Snapshot, open_snapshot, read_snapshot, rows_within, write_snapshot
from training.durable import sha256
from training.examinations import ExaminationStore
from training.gate import Decision
from training.heldout import hold_out
from training.methods import check_combination, usual_rate
from training.preference_rows import Preferences, preference_rows
from training.progress_lines import read_notes
from training.questions import QuestionRow, load_questions, split_by
from training.recipe import Recipe
from training.registry import AdapterRegistry, ServingChanged
from training.run_folders import cut_off, prune_runs, take_over, write_prepared
from training.runs import RunLedger, Verdict, actor, night_lock

HELD_OUT_SHARE = 0.2
"""Share of the questions made from the documents that examines, where nothing was rated and nothing is sealed."""


def run_night(
    home: Home, settings: Settings, *, slot: str, requested_by: str, progress: Show, from_ratings: bool = True
) -> NightReport:
    """Run one night; its outcome is recorded whatever happens. Raises NightInProgress when another one runs.

    Without `from_ratings` it learns from the documents alone, as a company does that has no ratings yet.
    """
    started = time.monotonic()
    with night_lock(home.root):
        ledger = RunLedger(home.db, home.runs)
        run = ledger.start(slot, requested_by)
        try:
            report = _Night(home, settings, ledger, run.id, progress).play(from_ratings)
        except NightEnded as ended:
            ledger.finish(run.id, ended.outcome, ended.verdict, str(ended))
            report = NightReport(run_id=run.id, outcome=ended.outcome, verdict=ended.verdict, reason=str(ended))
        except KeyboardInterrupt:
            ledger.finish(run.id, "cancelled", None, "Stopped at the keyboard; what serves is unchanged.")
            raise
        except Exception as error:  # the outer edge of a night: every run ends in a recorded outcome
            ledger.finish(run.id, "failed", None, f"{error} What serves is unchanged.")
            raise
        prune_runs(ledger, home.runs, keep_days=settings.night.keep_days)
    return NightReport(**{**vars(report), "seconds": round(time.monotonic() - started, 1)})


@dataclass(frozen=True, kw_only=True)
class _Prepared:
    """What a night trains on and is asked; `examples` and `unused` count ratings."""

    asked: list[Asked]
    snapshot: Snapshot
    examples: int
    unused: int


class _Night:
    """One run while it goes on."""

    def __init__(self, home: Home, settings: Settings, ledger: RunLedger, run_id: str, progress: Show) -> None:
        self.home, self.settings, self.ledger, self.run_id, self.show = home, settings, ledger, run_id, progress
        self.folder = ledger.folder(run_id)
        self.registry = AdapterRegistry(home.db, home.adapters)
        self.examinations = ExaminationStore(home.db)
        self.base = open_base(home.models, settings.engine.base_model)
        check_combination(settings.night.method, engine=engine_kind(settings.engine.kind, self.base))
        self.stages = Stages(ledger, run_id, progress)

    def play(self, from_ratings: bool) -> NightReport:
        """Play the night from curation to promotion."""
        prepared = self.take_up(from_ratings) or self.prepare(from_ratings)
        self.ledger.advance(self.run_id, "training")
        self.train()
        self.ledger.advance(self.run_id, "examining")
        serving = self.registry.current()
        results = self.examine(prepared.asked, serving)
        self.ledger.advance(self.run_id, "deciding")
        decision = self.decide(results)
        candidate = self.publish(prepared, results, decision, serving)
        self.report(report_of(results, decision, seed=self.settings.night.seed), candidate)
        verdict, reason = self.settle(candidate, decision, serving)
        self.ledger.finish(self.run_id, "succeeded", verdict, reason)
        self.show(Progress(stage="Done", share=1.0))
        return NightReport(
            run_id=self.run_id,
            outcome="succeeded",
            verdict=verdict,
            reason=reason,
            candidate=candidate,
            examples=prepared.examples,
            refused_examples=prepared.unused,
            notes=tuple(read_notes(self.folder)),
            summaries={name: result["summary"] for name, result in results.items()},
            decision=decision,
        )

    def prepare(self, from_ratings: bool) -> _Prepared:
        """Lay out what the night trains on and what it will be asked, before anything is trained."""
        examples, preferences, questions = self.curate() if from_ratings else self.bootstrap()
        asked = self.choose(questions)
        night = self.settings.night
        earlier = next((self.ledger.folder(run.id) for run in self.ledger.runs() if run.candidate), None)
        most = rows_within(night.minutes, earlier) if earlier else None
        rows = night_rows(
            self.home,
            self.settings,
            self.folder,
            examples=examples,
            held_out=questions,
            max_rows=most,
            render=lambda: self.stages.run("assistant.night_rows", "rows.log", rows_progress, stage="Preparing"),
        )
        snapshot = write_snapshot(
            rows,
            self.folder / "dataset",
            refusals=preferences.refusals,
            pairs=preferences.pairs,
            thumbs=preferences.thumbs,
            seed=night.seed,
            shares=shares_of(self.settings),
        )
        write_plan(self.folder / QUESTIONS, asked)
        settings = self.set_out(from_ratings)
        (self.folder / "config.json").write_text(json.dumps(settings["recipe"], indent=2), encoding="utf-8")
        write_prepared(self.folder, settings)
        rated = sum(bool(row.turn_id) for row in rows)
        return _Prepared(asked=asked, snapshot=snapshot, examples=rated, unused=preferences.unused)

    def take_up(self, from_ratings: bool) -> _Prepared | None:
        """Go on with the night before, where that was cut off and nothing that it hangs on has changed; None where not."""
        settings = self.set_out(from_ratings)
        earlier = cut_off(self.ledger, self.run_id, settings)
        if earlier is None:
            return None
        said = {(rated.turn.id, rated.feedback.user_id) for rated in FeedbackStore(self.home.db).rated_turns()}
        if not self.ledger.curated(earlier.id) <= said:
            return None  # somebody took back what he had said
        if not take_over(self.ledger.folder(earlier.id), self.folder, also=[QUESTIONS]):
            return None
        self.ledger.adopt_curation(self.run_id, earlier.id)
        note = f"It went on with the training of {earlier.id}, which was cut off at step {earlier.step}."
        write_prepared(self.folder, settings, note=note)
        self.show(Progress(stage="Training", share=0.0, detail=note))
        return _Prepared(
            asked=read_plan(self.folder / QUESTIONS),
            snapshot=open_snapshot(self.folder / "dataset"),
            examples=sum(bool(row["turn_id"]) for row in read_snapshot(self.folder / "dataset")),
            unused=len(self.ledger.refusals(self.run_id)),
        )

    def set_out(self, from_ratings: bool) -> dict[str, Any]:
        """Return what the rows and the training of this night hang on, beside the ratings and the documents."""
        night = self.settings.night.model_dump(exclude={"cron", "keep_days"})
        recipe = json.loads(self.recipe().to_json())
        sealed = Path(night["questions"])
        return {
            "from_ratings": from_ratings,
            "night": night,
            "recipe": recipe,
            "base": self.base.sha256,
            "sealed": sha256(sealed) if sealed.is_file() else "",
        }

    def publish(self, prepared: _Prepared, results: Mapping[str, Any], decision: Decision, serving: str) -> str:
        """Publish the candidate, whatever the verdict; returns its version."""
        recipe = json.loads((self.folder / "config.json").read_text("utf-8"))  # what was trained, whatever serves by now
        manifest = {
            "base_model": self.base.name,
            "base_hash": self.base.sha256,
            "dataset_hash": prepared.snapshot.sha256,
            "dataset_rows": prepared.snapshot.rows,
            "recipe": recipe,
            "seed": recipe["seed"],
            "libraries": {name: library_version(name) for name in LIBRARIES},
            "parent": serving,
            "examination": {name: result["summary"] for name, result in results.items()},
            "verdict": decision.verdict,
            "canary": results["candidate"]["canary"],
        }
        status: dict[str, Literal["candidate", "held", "rejected"]] = {
            "PROMOTE": "candidate",
            "HOLD": "held",
            "REJECT": "rejected",
        }
        version = self.registry.publish(self.folder / "adapter", manifest, status[decision.verdict], self.run_id)
        whole = read_examined(self.folder)["candidate"]  # more than the common ground of tonight
        self.examinations.keep(self.key_of(version), {**whole, "version": version})  # it may serve tomorrow
        return version

    def settle(self, candidate: str, decision: Decision, serving: str) -> tuple[Verdict, str]:
        """Put a candidate that passed into service; returns the verdict, a HOLD where somebody moved what serves meanwhile."""
        if decision.verdict == "PROMOTE":
            try:
                self.registry.promote(candidate, by=actor(self.run_id), reason=decision.reason, overruled=False, expected=serving)
            except ServingChanged as changed:
                return "HOLD", f"{changed} {candidate} was examined against {serving}: an admin may still promote it."
        return decision.verdict, decision.reason

    def report(self, report: Mapping[str, Any], candidate: str) -> None:
        """Keep what the examination found, and write it as a page that can be sent on."""
        self.examinations.save(self.run_id, report)
        page = examination_page(report, run_id=self.run_id, candidate=candidate, folder=self.folder)
        (self.folder / REPORT).write_text(page, encoding="utf-8")

    def curate(self) -> tuple[list[Example], Preferences, list[QuestionRow]]:
        """Turn the ratings into examples, preferences, and questions where none are sealed; too few examples is a HOLD."""
        self.show(Progress(stage="Curating", share=0.0))
        night = self.settings.night
        rated = FeedbackStore(self.home.db).rated_turns()
        sealed = load_questions(Path(night.questions)) if night.questions else []
        documents = DocumentStore(self.home.documents_db)
        template = ChatTemplate(self.base.hf_dir)
        guards: dict[str, Any] = {
            "sealed_questions": [row.question for row in sealed],
            "max_share": night.max_per_user,
            # as the engines count: up to a few tokens more than the trainer, which refuses a whole night for one long row
            "count_tokens": template.count,
            "max_tokens": engine_context(self.settings),
            "current_text": documents.current_text,
        }
        curated = curate(rated, **guards)
        examples, questions = list(curated.examples), sealed
        if not sealed:
            examples, questions = hold_out(curated.examples, {each.turn.id: each.turn for each in rated})
        guards["sealed_questions"] = [row.question for row in questions]
        preferences = preference_rows(rated, examples, curated.refusals, objective=night.objective, **guards)
        self.ledger.record_curation(self.run_id, curated.examples, preferences.refusals)
        if len(examples) < night.min_examples:
            raise NightEnded(
                "succeeded",
                "HOLD",
                f"Too little to learn from: {len(examples)} examples, {night.min_examples} are needed "
                f"({night.min_examples - len(examples)} more; {preferences.unused} ratings could not be used).",
            )
        return examples, preferences, questions

    def bootstrap(self) -> tuple[list[Example], Preferences, list[QuestionRow]]:
        """Begin with the documents alone: a part of the questions made from them examines, where none are sealed."""
        sealed = self.settings.night.questions
        if sealed:
            return [], Preferences(pairs=[], thumbs=[], refusals=[]), load_questions(Path(sealed))
        made = seed_questions(self.home, [], absent_share=0, seed=self.settings.night.seed)
        if not made:
            raise NightEnded("succeeded", "HOLD", "There is no document to learn from: `nightschool documents add FOLDER`.")
        examined = split_by(made, "fact", HELD_OUT_SHARE, seed=self.settings.night.seed)[1]
        return [], Preferences(pairs=[], thumbs=[], refusals=[]), examined

    def choose(self, questions: list[QuestionRow]) -> list[Asked]:
        """Choose what the examination asks; too little of it is a HOLD."""
        night = self.settings.night
        asked = plan(questions, sizes_of(night), seed=night.seed)
        facts = len({each.row.fact for each in asked if each.suite == "domain"})
        if facts < night.min_facts:
            raise NightEnded(
                "succeeded",
                "HOLD",
                f"Too little to examine with: {facts} questions, {night.min_facts} are needed "
                f"({night.min_facts - facts} more rated questions, or a file of sealed ones).",
            )
        return asked

    def recipe(self) -> Recipe:
        """Return the recipe of these settings; what an engine can hold is what can be trained on."""
        night = self.settings.night
        return Recipe(
            base=str(self.base.hf_dir),
            base_name=self.base.name,
            rank=night.rank,
            alpha=2 * night.rank,
            learning_rate=night.learning_rate or usual_rate(night.method),
            batch_size=night.batch,
            epochs=night.epochs,
            minutes=night.minutes,
            max_length=engine_context(self.settings),
            max_steps=night.max_steps or None,
            seed=night.seed,
            threads=cores(),
            report_to=night.report_to,
            method=night.method,
            objective=night.objective,
            start=self.start(),
            beta=night.beta,
            preference_rate=night.preference_rate,
            preference_share=night.preference_share,
            accumulation=night.accumulation,
            weight_decay=night.weight_decay,
            schedule=night.schedule,
            evaluation_share=night.evaluation_share,
            patience=night.patience,
            upper_layers=night.upper_layers or None,
            keep_activations=night.keep_activations,
        )

    def start(self) -> str | None:
        """Return the folder of the adapter that the training begins from; None: from none."""
        night = self.settings.night
        version = self.registry.current() if night.start_from == "serving" else BASE_VERSION
        if night.start_from == "starter":
            found = starter_version(self.registry, method=night.method, rank=night.rank, upper_layers=night.upper_layers or None)
            version = found or BASE_VERSION
        if version == BASE_VERSION:
            return None
        self.registry.verify(version)
        return str(self.registry.path(version))

    def train(self) -> None:
        """Train in a subprocess within the time budget, unless the night that this one goes on with had trained."""
        if not (self.folder / "adapter").is_dir():
            self.stages.run("training.trainer", "trainer.log", training_progress, stage="Training")

    def examine(self, asked: list[Asked], serving: str) -> dict[str, Any]:
        """Examine the candidate, and base and serving where their answers are not kept from an earlier night."""
        contestants = {
            "base": contestant(self.registry, "base", BASE_VERSION),
            "candidate": Contestant(name="candidate", version="candidate", folder=self.folder / "adapter"),
        }
        if serving != BASE_VERSION:
            contestants["serving"] = contestant(self.registry, "serving", serving)
        night, sizes = self.settings.night, sizes_of(self.settings.night)
        keys = {name: self.key_of(each.version) for name, each in contestants.items() if name != "candidate"}
        kept = kept_answers(self.examinations, keys)
        request = Request(
            home=self.home.root,
            settings=self.settings,
            contestants=tuple(contestants[name] for name in CONTESTANTS if name in contestants and name not in kept),
            sizes=sizes,
            seconds=night.minutes * 60 * night.examination,
            least=night.min_facts,
            objected=objected_in(kept),
        )
        (self.folder / "examine.json").write_text(request.to_json(), encoding="utf-8")
        self.stages.run("assistant.examiner", "examiner.log", examination_progress, stage="Examining")
        found = read_examined(self.folder)
        for name, key in keys.items():
            if name in found:
                self.examinations.keep(key, found[name])
        return on_common_ground({**kept, **found})

    def key_of(self, version: str) -> str:
        """Return what the answers of a version to tonight's questions are kept under."""
        questions, sizes = self.folder / QUESTIONS, sizes_of(self.settings.night)
        return answers_key(self.home, self.settings, self.base, version, questions=questions, sizes=sizes)

    def decide(self, results: Mapping[str, Any]) -> Decision:
        """Let the gate decide over the facts, with the floors of the other suites."""
        looks = looks_at(results, self.examinations, self.registry)
        return decision_of(results, self.settings.night, looks=looks)
