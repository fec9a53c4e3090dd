"""A night that was cut off is gone on with where nothing has changed, and folders of nights do not pile up."""

from __future__ import annotations

import fcntl
import itertools
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from training.checkpoints import MARKER, mark_complete
from training.curation import Example, Refusal
from training.methods import FILES
from training.progress_lines import PREPARED, read_notes
from training.registry import AdapterRegistry
from training.run_folders import RESUMABLE_HOURS, cut_off, prune_runs, take_over, write_prepared
from training.runs import RunLedger

NOW = datetime(2026, 11, 20, 3, 0, tzinfo=UTC)
SETTINGS = {"recipe": {"rank": 16}, "night": {"report_to": ()}}


@pytest.fixture
def ledger(tmp_path: Path) -> RunLedger:
    ticks = itertools.count()
    return RunLedger(tmp_path / "nightschool.db", tmp_path / "runs", clock=lambda: NOW + timedelta(milliseconds=next(ticks)))


def checkpoint(folder: Path, *, complete: bool = True) -> None:
    path = folder / "checkpoints" / "checkpoint-40"
    path.mkdir(parents=True)
    (path / "optimizer.pt").write_bytes(b"moments")
    if complete:
        mark_complete(path, step=40, seconds=60.0)


def a_run_cut_off(ledger: RunLedger, *, complete: bool = True) -> str:
    """Start a run, train to a checkpoint, and die; returns its id."""
    run = ledger.start("", "test")
    ledger.advance(run.id, "training")
    ledger.beat(run.id, 40)
    folder = ledger.folder(run.id)
    (folder / "questions.jsonl").write_text("{}\n")
    checkpoint(folder, complete=complete)
    write_prepared(folder, SETTINGS)
    ledger.close()  # frees the lock, as its process's death does
    return run.id


def test_the_next_night_goes_on_with_one_that_was_cut_off(ledger: RunLedger) -> None:
    cut = a_run_cut_off(ledger)
    run = ledger.start("", "test")
    ended = ledger.run(cut)
    assert ended.outcome == "abandoned" and "goes on from the newest checkpoint" in ended.reason
    found = cut_off(ledger, run.id, SETTINGS, now=NOW + timedelta(hours=1))
    assert found is not None and found.id == cut
    before, folder = ledger.folder(cut), ledger.folder(run.id)
    assert take_over(before, folder, also=["questions.jsonl"])
    assert (folder / "checkpoints" / "checkpoint-40" / "optimizer.pt").read_bytes() == b"moments"
    assert (folder / "questions.jsonl").is_file() and not (before / "checkpoints").exists()
    assert not (folder / PREPARED).exists(), "it is told last, so that a night killed while moving is begun anew"
    write_prepared(folder, SETTINGS, note="It went on.")
    assert read_notes(folder) == ["It went on."]


def test_a_night_begins_anew_after_half_a_day_or_with_other_settings_or_without_a_checkpoint(ledger: RunLedger) -> None:
    cut = a_run_cut_off(ledger)
    run = ledger.start("", "test")
    late = NOW + timedelta(hours=RESUMABLE_HOURS, minutes=1)
    assert cut_off(ledger, run.id, SETTINGS, now=late) is None
    assert cut_off(ledger, run.id, {**SETTINGS, "recipe": {"rank": 8}}, now=NOW) is None
    assert cut_off(ledger, run.id, SETTINGS, now=NOW) is not None
    (ledger.folder(cut) / "checkpoints" / "checkpoint-40" / MARKER).unlink()
    assert cut_off(ledger, run.id, SETTINGS, now=NOW) is None, "a checkpoint that was being written is none"


def test_a_night_that_ended_is_not_gone_on_with(ledger: RunLedger) -> None:
    cut = a_run_cut_off(ledger)
    other = ledger.start("", "test")
    ledger.finish(other.id, "cancelled", None, "An admin wanted that.")
    run = ledger.start("", "test")
    assert cut_off(ledger, run.id, SETTINGS, now=NOW) is None, f"{cut} is not the last one"


def test_a_night_that_had_published_is_not_gone_on_with(ledger: RunLedger, tmp_path: Path) -> None:
    cut = a_run_cut_off(ledger)
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    for name in FILES["lora"]:
        (adapter / name).write_bytes(b"{}")
    manifest = {"base_model": "b", "base_hash": "h", "verdict": "HOLD"}
    AdapterRegistry(tmp_path / "nightschool.db", tmp_path / "adapters").publish(adapter, manifest, "held", cut)
    assert cut_off(ledger, ledger.start("", "test").id, SETTINGS, now=NOW) is None, "it would be published twice"


def test_a_night_that_was_killed_before_it_was_prepared_is_begun_anew(ledger: RunLedger) -> None:
    cut = a_run_cut_off(ledger)
    (ledger.folder(cut) / PREPARED).unlink()
    assert cut_off(ledger, ledger.start("", "test").id, SETTINGS, now=NOW) is None


def test_nothing_is_taken_from_a_trainer_that_still_works(ledger: RunLedger, tmp_path: Path) -> None:
    before, folder = ledger.folder(a_run_cut_off(ledger)), tmp_path / "new"
    folder.mkdir()
    with (before / "trainer.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert not take_over(before, folder, wait=0.1)
    assert (before / "checkpoints").is_dir() and not list(folder.iterdir())


def test_what_became_of_each_rating_goes_with_it(ledger: RunLedger) -> None:
    cut = ledger.start("", "test")
    example = Example(id="e", prompt=(), completion="c", source="correction", turn_id="t1", user_id="u", weight=1.0)
    ledger.record_curation(cut.id, [example], [Refusal(turn_id="t2", user_id="u", reason="Too long.")])
    ledger.close()
    run = ledger.start("", "test")
    ledger.adopt_curation(run.id, cut.id)
    assert ledger.curated(run.id) == {("t1", "u"), ("t2", "u")} == ledger.curated(cut.id)
    assert ledger.example_counts(run.id) == {"correction": 1} and ledger.refusals(run.id)[0].reason == "Too long."


def test_checkpoints_go_when_a_night_ends_and_its_folder_by_age(ledger: RunLedger, tmp_path: Path) -> None:
    done = ledger.start("", "test")
    checkpoint(ledger.folder(done.id))
    (ledger.folder(done.id) / "report.html").write_text("kept")
    ledger.finish(done.id, "succeeded", "HOLD", "The data cannot tell.")
    cut = a_run_cut_off(ledger)
    running = ledger.start("", "test")
    checkpoint(ledger.folder(running.id))
    foreign = tmp_path / "runs" / "rest"
    checkpoint(foreign)
    prune_runs(ledger, tmp_path / "runs", keep_days=90, now=NOW)
    assert not (ledger.folder(done.id) / "checkpoints").exists() and (ledger.folder(done.id) / "report.html").exists()
    assert (ledger.folder(cut) / "checkpoints").is_dir(), "the next night may go on with it"
    prune_runs(ledger, tmp_path / "runs", keep_days=90, now=NOW + timedelta(hours=RESUMABLE_HOURS + 1))
    assert not (ledger.folder(cut) / "checkpoints").exists()
    prune_runs(ledger, tmp_path / "runs", keep_days=0, now=NOW + timedelta(days=1000))
    assert ledger.folder(done.id).is_dir(), "0 keeps them"
    prune_runs(ledger, tmp_path / "runs", keep_days=90, now=NOW + timedelta(days=91))
    assert not ledger.folder(done.id).exists() and not ledger.folder(cut).exists()
    assert (ledger.folder(running.id) / "checkpoints").is_dir() and (foreign / "checkpoints").is_dir()
