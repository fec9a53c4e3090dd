"""Which nights count as looks at the same questions: with the real registry, ledger and store of a home."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from assistant.config import NightSettings
from assistant.examination import decision_of, looks_at
from training.examinations import ExaminationStore
from training.registry import BASE, AdapterRegistry
from training.runs import RunLedger


class Nights:
    """A home that is examined night after night; a clock that all of it shares moves on by a day."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.now = datetime(2026, 11, 22, 2, tzinfo=UTC)
        clock = {"clock": lambda: self.now}
        self.registry = AdapterRegistry(root / "nightschool.db", root / "adapters", **clock)
        self.store = ExaminationStore(root / "nightschool.db", **clock)
        self.ledger = RunLedger(root / "nightschool.db", root / "runs", **clock)

    def night(self, facts: range = range(40), *, won: int = 0) -> dict[str, Any]:
        """Examine a candidate that wins some facts, decide, and store the decision; returns it as JSON data."""
        serving, candidate = ({"answers": [answer(n, right=n < each) for n in facts]} for each in (0, won))
        results = {"base": serving, "serving": serving, "candidate": candidate}
        run = self.ledger.start(self.now.isoformat(), "schedule")
        looks = looks_at(results, self.store, self.registry)
        decision = decision_of(results, NightSettings(), looks=looks).as_dict()
        self.store.save(run.id, {"decision": decision})
        self.ledger.finish(run.id, "succeeded", decision["verdict"])
        self.now += timedelta(days=1)
        return decision

    def publish(self) -> str:
        folder = self.root / "candidate"
        folder.mkdir(exist_ok=True)
        for name in ("adapter_config.json", "adapter_model.safetensors", "adapter.gguf"):
            (folder / name).write_text("{}")
        return self.registry.publish(folder, {}, "candidate", None)


def answer(number: int, *, right: bool) -> dict[str, Any]:
    marks = {"answerable": True, "right": right, "cited": right, "refused": False, "score": float(right), "words": 1}
    return {"id": f"q{number}", "fact": f"f{number}", **marks, "citations": 0, "right_citations": 0, "rouge_l": 0.0}


@pytest.fixture
def nights(tmp_path: Path) -> Nights:
    return Nights(tmp_path)


def test_every_night_with_the_same_questions_is_one_more_look_until_something_is_promoted(nights: Nights) -> None:
    assert [nights.night(won=3)["looks"] for _ in range(3)] == [1, 2, 3]
    nights.registry.promote(nights.publish(), by="ada", reason="seen", overruled=True)
    nights.now += timedelta(seconds=1)
    assert [nights.night()["looks"] for _ in range(2)] == [1, 2]


def test_a_rollback_does_not_start_the_count_anew(nights: Nights) -> None:
    nights.registry.promote(nights.publish(), by="ada", reason="", overruled=False)
    nights.now += timedelta(seconds=1)
    nights.night()
    assert nights.registry.rollback("ada") == BASE
    nights.now += timedelta(seconds=1)
    assert nights.night()["looks"] == 2


def test_a_few_new_questions_are_no_new_start_and_many_are(nights: Nights) -> None:
    nights.night(range(40))
    assert nights.night(range(44))["looks"] == 2
    assert nights.night(range(30, 120))["looks"] == 1


def test_what_would_be_promoted_on_a_first_night_is_held_on_the_fourth(nights: Nights) -> None:
    assert [nights.night()["verdict"] for _ in range(3)] == ["HOLD"] * 3
    fourth = nights.night(won=7)
    assert (fourth["looks"], fourth["verdict"]) == (4, "HOLD") and fourth["inputs"]["looks"] == 4
    nights.registry.promote(nights.publish(), by="ada", reason="", overruled=False)
    nights.now += timedelta(seconds=1)
    assert nights.night(won=7)["verdict"] == "PROMOTE"
