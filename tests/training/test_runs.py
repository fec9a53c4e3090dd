from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from feedback.errors import NightInProgress, RunError
from training.methods import FILES
from training.registry import AdapterRegistry
from training.runs import RunLedger, actor, night_lock

ROOT = Path(__file__).parents[2]

NIGHT = """
import sys, time
from pathlib import Path
from training.runs import RunLedger, night_lock
home = Path(sys.argv[1])
with night_lock(home):
    ledger = RunLedger(home / "nightschool.db", home / "runs")
    run = ledger.start("2026-11-20T01:00:00+00:00", "schedule")
    ledger.advance(run.id, "training")
    ledger.beat(run.id, 40)
    print(run.id, flush=True)
    time.sleep(60)
"""


class Clock:
    """A clock that stands until it is moved."""

    def __init__(self) -> None:
        self.now = datetime(2026, 11, 20, 1, 0, tzinfo=UTC)

    def __call__(self) -> datetime:
        return self.now

    def move(self, **by: float) -> None:
        self.now += timedelta(**by)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def ledger(tmp_path: Path, clock: Clock) -> RunLedger:
    return RunLedger(tmp_path / "nightschool.db", tmp_path / "runs", clock=clock)


def again(tmp_path: Path) -> RunLedger:
    """Open the same home a second time, as another process does."""
    return RunLedger(tmp_path / "nightschool.db", tmp_path / "runs")


@pytest.fixture
def night(tmp_path: Path):
    """A process that holds the lock and has a run in training."""
    (tmp_path / "runs").mkdir()
    process = subprocess.Popen(
        [sys.executable, "-c", NIGHT, str(tmp_path)],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert process.stdout is not None
    assert process.stdout.readline().strip() == "r0001"
    yield process
    process.kill()
    process.wait()
    process.stdout.close()


def test_a_night_is_recorded_from_its_start_to_its_outcome(ledger: RunLedger, clock: Clock) -> None:
    run = ledger.start("2026-11-20T01:00:00+00:00", "schedule")
    assert (run.id, run.state, run.outcome, run.pid, run.finished_at) == ("r0001", "curating", None, os.getpid(), None)
    assert ledger.folder(run.id).is_dir()
    assert ledger.running() == run
    assert ledger.last() is None
    clock.move(minutes=5)
    for state in ("training", "examining", "deciding"):
        ledger.advance(run.id, state)
        assert ledger.run(run.id).state == state
    done = ledger.finish(run.id, "succeeded", "REJECT", "worse than what serves by 3 points")
    assert (done.state, done.outcome, done.verdict, done.reason) == (
        "done",
        "succeeded",
        "REJECT",
        "worse than what serves by 3 points",
    )
    assert done.finished_at == "2026-11-20T01:05:00.000000+00:00"
    assert ledger.running() is None
    assert ledger.last() == done


def test_runs_are_listed_newest_first_and_limited(ledger: RunLedger) -> None:
    for slot in ("a", "b", "c"):
        ledger.finish(ledger.start(slot, "ada").id, "succeeded")
    assert [run.id for run in ledger.runs()] == ["r0003", "r0002", "r0001"]
    assert [run.id for run in ledger.runs(limit=1)] == ["r0003"]


def test_a_second_night_is_refused_while_one_runs_and_names_it(ledger: RunLedger, tmp_path: Path) -> None:
    run = ledger.start("", "ada")
    assert run.slot.startswith("manual-")
    for other in (ledger, again(tmp_path)):
        with pytest.raises(NightInProgress, match="r0001"):
            other.start("", "bob")
        assert other.recover() == []
        assert other.running() is not None
    ledger.finish(run.id, "cancelled")
    assert again(tmp_path).start("", "bob").id == "r0002"


def test_of_many_that_start_at_once_one_does(tmp_path: Path) -> None:
    ledgers = [again(tmp_path) for _ in range(6)]
    barrier = threading.Barrier(6)

    def start(ledger: RunLedger) -> bool:
        barrier.wait()
        try:
            ledger.start("", "ada")
        except NightInProgress:
            return False
        return True

    with ThreadPoolExecutor(6) as threads:
        assert sorted(threads.map(start, ledgers)) == [False] * 5 + [True]


def test_a_slot_starts_one_night_ever(ledger: RunLedger) -> None:
    slot = "2026-11-20T01:00:00+00:00"
    ledger.finish(ledger.start(slot, "schedule").id, "failed")
    with pytest.raises(RunError, match=r"r0001, failed"):
        ledger.start(slot, "schedule")
    assert ledger.running() is None


@pytest.mark.parametrize("state", ["curating", "done", "sleeping"])
def test_a_run_never_goes_back_nor_ends_without_an_outcome(ledger: RunLedger, state: str) -> None:
    run = ledger.start("", "ada")
    ledger.advance(run.id, "training")
    with pytest.raises(RunError, match="cannot go to"):
        ledger.advance(run.id, state)  # type: ignore[arg-type]
    assert ledger.run(run.id).state == "training"


def test_a_run_ends_once(ledger: RunLedger) -> None:
    run = ledger.start("", "ada")
    ledger.finish(run.id, "succeeded", "PROMOTE", "better")
    for late in (
        lambda: ledger.finish(run.id, "failed"),
        lambda: ledger.advance(run.id, "deciding"),
        lambda: ledger.beat(run.id, 7),
        lambda: ledger.request_cancel(run.id),
        lambda: ledger.record_curation(run.id, [], []),
    ):
        with pytest.raises(RunError, match="succeeded"):
            late()
    assert ledger.run(run.id).verdict == "PROMOTE"


def test_a_standstill_shows_though_the_process_lives(ledger: RunLedger, clock: Clock) -> None:
    run = ledger.start("", "ada")
    clock.move(minutes=1)
    ledger.beat(run.id, 12)
    clock.move(minutes=9)
    ledger.beat(run.id, 12)
    seen = ledger.run(run.id)
    assert (seen.step, seen.step_at[11:16], seen.heartbeat_at[11:16]) == (12, "01:01", "01:10")


def test_a_cancellation_is_seen_by_the_night_and_by_nobody_else(ledger: RunLedger, clock: Clock, tmp_path: Path) -> None:
    run = ledger.start("", "ada")
    assert not ledger.cancel_requested(run.id)
    again(tmp_path).request_cancel(run.id)
    assert ledger.cancel_requested(run.id)
    ledger.finish(run.id, "cancelled")
    clock.move(seconds=1)
    assert not ledger.cancel_requested(ledger.start("", "ada").id)


@pytest.mark.parametrize("run_id", ["r0009", "", "9", "r", "v0001", "r-1", "r999999999999999999999999", "r\u0663"])
def test_an_unknown_run_is_one_sentence(ledger: RunLedger, run_id: str) -> None:
    for ask in (ledger.run, ledger.cancel_requested, ledger.request_cancel):
        with pytest.raises(RunError, match="There is no run"):
            ask(run_id)


def test_kill_9_of_a_night_leaves_a_sentence_and_the_way_free(night: subprocess.Popen[str], tmp_path: Path) -> None:
    ledger = again(tmp_path)
    assert ledger.recover() == []
    running = ledger.running()
    assert running is not None
    assert (running.id, running.pid, running.state) == ("r0001", night.pid, "training")
    with pytest.raises(NightInProgress, match="r0001"), night_lock(tmp_path):
        pass

    night.send_signal(signal.SIGKILL)
    night.wait()

    assert ledger.running() is None
    (dead,) = ledger.recover()
    assert (dead.state, dead.outcome, dead.verdict) == ("done", "abandoned", None)
    assert f"process {night.pid} died while training at step 40" in dead.reason
    assert ledger.recover() == []
    with night_lock(tmp_path):
        assert ledger.start("", "ada").id == "r0002"


def test_kill_9_right_after_the_promotion_is_a_night_that_succeeded(night: subprocess.Popen[str], tmp_path: Path) -> None:
    registry = AdapterRegistry(tmp_path / "nightschool.db", tmp_path / "adapters")
    candidate = tmp_path / "candidate"
    candidate.mkdir()
    for name in FILES["lora"]:
        (candidate / name).write_text("{}")
    version = registry.publish(candidate, {}, "candidate", "r0001")
    registry.promote(version, actor("r0001"), "better by 3 points", overruled=False)
    night.send_signal(signal.SIGKILL)
    night.wait()
    (ended,) = again(tmp_path).recover()
    assert (ended.outcome, ended.verdict, ended.reason) == ("succeeded", "PROMOTE", "better by 3 points")
    assert ended.candidate == version == registry.current()


def test_a_start_after_kill_9_needs_no_recovery_by_hand(night: subprocess.Popen[str], tmp_path: Path) -> None:
    night.send_signal(signal.SIGKILL)
    night.wait()
    ledger = again(tmp_path)
    assert ledger.start("", "ada").id == "r0002"
    assert ledger.run("r0001").outcome == "abandoned"


def test_a_process_that_has_its_number_anew_is_not_taken_for_the_night(tmp_path: Path) -> None:
    first = again(tmp_path)
    first.start("", "ada")
    first.close()  # what the kernel does at a death; the process id in the row is alive: it is ours
    (dead,) = again(tmp_path).recover()
    assert dead.outcome == "abandoned"


def test_the_night_lock_is_free_after_its_block_also_after_an_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="oops"), night_lock(tmp_path):
        with pytest.raises(NightInProgress, match="just starting"), night_lock(tmp_path):
            pass
        raise ValueError("oops")
    with night_lock(tmp_path):
        pass


def test_a_start_that_fails_leaves_no_run_behind(ledger: RunLedger, tmp_path: Path) -> None:
    (tmp_path / "runs").write_text("a file where the run folders belong")
    with pytest.raises(Exception, match="runs"):
        ledger.start("slot", "ada")
    (tmp_path / "runs").unlink()
    assert ledger.runs() == []
    assert ledger.start("slot", "ada").id == "r0001"


def test_a_missed_night_is_recorded_and_is_not_the_last_one(ledger: RunLedger) -> None:
    ledger.finish(ledger.start("2026-11-20T01:00:00+00:00", "schedule").id, "succeeded")
    ledger.miss("2026-11-21T01:00:00+00:00", "no server ran")
    ledger.miss("2026-11-20T01:00:00+00:00", "ran, so not missed")
    assert [(run.outcome, run.reason) for run in ledger.runs()] == [("missed", "no server ran"), ("succeeded", "")]
    last = ledger.last()
    assert last is not None
    assert last.id == "r0001"
    assert ledger.last_slot() == "2026-11-21T01:00:00+00:00"


def test_a_manual_night_takes_no_slot(ledger: RunLedger) -> None:
    ledger.finish(ledger.start("", "ada").id, "succeeded")
    assert ledger.last_slot() is None


def test_a_schedule_counts_from_when_it_was_first_seen(ledger: RunLedger, clock: Clock, tmp_path: Path) -> None:
    first = ledger.schedule_since("0 2 * * *")
    clock.move(days=3)
    assert ledger.schedule_since("0 2 * * *") == first == again(tmp_path).schedule_since("0 2 * * *")
    changed = ledger.schedule_since("0 3 * * *")
    assert changed > first
    clock.move(days=1)
    assert ledger.schedule_since("0 2 * * *") > changed


@dataclass(frozen=True, kw_only=True)
class Example:
    id: str
    turn_id: str
    user_id: str
    source: str
    weight: float


@dataclass(frozen=True, kw_only=True)
class Refusal:
    turn_id: str
    user_id: str
    reason: str


def test_what_became_of_each_rated_turn_can_be_read_back(ledger: RunLedger) -> None:
    run = ledger.start("", "ada")
    examples = [
        Example(id="e1", turn_id="t1", user_id="u1", source="correction", weight=1.0),
        Example(id="e2", turn_id="t2", user_id="u2", source="correction", weight=1.0),
        Example(id="e3", turn_id="t3", user_id="u1", source="thumbs_up", weight=0.5),
    ]
    refusals = [Refusal(turn_id="t4", user_id="u1", reason="no passage of this answer supports the correction")]
    ledger.record_curation(run.id, examples[:1], [*refusals, *refusals])
    ledger.record_curation(run.id, examples, refusals)
    assert ledger.example_counts(run.id) == {"correction": 2, "thumbs_up": 1}
    assert [(each.turn_id, each.reason) for each in ledger.refusals(run.id)] == [("t4", refusals[0].reason)]
