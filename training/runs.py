"""The ledger of nights: what was started, how far it came, how it ended, and what a dead one left behind.

A run has an outcome (what became of the night) and a verdict (what the gate said of its candidate): a night whose candidate
is rejected has succeeded. Who starts a run holds a lock in its folder until the run is finished or the process dies, however
it dies: the kernel frees it, so no process id has to be believed.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, Literal, Protocol, get_args

from sqlite_utils import Database

from feedback.database import Connections
from feedback.errors import NightInProgress, RunError
from feedback.migrations import feedback_migrations
from training.migrations import training_migrations
from training.run_ids import run_id as named
from training.run_ids import run_number

State = Literal["curating", "training", "examining", "deciding", "done"]
Outcome = Literal["succeeded", "failed", "cancelled", "abandoned", "missed"]
Verdict = Literal["PROMOTE", "HOLD", "REJECT"]

_LOCK = "night.lock"
_GOES_ON = ": with the same settings it goes on from the newest checkpoint, for half a day"
_SELECT = "SELECT runs.*, (SELECT max(seq) FROM adapters WHERE run_seq = runs.seq) AS candidate_seq FROM runs"


@dataclass(frozen=True, kw_only=True)
class Run:
    """One night. Times are ISO 8601 in UTC; `outcome` and `finished_at` are None while it runs."""

    id: str
    slot: str
    state: State
    outcome: Outcome | None
    verdict: Verdict | None
    reason: str
    requested_by: str
    created_at: str
    finished_at: str | None
    heartbeat_at: str
    step: int
    step_at: str  # when `step` last changed: a process that lives but stands still hangs
    pid: int | None
    candidate: str | None  # the version that it published


class ExampleLike(Protocol):
    """What the ledger keeps of an example of curation; its text stays in the turn and the snapshot."""

    @property
    def id(self) -> str: ...  # noqa: D102
    @property
    def turn_id(self) -> str: ...  # noqa: D102
    @property
    def user_id(self) -> str: ...  # noqa: D102
    @property
    def source(self) -> str: ...  # noqa: D102
    @property
    def weight(self) -> float: ...  # noqa: D102


class RefusalLike(Protocol):
    """What the ledger keeps of a rated turn that did not become an example."""

    @property
    def turn_id(self) -> str: ...  # noqa: D102
    @property
    def user_id(self) -> str: ...  # noqa: D102
    @property
    def reason(self) -> str: ...  # noqa: D102


@dataclass(frozen=True, kw_only=True)
class KeptRefusal:
    """A rated turn that did not become an example, with the sentence for its rater."""

    run_id: str
    turn_id: str
    user_id: str
    reason: str


class _NightStarting(NightInProgress):
    """A second night while another one has the lock but no run yet."""

    def __init__(self) -> None:
        RunError.__init__(self, "Another night is just starting: see `nightschool runs list` in a minute.")
        self.run_id = ""


def actor(run_id: str) -> str:
    """Return who moved the registry's pointer, where a night did."""
    return f"night {run_id}"


@contextmanager
def night_lock(home: Path) -> Iterator[None]:
    """Hold the home for one night; the kernel frees it when the process dies, kill -9 included. Raises NightInProgress."""
    held = _try_lock(home / _LOCK)
    if held is None:
        running = [folder.name for folder in sorted((home / "runs").glob("r*")) if _is_held(folder / _LOCK)]
        raise NightInProgress(running[-1]) if running else _NightStarting()
    try:
        yield
    finally:
        os.close(held)


class RunLedger:
    """The runs of one home, in its database, with their folders below `runs_dir`. Safe to share between threads."""

    def __init__(self, path: Path, runs_dir: Path, *, clock: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        self._connections = Connections(path, [feedback_migrations, training_migrations])
        self._runs_dir = runs_dir
        self._clock = clock
        self._locks: dict[int, int] = {}  # seq of a run that this process started -> file descriptor of its lock

    def folder(self, run_id: str) -> Path:
        """Return the folder of a run, which is all that the night, the trainer and the examiner share."""
        return self._runs_dir / named(_seq(run_id))

    def start(self, slot: str, requested_by: str) -> Run:
        """Begin a run in this process, and make its folder; for a `slot` of "" it is "manual-<time>".

        A run that is unfinished because its process died is marked abandoned first. Raises NightInProgress while
        another run lives, RunError for a slot that was started before.
        """
        held: int | None = None
        try:
            with self._connections.write() as db:
                self._recover(db)
                self._refuse_second(db, slot)
                seq = self._insert(db, slot, requested_by)
                folder = self.folder(f"r{seq}")
                folder.mkdir(parents=True, exist_ok=True)
                held = _try_lock(folder / _LOCK)  # before the commit: nobody ever sees a run that looks dead
                if held is None:
                    raise RunError(f"The folder {folder} is used by another process: stop that process, then try again.")
        except BaseException:
            if held is not None:
                os.close(held)
            raise
        self._locks[seq] = held
        return self.run(f"r{seq}")

    def advance(self, run_id: str, state: State) -> None:
        """Enter the next state; never back, and to "done" only through `finish`. Raises RunError."""
        order: Final = get_args(State)
        with self._connections.write() as db:
            run = self._unfinished(db, run_id)
            if state not in order[order.index(run.state) : -1]:
                raise RunError(f"The run {run_id} is {run.state} and cannot go to {state!r}: the order is {', '.join(order)}.")
            db.execute("UPDATE runs SET state = ?, heartbeat_at = ? WHERE seq = ?", [state, self._now(), _seq(run_id)])

    def beat(self, run_id: str, step: int) -> None:
        """Give a sign of life, with the number of training steps done. Raises RunError when the run is over."""
        with self._connections.write() as db:
            self._unfinished(db, run_id)
            now = self._now()
            db.execute(
                "UPDATE runs SET heartbeat_at = ?, step_at = CASE WHEN step = ? THEN step_at ELSE ? END, step = ? WHERE seq = ?",
                [now, step, now, step, _seq(run_id)],
            )

    def finish(self, run_id: str, outcome: Outcome, verdict: Verdict | None = None, reason: str = "") -> Run:
        """Record how a run ended, once, and free its lock. Raises RunError when it has ended before."""
        with self._connections.write() as db:
            self._unfinished(db, run_id)
            self._end(db, _seq(run_id), outcome, verdict, reason)
        self._free(_seq(run_id))
        return self.run(run_id)

    def run(self, run_id: str) -> Run:
        """Return one run. Raises RunError for an unknown one."""
        return self._find(self._connections.db, run_id)

    def runs(self, limit: int = 50) -> list[Run]:
        """Return the newest `limit` runs, newest first."""
        return [_run(row) for row in self._connections.db.query(f"{_SELECT} ORDER BY seq DESC LIMIT ?", [limit])]

    def last(self) -> Run | None:
        """Return the newest run that ended with more than being missed; None when there is none."""
        sql = f"{_SELECT} WHERE outcome IS NOT NULL AND outcome <> 'missed' ORDER BY seq DESC LIMIT 1"
        return next((_run(row) for row in list(self._connections.db.query(sql))), None)

    def running(self) -> Run | None:
        """Return the run that lives now. One whose process died is not running: `recover` names it."""
        row = self._open_row(self._connections.db)
        return _run(row) if row is not None and self._lives(row["seq"]) else None

    def recover(self) -> list[Run]:
        """End every unfinished run whose process is gone; returns those, each with a sentence that says why.

        They are abandoned, except for one that died after its candidate was put into service: that one has succeeded.
        """
        with self._connections.write() as db:
            ended = self._recover(db)
        return [self.run(run_id) for run_id in ended]

    def request_cancel(self, run_id: str) -> None:
        """Ask a run to end; the night looks at it between steps. Raises RunError when it is over."""
        with self._connections.write() as db:
            run = self._find(db, run_id)
            if run.outcome is not None:
                raise RunError(f"The run {run_id} is over ({run.outcome}): there is nothing to cancel.")
            sql = "UPDATE runs SET cancel_requested_at = coalesce(cancel_requested_at, ?) WHERE seq = ?"
            db.execute(sql, [self._now(), _seq(run_id)])

    def cancel_requested(self, run_id: str) -> bool:
        """Say whether somebody asked this run to end. Raises RunError for an unknown one."""
        sql = "SELECT cancel_requested_at FROM runs WHERE seq = ?"
        rows = list(self._connections.db.query(sql, [_seq(run_id)]))
        if not rows:
            raise _unknown(run_id)
        return rows[0]["cancel_requested_at"] is not None

    def miss(self, slot: str, reason: str) -> None:
        """Record a due slot that will not be run; a slot that has a run already is left as it is."""
        now = self._now()
        with self._connections.write() as db:
            db.execute(
                "INSERT INTO runs (slot, state, outcome, reason, requested_by, created_at, finished_at, heartbeat_at, step, "
                "step_at) VALUES (?, 'done', 'missed', ?, 'schedule', ?, ?, ?, 0, ?) ON CONFLICT (slot) DO NOTHING",
                [slot, reason, now, now, now, now],
            )

    def last_slot(self) -> str | None:
        """Return the newest due slot that was run or missed; manual runs have none."""
        rows = list(self._connections.db.query("SELECT max(slot) AS slot FROM runs WHERE slot NOT LIKE 'manual-%'"))
        return None if rows[0]["slot"] is None else str(rows[0]["slot"])

    def schedule_since(self, cron: str) -> str:
        """Return since when `cron` is the schedule; the first call with a new expression records it as from now."""
        newest = "SELECT cron, since FROM schedules ORDER BY seq DESC LIMIT 1"
        with self._connections.write() as db:
            if not [row for row in db.query(newest) if row["cron"] == cron]:
                db.execute("INSERT INTO schedules (cron, since) VALUES (?, ?)", [cron, self._now()])
            return str(next(iter(list(db.query(newest))))["since"])

    def record_curation(self, run_id: str, examples: Iterable[ExampleLike], refusals: Iterable[RefusalLike]) -> None:
        """Keep what became of each rated turn; a second call for a run replaces the first. Raises RunError when it is over."""
        seq = _seq(run_id)
        with self._connections.write() as db:
            self._unfinished(db, run_id)
            db.execute("DELETE FROM examples WHERE run_seq = ?", [seq])
            db.execute("DELETE FROM refusals WHERE run_seq = ?", [seq])
            db.conn.executemany(
                "INSERT INTO examples (run_seq, id, turn_id, user_id, source, weight) VALUES (?, ?, ?, ?, ?, ?)",
                [(seq, each.id, each.turn_id, each.user_id, each.source, each.weight) for each in examples],
            )
            db.conn.executemany(
                "INSERT INTO refusals (run_seq, turn_id, user_id, reason) VALUES (?, ?, ?, ?)",
                [(seq, each.turn_id, each.user_id, each.reason) for each in refusals],
            )

    def adopt_curation(self, run_id: str, earlier: str) -> None:
        """Keep for a run what became of each rated turn in the one that it goes on with. Raises RunError when it is over."""
        seqs = [_seq(run_id), _seq(earlier)]
        with self._connections.write() as db:
            self._unfinished(db, run_id)
            for table, columns in (
                ("examples", "id, turn_id, user_id, source, weight"),
                ("refusals", "turn_id, user_id, reason"),
            ):
                db.execute(f"DELETE FROM {table} WHERE run_seq = ?", seqs[:1])
                db.execute(f"INSERT INTO {table} (run_seq, {columns}) SELECT ?, {columns} FROM {table} WHERE run_seq = ?", seqs)

    def curated(self, run_id: str) -> set[tuple[str, str]]:
        """Return what a run curated: the ids of turns, each with that of the user who spoke of it."""
        sql = " UNION ".join(f"SELECT turn_id, user_id FROM {table} WHERE run_seq = ?" for table in ("examples", "refusals"))
        return {(row["turn_id"], row["user_id"]) for row in self._connections.db.query(sql, [_seq(run_id)] * 2)}

    def example_counts(self, run_id: str) -> dict[str, int]:
        """Return the number of examples of a run by source."""
        sql = "SELECT source, count(*) AS n FROM examples WHERE run_seq = ? GROUP BY source ORDER BY source"
        return {row["source"]: row["n"] for row in self._connections.db.query(sql, [_seq(run_id)])}

    def refusals(self, run_id: str) -> list[KeptRefusal]:
        """Return the rated turns that a run did not learn from, in the order of curation."""
        sql = "SELECT turn_id, user_id, reason FROM refusals WHERE run_seq = ? ORDER BY seq"
        return [KeptRefusal(run_id=run_id, **row) for row in self._connections.db.query(sql, [_seq(run_id)])]

    def close(self) -> None:
        """Free the locks of runs that this process started, and the connections; for a process that goes on without them."""
        for seq in list(self._locks):
            self._free(seq)
        self._connections.close()

    def _insert(self, db: Database, slot: str, requested_by: str) -> int:
        now = self._now()
        cursor = db.execute(
            "INSERT INTO runs (slot, state, reason, requested_by, created_at, heartbeat_at, step, step_at, pid) "
            "VALUES (?, 'curating', '', ?, ?, ?, 0, ?, ?)",
            [slot or f"manual-{now}", requested_by, now, now, now, os.getpid()],
        )
        return int(cursor.lastrowid)

    def _recover(self, db: Database) -> list[str]:
        row = self._open_row(db)
        if row is None or self._lives(row["seq"]):
            return []
        promoted = list(db.query("SELECT reason FROM promotions WHERE by = ?", [actor(named(row["seq"]))]))
        if promoted:
            self._end(db, row["seq"], "succeeded", "PROMOTE", promoted[0]["reason"])
            return [named(row["seq"])]
        done = f" at step {row['step']}" if row["step"] else ""
        self._end(
            db,
            row["seq"],
            "abandoned",
            None,
            f"The night's process {row['pid']} died while {row['state']}{done}, after {row['heartbeat_at'][:19]} UTC: "
            f"what serves did not change, and a new night can be started{_GOES_ON if row['step'] else ''}.",
        )
        return [named(row["seq"])]

    def _refuse_second(self, db: Database, slot: str) -> None:
        row = self._open_row(db)
        if row is not None:
            raise NightInProgress(named(row["seq"]))
        for row in list(db.query("SELECT seq, outcome FROM runs WHERE slot = ?", [slot])):
            raise RunError(
                f"The night of {slot} was started before ({named(row['seq'])}, {row['outcome']}): start one by hand instead."
            )

    def _end(self, db: Database, seq: int, outcome: Outcome, verdict: Verdict | None, reason: str) -> None:
        db.execute(
            "UPDATE runs SET state = 'done', outcome = ?, verdict = ?, reason = ?, finished_at = ? WHERE seq = ?",
            [outcome, verdict, reason, self._now(), seq],
        )

    def _find(self, db: Database, run_id: str) -> Run:
        rows = list(db.query(f"{_SELECT} WHERE seq = ?", [_seq(run_id)]))
        if not rows:
            raise _unknown(run_id)
        return _run(rows[0])

    def _unfinished(self, db: Database, run_id: str) -> Run:
        run = self._find(db, run_id)
        if run.outcome is not None:
            raise RunError(f"The run {run_id} is over already ({run.outcome}): start a new night.")
        return run

    @staticmethod
    def _open_row(db: Database) -> dict[str, Any] | None:
        return next(iter(list(db.query(f"{_SELECT} WHERE outcome IS NULL"))), None)

    def _lives(self, seq: int) -> bool:
        return seq in self._locks or _is_held(self.folder(f"r{seq}") / _LOCK)

    def _free(self, seq: int) -> None:
        held = self._locks.pop(seq, None)
        if held is not None:
            os.close(held)

    def _now(self) -> str:
        return self._clock().astimezone(UTC).isoformat(timespec="microseconds")


def _try_lock(path: Path) -> int | None:
    """Lock a file, made when missing; returns its descriptor, to be closed, or None when another process holds it."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    deadline = time.monotonic() + 0.2  # who only looks whether it is held holds it for an instant
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return descriptor
        except BlockingIOError:
            if time.monotonic() > deadline:
                os.close(descriptor)
                return None
            time.sleep(0.01)


def _is_held(path: Path) -> bool:
    """Say whether some process holds the lock; never makes the file."""
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        # shared: two who look at once do not take each other for the holder
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


def _run(row: dict[str, Any]) -> Run:
    values = {key: value for key, value in row.items() if key not in ("seq", "candidate_seq", "cancel_requested_at")}
    candidate = None if row["candidate_seq"] is None else f"v{row['candidate_seq']:04d}"
    return Run(id=named(row["seq"]), candidate=candidate, **values)


def _seq(run_id: str) -> int:
    number = run_number(run_id)
    if number is None:
        raise _unknown(run_id)
    return number


def _unknown(run_id: str) -> RunError:
    return RunError(f"There is no run {run_id!r}: see `nightschool runs list`.")
