from __future__ import annotations

from pathlib import Path

import pytest

from feedback.errors import RunError
from training.examinations import KEPT, ExaminationStore
from training.runs import RunLedger


@pytest.fixture
def store(tmp_path: Path) -> ExaminationStore:
    return ExaminationStore(tmp_path / "nightschool.db")


def test_the_report_of_a_run_comes_back_as_it_was_and_the_later_one_counts(store: ExaminationStore, tmp_path: Path) -> None:
    run = RunLedger(tmp_path / "nightschool.db", tmp_path / "runs").start("", "ada")
    assert store.load(run.id) is None
    store.save(run.id, {"base": {"score": 0.1}})
    store.save(run.id, {"base": {"score": 0.25}, "answers": [{"text": "140 \u20ac [1]"}]})
    assert ExaminationStore(tmp_path / "nightschool.db").load(run.id) == {
        "base": {"score": 0.25},
        "answers": [{"text": "140 \u20ac [1]"}],
    }


@pytest.mark.parametrize("run_id", ["r0001", "", "rx", "r\u00b2"])
def test_a_report_belongs_to_a_run(store: ExaminationStore, run_id: str) -> None:
    with pytest.raises(RunError, match="There is no run"):
        store.save(run_id, {})
    assert store.load(run_id) is None


def test_answers_are_kept_under_all_that_they_depend_on(store: ExaminationStore) -> None:
    store.keep("base+index1", {"answers": ["a"]})
    store.keep("base+index1", {"answers": ["b"]})
    assert store.kept("base+index1") == {"answers": ["b"]}
    assert store.kept("base+index2") is None


def test_the_oldest_kept_answers_make_room(store: ExaminationStore) -> None:
    for number in range(KEPT + 1):
        store.keep(f"key {number}", {"number": number})
        store.keep("key 0", {"number": 0})  # kept anew each night
    assert store.kept("key 1") is None
    assert store.kept("key 2") == {"number": 2}
    assert store.kept("key 0") == {"number": 0}
