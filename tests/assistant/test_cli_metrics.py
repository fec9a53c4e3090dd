"""`nightschool runs metrics`: a table for a person, every step for a program."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from assistant.cli import app
from assistant.home import Home
from feedback.errors import RunError
from training.runs import RunLedger


def metrics(home: Path, *arguments: str) -> Result:
    return CliRunner().invoke(app, ["--home", str(home), "runs", "metrics", *arguments], env={"COLUMNS": "100"})


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A home with one run of 200 steps, the last one cut, and one that never trained."""
    opened = Home(tmp_path)
    ledger = RunLedger(opened.db, opened.runs)
    trained = ledger.start("", "ada")
    lines = [json.dumps({"step": step, "steps": 200, "loss": 2.0, "tokens_s": 185.4, "at": step}) for step in range(1, 201)]
    (ledger.folder(trained.id) / "progress.jsonl").write_text("\n".join([*lines, '{"step": 201, "lo']), encoding="utf-8")
    ledger.finish(trained.id, "succeeded", "HOLD", "Too close.")
    ledger.finish(ledger.start("", "ada").id, "failed", None, "No room.")
    return tmp_path


def test_a_person_gets_a_short_table_to_the_last_step(home: Path) -> None:
    lines = metrics(home, "r0001").stdout.splitlines()
    assert 10 < len(lines) <= 22 and lines[-1].split()[0] == "200" and "185" in lines[-1]


def test_a_program_gets_every_step(home: Path) -> None:
    rows = json.loads(metrics(home, "r0001", "--json").stdout)
    assert len(rows) == 200 and rows[-1]["step"] == 200 and rows[0]["grad_norm"] is None
    table = metrics(home, "r0001", "--csv").stdout.splitlines()
    assert len(table) == 201 and "tokens_per_s" in table[0].split(",")


def test_a_run_without_steps_is_a_sentence_and_an_empty_table(home: Path) -> None:
    assert "r0002 wrote no training steps" in metrics(home, "r0002").stdout
    assert len(metrics(home, "r0002", "--csv").stdout.splitlines()) == 1
    assert json.loads(metrics(home, "r0002", "--json").stdout) == []


def test_an_unknown_run_is_named_and_two_shapes_at_once_are_refused(home: Path) -> None:
    assert isinstance(metrics(home, "r0099").exception, RunError)
    assert metrics(home, "r0001", "--csv", "--json").exit_code == 2
