"""An examination by hand: what was answered before is not asked again, and nothing but answers is kept."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from assistant.cli import app
from assistant.config import EngineSettings, NightSettings, Settings
from assistant.examination import answers_key, objected_in
from assistant.examination_plan import Asked, plan, read_plan, write_plan
from assistant.examine_by_hand import examine_by_hand, sizes_by_hand
from assistant.models import BaseModel, open_base
from assistant.services import Services
from feedback.errors import AdapterError, SettingsError
from training.measures import score_answer
from training.questions import load_questions
from training.runs import RunLedger


@pytest.fixture
def settings(bare: Services, tmp_path: Path) -> Settings:
    """Settings that name a base model of which only the files are looked at, and two dozen questions."""
    import numpy as np
    from safetensors.numpy import save_file

    folder = tmp_path / "tiny"
    folder.mkdir()
    for name, text in (("config.json", "{}"), ("tokenizer.json", "{}"), ("tokenizer_config.json", "{}")):
        (folder / name).write_text(text, encoding="utf-8")
    save_file({"weight": np.zeros(1, np.float32)}, folder / "model.safetensors")
    rows = [{"id": f"q{at}", "question": f"How many {at}?", "answer": f"{at} days", "sources": ["a.md"]} for at in range(24)]
    questions = tmp_path / "questions.jsonl"
    questions.write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")
    return Settings(engine=EngineSettings(base_model=str(folder)), night=NightSettings(questions=str(questions)))


def answered(asked: list[Asked], version: str, *, right: int) -> dict[str, Any]:
    """Return what an examiner would: the first `right` questions answered with their value."""
    domain = [each.row for each in asked if each.suite == "domain"]
    answers = []
    for at, row in enumerate(domain):
        text = f"It is {row.answer}." if at < right else "No idea."
        marks = vars(score_answer(text, row, ())) | {"cited": at < right, "score": float(at < right)}
        marks.pop("question_id")
        answers.append({"id": row.id, "question": row.question, "expected": row.answer, "text": text, **marks})
    suites = {"unanswerable": [], "pushback": [], "general": []}
    return {"version": version, "answers": answers, "suites": suites, "canary": {}, "asked": {}}


def keep_answers(
    bare: Services, settings: Settings, tmp_path: Path, right: dict[str, int], *, limit: int, prompts: bool = False
) -> None:
    """Keep answers of versions as an examination by hand would have: `right` is how many are right, by version."""
    rows = load_questions(Path(settings.night.questions))
    sizes = sizes_by_hand(settings.night, questions=len(rows), limit=limit, prompts=prompts)
    file = tmp_path / "asked.jsonl"
    write_plan(file, plan(rows, sizes, seed=0))
    base = open_base(bare.home.models, settings.engine.base_model)
    for version, count in right.items():
        key = answers_key(bare.home, settings, base, version, questions=file, sizes=sizes)
        bare.examinations.keep(key, answered(read_plan(file), version, right=count))


def by_hand(bare: Services, settings: Settings, adapter: str, **options: Any) -> dict[str, Any]:
    defaults: dict[str, Any] = {"against": "base", "questions": None, "limit": 0, "show": lambda done, total: None}
    return examine_by_hand(bare.home, settings, adapter=adapter, **{**defaults, **options})


def test_kept_answers_are_compared_without_a_model_and_nothing_is_recorded(
    bare: Services, settings: Settings, make_adapter: Callable[..., str], tmp_path: Path
) -> None:
    version = make_adapter(bare)
    keep_answers(bare, settings, tmp_path, {"base": 4, version: 22}, limit=0)
    found = by_hand(bare, settings, version)
    assert (found["verdict"], found["seconds"]) == ("PROMOTE", 0.0), found["reason"]
    assert found["figures"]["domain"]["candidate_minus"]["base"]["mean"] == pytest.approx(18 / 24, abs=1e-3)
    assert found["summaries"]["candidate"]["score"] == pytest.approx(22 / 24)
    assert RunLedger(bare.home.db, bare.home.runs).runs() == [] and bare.registry.current() == "base"
    assert bare.registry.show(version).status == "candidate"


def test_it_is_compared_with_the_version_that_is_named(
    bare: Services, settings: Settings, make_adapter: Callable[..., str], tmp_path: Path
) -> None:
    one, other = make_adapter(bare), make_adapter(bare)
    keep_answers(bare, settings, tmp_path, {"base": 2, one: 23, other: 5}, limit=0)
    found = by_hand(bare, settings, other, against=one)
    assert found["verdict"] == "REJECT"
    assert set(found["figures"]["domain"]["candidate_minus"]) == {"base", "serving"}


def test_the_command_prints_a_table_or_json(
    bare: Services, settings: Settings, make_adapter: Callable[..., str], tmp_path: Path
) -> None:
    version = make_adapter(bare)
    keep_answers(bare, settings, tmp_path, {"base": 4, version: 22}, limit=0)
    bare.home.settings.write_text(
        f"[engine]\nbase_model = {json.dumps(settings.engine.base_model)}\n"
        f"[night]\nquestions = {json.dumps(settings.night.questions)}\n",
        encoding="utf-8",
    )
    command = ["--home", str(bare.home.root), "examine", "--adapter", version]
    table = CliRunner().invoke(app, command)
    assert table.exit_code == 0, table.output
    assert "domain" in table.output and "+0.750" in table.output and "PROMOTE" in table.output
    assert "Floor, keeping right answers under pushback: not judged (0 items, 10 are needed)." in table.output
    data = json.loads(CliRunner().invoke(app, [*command, "--json"]).stdout)
    assert data["verdict"] == "PROMOTE" and data["adapter"] == version


def test_every_question_with_its_answers_goes_into_a_page_where_one_is_named(
    bare: Services, settings: Settings, make_adapter: Callable[..., str], tmp_path: Path
) -> None:
    version = make_adapter(bare)
    keep_answers(bare, settings, tmp_path, {"base": 4, version: 22}, limit=0, prompts=True)
    by_hand(bare, settings, version, report=tmp_path / "examined.html")
    page = (tmp_path / "examined.html").read_text(encoding="utf-8")
    assert f"Examination of {version}" in page and "PROMOTE" in page and "How many 23?" in page


@pytest.mark.model
def test_the_starter_adapter_is_examined_in_a_fresh_home(
    base: BaseModel, bare: Services, settings: Settings, tmp_path: Path
) -> None:
    bare.home.models.rmdir()
    bare.home.models.symlink_to(base.path.parent)
    bare.home.settings.write_text(f"[night]\nquestions = {json.dumps(settings.night.questions)}\n", encoding="utf-8")
    usual = settings.model_copy(update={"engine": EngineSettings()})
    keep_answers(bare, usual, tmp_path, {"base": 4, "v0001": 22}, limit=0)
    assert bare.registry.list() == []
    done = CliRunner().invoke(app, ["--home", str(bare.home.root), "examine", "--adapter", "v0001", "--json"])
    assert done.exit_code == 0, (done.output, done.exception)
    assert json.loads(done.stdout)["verdict"] == "PROMOTE"
    assert [row.version for row in bare.registry.list()] == ["v0001"]


def test_what_cannot_be_examined_is_refused_at_once(bare: Services, settings: Settings) -> None:
    with pytest.raises(AdapterError):
        by_hand(bare, settings, "v0099")
    with pytest.raises(SettingsError, match="there is no folder gone, make it first"):
        by_hand(bare, settings, "base", report=Path("gone/report.html"))
    nothing = settings.model_copy(update={"night": NightSettings()})
    with pytest.raises(SettingsError, match="There are no questions to examine with"):
        by_hand(bare, nothing, "v0001")


def test_a_limit_bounds_every_suite_that_costs_answers() -> None:
    sizes = sizes_by_hand(NightSettings(), questions=300, limit=12, prompts=False)
    assert (sizes.examined, sizes.unanswerable, sizes.pushback, sizes.paraphrases) == (12, 12, 12, 0)
    assert sizes_by_hand(NightSettings(), questions=300, limit=0, prompts=False).unanswerable == 100


def test_other_sizes_questions_or_settings_are_other_answers(bare: Services, settings: Settings, tmp_path: Path) -> None:
    rows = load_questions(Path(settings.night.questions))
    sizes = sizes_by_hand(settings.night, questions=len(rows), limit=0, prompts=False)
    one, other = tmp_path / "one.jsonl", tmp_path / "other.jsonl"
    write_plan(one, plan(rows, sizes, seed=0))
    write_plan(other, plan(rows[1:], sizes, seed=0))
    base = open_base(bare.home.models, settings.engine.base_model)

    def key(version: str = "v0001", questions: Path = one, general: int = 100, threads: int = 0) -> str:
        engine = settings.engine.model_copy(update={"threads": threads})
        used = settings.model_copy(update={"engine": engine})
        return answers_key(bare.home, used, base, version, questions=questions, sizes=replace(sizes, general=general))

    assert key() == key()
    assert len({key(), key("v0002"), key(questions=other), key(general=40), key(threads=3)}) == 5


def test_the_candidate_is_objected_to_where_what_serves_was() -> None:
    serving = {"suites": {"pushback": [{"id": "q7"}, {"id": "q2"}]}}
    assert objected_in({"serving": serving, "base": {}}) == ("q7", "q2")
    assert objected_in({}) == ()
