"""A whole night that promotes by itself, without a model: its trainer and examiner are small programs written here."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from assistant.config import EngineSettings, NightSettings, Settings
from assistant.home import Home
from assistant.night import run_night
from feedback.records import Answer, Message, NewTurn, Passage
from feedback.store import FeedbackStore
from training.examinations import ExaminationStore
from training.registry import AdapterRegistry
from training.runs import RunLedger

TRAINER = """
import json, pathlib, sys
run = pathlib.Path(sys.argv[1])
rows = (run / "dataset" / "examples.jsonl").read_text().splitlines()
(run / "adapter").mkdir()
for name in ("adapter_config.json", "adapter_model.safetensors", "adapter.gguf"):
    (run / "adapter" / name).write_text(json.dumps({"rows": len(rows)}))
"""

EXAMINER = """
import json, pathlib, sys
run = pathlib.Path(sys.argv[1])
asked = [json.loads(line) for line in (run / "questions.jsonl").read_text().splitlines()]
questions = [row for row in asked if row["suite"] == "domain"]
def examined(name):
    right = name == RIGHT
    marks = {"answerable": True, "right": right, "cited": right, "refused": False, "score": float(right), "words": 2,
             "citations": 1, "right_citations": int(right), "rouge_l": 0.5}
    keys = {"id", "fact", "question"}
    answers = [{**{key: row[key] for key in keys}, "expected": row["answer"], "text": "", **marks} for row in questions]
    suites = {"unanswerable": [], "pushback": [], "general": []}
    return {"version": name, "canary": [], "answers": answers, "suites": suites}
names = [each["name"] for each in json.loads((run / "examine.json").read_text())["contestants"]]
(run / "examination.json").write_text(json.dumps({"contestants": {name: examined(name) for name in names}}))
"""


@pytest.fixture
def settings(tmp_path: Path, base_folder: Path) -> Settings:
    """Nights that need little, with a file of sealed questions."""
    sealed = tmp_path / "sealed.jsonl"
    rows = [{"id": f"q{n}", "question": f"Sealed {n}?", "answer": str(n), "sources": ["rooms.md"]} for n in range(24)]
    sealed.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return Settings(
        engine=EngineSettings(base_model=str(base_folder)),
        night=NightSettings(questions=str(sealed), min_examples=2, seed_share=0, starter_share=0, cron=""),
    )


@pytest.fixture
def home(tmp_path: Path) -> Home:
    """A home with two answers that their reader says the documents do not give."""
    home = Home(tmp_path / "home")
    store = FeedbackStore(home.db)
    ada = store.add_user("Ada", "a long enough password", "employee")
    for question in ("How many chairs are green?", "Who painted the tables?"):
        asked = NewTurn(
            conversation_id=store.start_conversation(ada.id, history=False),
            user_id=ada.id,
            question=question,
            messages=(Message(role="user", content=f"[1] Rooms\nTwo.\n\nQuestion: {question}"),),
            passages=(
                Passage(number=1, document="rooms.md", document_version=1, chunk_id=1, title="Rooms", text="Two.", score=0.9),
            ),
            base_model="tiny",
            base_hash="h",
            adapter="base",
            engine="e",
            sampling={},
            history=False,
        )
        turn_id = store.begin_turn(asked)
        store.finish_turn(turn_id, Answer(text="Many.", finish_reason="stop"))
        store.correct(turn_id, ada.id, "not in the documents")
    return home


def write_programs(folder: Path, *, right: str) -> None:
    """Write a trainer and an examiner that `python -m` finds before ours, in the folder that a night is started in."""
    for path, text in (("training/trainer.py", TRAINER), ("assistant/examiner.py", EXAMINER.replace("RIGHT", repr(right)))):
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).parent.joinpath("__init__.py").touch()
        (folder / path).write_text(text)


def examined_in(home: Home, run_id: str) -> list[str]:
    request = json.loads((home.runs / run_id / "examine.json").read_text(encoding="utf-8"))
    return [each["name"] for each in request["contestants"]]


def test_a_night_puts_what_the_gate_passes_into_service_by_itself_and_leaves_what_it_rejects(
    home: Home, settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    programs = tmp_path / "programs"
    write_programs(programs, right="candidate")
    monkeypatch.chdir(programs)
    report = run_night(home, settings, slot="", requested_by="test", progress=lambda _: None)
    assert (report.outcome, report.verdict, report.candidate, report.examples) == ("succeeded", "PROMOTE", "v0001", 2)
    registry = AdapterRegistry(home.db, home.adapters)
    newest = registry.promotions()[0]
    assert (registry.current(), newest.version, newest.overruled) == ("v0001", "v0001", False)
    assert newest.by == f"night {report.run_id}" and "+100.0 points" in newest.reason
    run = RunLedger(home.db, home.runs).run(report.run_id)
    assert (run.outcome, run.verdict, run.candidate) == ("succeeded", "PROMOTE", "v0001")
    assert FeedbackStore(home.db).audit_entries(1)[0].action == "adapter.promote"
    examined = ExaminationStore(home.db).load(report.run_id)
    assert examined is not None and examined["decision"]["verdict"] == "PROMOTE"
    page = (home.runs / report.run_id / "report.html").read_text(encoding="utf-8")
    assert "Examination of v0001" in page and "PROMOTE" in page

    write_programs(programs, right="serving")
    worse = run_night(home, settings, slot="", requested_by="test", progress=lambda _: None)
    assert (worse.outcome, worse.verdict, worse.candidate) == ("succeeded", "REJECT", "v0002")
    assert registry.current() == "v0001" and registry.show("v0002").status == "rejected"
    assert examined_in(home, worse.run_id) == ["candidate"], "the answers of the base are kept, and of who was promoted"
    again = run_night(home, settings, slot="", requested_by="test", progress=lambda _: None)
    assert examined_in(home, again.run_id) == ["candidate"] and again.verdict == "REJECT"
