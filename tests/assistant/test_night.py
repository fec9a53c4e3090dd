"""The night's own steps without a model: what it trains on, what it tells the ledger, whom it gives way. The whole: tests/e2e."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from assistant.config import ChatSettings, NightSettings, Settings
from assistant.console import sample_company
from assistant.home import Home
from assistant.library import Library
from assistant.models import BaseModel
from assistant.night import _Night
from assistant.night_rows import seed_questions
from assistant.night_watch import BEAT_SECONDS, NightEnded, training_progress
from assistant.progress import Progress
from assistant.services import Services, engine_context
from assistant.shipped import install_starter
from feedback.errors import AdapterError, NightschoolError
from feedback.records import Answer, Message, NewTurn, Passage
from feedback.store import FeedbackStore
from training.checkpoints import mark_complete
from training.gate import Decision
from training.progress_lines import read_notes
from training.registry import AdapterRegistry
from training.runs import RunLedger

pytestmark = pytest.mark.model

STAGE = """
import json, pathlib, sys, time
folder = pathlib.Path(sys.argv[1])
for step in range(1, 21):
    with (folder / "progress.jsonl").open("a") as file:
        file.write(json.dumps({"step": step, "steps": 40, "loss": 1.0, "tokens_s": 100.0}) + chr(10))
    time.sleep(0.1)
"""


class CountingLedger(RunLedger):
    """A ledger that counts the signs of life that it is given."""

    beats = 0

    def beat(self, run_id: str, step: int) -> None:
        self.beats += 1
        super().beat(run_id, step)


@pytest.fixture
def home(tmp_path: Path, base: BaseModel) -> Home:
    """A new home that shares the imported base model, of which a night reads the tokenizer."""
    root = tmp_path / "home"
    root.mkdir()
    (root / "models").symlink_to(base.path.parent)
    return Home(root)


def a_night(home: Home, show: Callable[[Progress], None] = lambda _: None, **settings: Any) -> _Night:
    ledger = CountingLedger(home.db, home.runs)
    return _Night(home, Settings(night=NightSettings(**settings)), ledger, ledger.start("", "test").id, show)


def correct_an_answer(store: FeedbackStore, *, question: str, history: tuple[Message, ...] = ()) -> str:
    """Store a turn of one passage whose answer its user corrected; returns its id."""
    user = store.add_user(f"user {len(store.users())}", "long enough", "employee")
    text = "A room in London may cost up to 140 euros a night."
    passage = Passage(number=1, document="hotels.md", document_version=1, chunk_id=1, title="Hotels", text=text, score=0.9)
    new = NewTurn(
        conversation_id=store.start_conversation(user.id, history=bool(history)),
        user_id=user.id,
        question=question,
        messages=(*history, Message(role="user", content=f"[1] Hotels\n{text}\n\nQuestion: {question}")),
        passages=(passage,),
        base_model="b",
        base_hash="h",
        adapter="base",
        engine="e",
        sampling={},
        history=bool(history),
    )
    turn_id = store.begin_turn(new)
    store.finish_turn(turn_id, Answer(text="No idea.", finish_reason="stop"))
    store.correct(turn_id, user.id, "140 euros")
    return turn_id


def index_hotels(home: Home) -> None:
    pages = home.root / "pages"
    pages.mkdir()
    text = "# Hotels\n\nA room in London may cost up to 140 euros a night.\n"
    (pages / "hotels.md").write_text(text, encoding="utf-8")
    Library(home.documents_db, encoder="none").add_folder(pages)


def test_one_row_too_long_for_the_training_is_left_out_with_a_reason_and_the_night_goes_on(home: Home) -> None:
    index_hotels(home)
    store = FeedbackStore(home.db)
    # every rare letter is several tokens: 1,900 of them are a question that may be asked
    long = correct_an_answer(store, question="What may a room in London cost? " + "\u0e3f" * 1900)
    short = correct_an_answer(store, question="What may a room in London cost?")
    night = a_night(home, min_examples=9)
    assert engine_context(night.settings) == 2048
    with pytest.raises(NightEnded, match="1 ratings could not be used"):
        night.curate()
    (refusal,) = night.ledger.refusals(night.run_id)
    assert refusal.turn_id == long and "more than the 2048 that can be trained on" in refusal.reason
    assert sum(night.ledger.example_counts(night.run_id).values()) == 1 and short != long


def test_what_the_engine_can_hold_can_be_trained_on(home: Home) -> None:
    night = a_night(home)
    assert night.recipe().max_length == engine_context(night.settings) == 2048
    night.settings = Settings(chat=ChatSettings(prompt_tokens=1500))
    assert night.recipe().max_length == engine_context(night.settings) == 4096


def test_a_start_of_another_shape_is_refused_before_rows_are_laid_out(home: Home, base: BaseModel) -> None:
    assert install_starter(AdapterRegistry(home.db, home.adapters), base) == "v0001"
    night = a_night(home, start_from="serving", rank=8)
    with pytest.raises(AdapterError, match="cannot start from v0001: its r is 16, and the recipe's is 8"):
        night.play(from_ratings=True)
    assert not (night.folder / "dataset").exists()
    night.settings = Settings(night=NightSettings(start_from="serving"))
    assert str(night.recipe().start).endswith("v0001")


def test_the_ledger_gets_the_training_step_and_not_at_every_look(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    modules = home.root / "modules"
    modules.mkdir()
    (modules / "some_stage.py").write_text(STAGE, encoding="utf-8")
    monkeypatch.setenv("PYTHONPATH", str(modules))
    shown: list[Progress] = []
    night = a_night(home, shown.append)
    started = time.monotonic()
    night.stages.run("some_stage", "stage.log", training_progress, stage="Training")
    assert night.ledger.run(night.run_id).step == 20, "steps, not a share of the stage"
    assert isinstance(night.ledger, CountingLedger)
    assert 2 <= night.ledger.beats <= 2 + (time.monotonic() - started) / BEAT_SECONDS, "the first, the last, few between"
    assert len(shown) > 2


def decision() -> Decision:
    return Decision(**{**dict.fromkeys(Decision.__dataclass_fields__), "verdict": "PROMOTE", "reason": "better by 3 points"})


def test_a_candidate_that_passed_is_put_into_service(home: Home, make_adapter: Callable[..., str], bare: Services) -> None:
    night = a_night(bare_home(home, bare))
    candidate = make_adapter(bare)
    assert night.settle(candidate, decision(), "base") == ("PROMOTE", "better by 3 points")
    newest = night.registry.promotions()[0]
    assert (newest.version, newest.by) == (candidate, f"night {night.run_id}")


def test_a_night_does_not_overrule_an_admin_who_acted_while_it_ran(
    home: Home, make_adapter: Callable[..., str], bare: Services
) -> None:
    night = a_night(bare_home(home, bare))
    theirs, candidate = make_adapter(bare), make_adapter(bare)
    bare.registry.promote(theirs, "ada", "the new prices", True)
    verdict, reason = night.settle(candidate, decision(), "base")
    assert verdict == "HOLD" and "What serves changed meanwhile" in reason and candidate in reason
    assert bare.registry.current() == theirs


def bare_home(home: Home, bare: Services) -> Home:
    """Give the bare server's home the base model of `home`."""
    bare.home.models.rmdir()
    bare.home.models.symlink_to(home.models)
    return bare.home


def test_a_bootstrap_learns_from_no_rating_and_examines_with_a_part_of_what_the_documents_ask(home: Home) -> None:
    Library(home.documents_db, encoder="none").add_folder(sample_company() / "handbook" / "travel")
    examples, preferences, questions = a_night(home).bootstrap()
    made = seed_questions(home, [], absent_share=0, seed=0)
    assert examples == preferences.pairs == preferences.thumbs == []
    assert 0 < len(questions) < len(made) / 2 and all(row.answerable for row in questions)
    facts = {row.fact for row in questions}
    assert facts.isdisjoint(row.fact for row in seed_questions(home, questions, absent_share=0, seed=0))


def test_a_bootstrap_without_documents_is_a_hold_that_says_what_to_add(home: Home) -> None:
    with pytest.raises(NightEnded, match="documents add FOLDER"):
        a_night(home).bootstrap()


@pytest.fixture
def rated_home(home: Home) -> Home:
    """A home with one page and one corrected answer about it."""
    index_hotels(home)
    correct_an_answer(FeedbackStore(home.db), question="What may a room in London cost?")
    return home


def cut_off_while_training(home: Home, **settings: Any) -> _Night:
    """Prepare a night and let it die with one checkpoint written."""
    night = a_night(home, **settings)
    night.prepare(from_ratings=True)
    night.ledger.advance(night.run_id, "training")
    night.ledger.beat(night.run_id, 40)
    checkpoint = night.folder / "checkpoints" / "checkpoint-40"
    checkpoint.mkdir(parents=True)
    mark_complete(checkpoint, step=40, seconds=60.0)
    night.ledger.close()
    return night


def sealed_questions(folder: Path, count: int = 24) -> str:
    rows = [{"id": f"q{n}", "question": f"What is {n}?", "answer": str(n), "sources": ["hotels.md"]} for n in range(count)]
    path = folder / "sealed.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


FEW: dict[str, Any] = {"min_examples": 1, "starter_share": 0.0, "seed_share": 0.0}


def test_a_night_goes_on_with_the_rows_the_questions_and_the_checkpoint_of_one_that_was_cut_off(rated_home: Home) -> None:
    settings = {**FEW, "questions": sealed_questions(rated_home.root)}
    cut = cut_off_while_training(rated_home, **settings)
    correct_an_answer(FeedbackStore(rated_home.db), question="What may a room in Paris cost?")
    night = a_night(rated_home, **settings)
    prepared = night.take_up(from_ratings=True)
    assert prepared is not None and len(prepared.asked) >= 24 and prepared.examples == 1, "what was rated since waits a night"
    assert (night.folder / "checkpoints" / "checkpoint-40").is_dir()
    assert night.ledger.curated(night.run_id) == night.ledger.curated(cut.run_id) != set()
    assert read_notes(night.folder) == [f"It went on with the training of {cut.run_id}, which was cut off at step 40."]


def test_a_night_begins_anew_where_a_rating_was_taken_back_or_the_sealed_questions_changed(rated_home: Home) -> None:
    settings = {**FEW, "questions": sealed_questions(rated_home.root)}
    cut_off_while_training(rated_home, **settings)
    sealed_questions(rated_home.root, 25)
    other = a_night(rated_home, **settings)
    assert other.take_up(from_ratings=True) is None
    other.ledger.finish(other.run_id, "cancelled", None, "Enough for today.")
    night = cut_off_while_training(rated_home, **settings)
    store = FeedbackStore(rated_home.db)
    (rated,) = store.rated_turns()
    store.correct(rated.turn.id, rated.feedback.user_id, None)
    again = a_night(rated_home, **settings)
    assert again.take_up(from_ratings=True) is None and (night.folder / "checkpoints").is_dir()


def test_sealed_questions_that_are_not_there_are_named_in_a_sentence(rated_home: Home) -> None:
    night = a_night(rated_home, **FEW, questions="/nowhere/sealed.jsonl")
    assert night.take_up(from_ratings=True) is None
    with pytest.raises(NightschoolError, match=r"/nowhere/sealed\.jsonl"):
        night.prepare(from_ratings=True)
