"""The adapters of one home: published whole or not at all, hashed, and the one pointer to the version that serves.

A folder `v0007` holds exactly the files of its kind (`training.methods.FILES`) and manifest.json. It is written under another
name, synced, renamed, and only then named in the database, so a process that dies at any moment leaves either a published
adapter or something that the next start sweeps away. The pointer is the newest row of an append-only table.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, Literal

from sqlite_utils import Database

from feedback.audit import append_audit
from feedback.database import Connections
from feedback.errors import AdapterError, CorruptAdapter, RunError, UnknownAdapter
from feedback.migrations import feedback_migrations
from feedback.part import storable
from training.durable import copy, sha256, sync
from training.methods import files_of
from training.migrations import training_migrations
from training.run_ids import run_id as named
from training.run_ids import run_number

BASE: Final = "base"
"""The name of the base model without an adapter, as what serves."""

MANIFEST: Final = "manifest.json"

Status = Literal["candidate", "held", "rejected", "promoted"]
"""What the gate said; "promoted" also once a version has served."""

_TEMPORARY = ".publishing-"
_LOCK = ".publish.lock"


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """The manifest of a published adapter. `files` maps names to SHA-256 in hex; `content` is the whole JSON object."""

    version: str
    created_at: str
    files: dict[str, str]
    content: dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class AdapterRow:
    """A published adapter as the registry names it. Times are ISO 8601 in UTC."""

    version: str
    status: Status
    run_id: str | None  # None: not made by a run here
    created_at: str
    serving: bool
    promoted_at: str | None  # the last time that it was promoted; None: never
    manifest: dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Promotion:
    """One move of the pointer: what serves from then on, who moved it and why."""

    action: Literal["promote", "rollback"]
    version: str
    by: str
    reason: str
    overruled: bool
    at: str


class ServingChanged(AdapterError):
    """A promotion that counted on a version in service which is not (any more)."""

    def __init__(self, expected: str, found: str) -> None:
        super().__init__(f"What serves changed meanwhile: it was {expected} and is {found} now, so nothing was promoted.")
        self.found = found


class AdapterRegistry:
    """The adapters below `adapters_dir`, named in the database at `path`. Safe to share between threads and processes.

    What a dead publication left behind is removed when the object is made.
    """

    def __init__(self, path: Path, adapters_dir: Path, *, clock: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        self._connections = Connections(path, [feedback_migrations, training_migrations])
        self._folder = adapters_dir
        self._clock = clock
        adapters_dir.mkdir(parents=True, exist_ok=True)
        with self._publishing(wait=False) as lock:
            if lock is not None:  # somebody publishes right now: nothing there is dead
                self._sweep(lock)

    def next_version(self) -> str:
        """Return the version that the next publication gets, if nobody publishes before."""
        rows = list(self._connections.db.query("SELECT coalesce(max(seq), 0) AS seq FROM adapters"))
        # folders count too: beside a database restored from a backup there can be newer ones, which stay as they are
        found = [int(each.name[1:]) for each in self._folder.glob("v*") if _is_version(each.name)]
        return _version(max([rows[0]["seq"], *found]) + 1)

    def publish(self, candidate: Path, manifest: Mapping[str, Any], status: Status, run_id: str | None) -> str:
        """Copy a candidate's files into a new version and name it in the registry; returns the version. It does not serve yet.

        `manifest` is any JSON object; version, status, run_id, created_at and files (SHA-256 each) are set here. Raises
        AdapterError for a candidate without its files and for a disk that cannot take them, RunError for an unknown run.
        """
        missing = [name for name in files_of(candidate) if not (candidate / name).is_file()]
        if missing:
            raise AdapterError(f"The candidate {candidate} has no {' and no '.join(missing)}: train it again.")
        run_seq = self._run_seq(run_id)
        with self._publishing(wait=True) as lock:
            assert lock is not None
            self._sweep(lock)
            version = self.next_version()
            created_at = self._now()
            content = {**manifest, "version": version, "status": status, "run_id": run_id, "created_at": created_at}
            try:
                text = self._write(lock, candidate, version, content)
            except OSError as error:
                self._sweep(lock)
                raise AdapterError(
                    f"The adapter {version} cannot be written to {self._folder} ({error.strerror}): free some space, and publish "
                    f"{candidate} again."
                ) from error
            with self._connections.write() as db:
                db.execute(
                    "INSERT INTO adapters (seq, status, run_seq, manifest, created_at) VALUES (?, ?, ?, ?, ?)",
                    [_seq(version), status, run_seq, text, created_at],
                )
            _note(lock, "")
        return version

    def verify(self, version: str) -> Manifest:
        """Read every file of a version and compare it with the registry. Raises UnknownAdapter or CorruptAdapter."""
        text = str(self._row(version)["manifest"])
        folder = self._folder / version
        content: dict[str, Any] = json.loads(text)
        try:
            found = sorted(each.name for each in folder.iterdir())
            if found != sorted([*content["files"], MANIFEST]):
                raise CorruptAdapter(version, _difference(set(found), {*content["files"], MANIFEST}))
            if (folder / MANIFEST).read_bytes() != text.encode():
                raise CorruptAdapter(version, f"{MANIFEST} is not what was published")
            for name, digest in content["files"].items():
                if sha256(folder / name) != digest:
                    raise CorruptAdapter(version, f"{name} is not what was published (its SHA-256 differs)")
        except FileNotFoundError as error:
            raise CorruptAdapter(version, "its folder is missing") from error
        except OSError as error:
            raise CorruptAdapter(version, f"its files cannot be read ({error.strerror})") from error
        return Manifest(version=version, created_at=content["created_at"], files=content["files"], content=content)

    def path(self, version: str) -> Path:
        """Return the folder of a published version, unverified. Raises UnknownAdapter."""
        self._row(version)
        return self._folder / version

    def current(self) -> str:
        """Return what serves: a version, or "base"."""
        return self._served(self._connections.db)[-1]

    def served(self) -> tuple[str, ...]:
        """Return what has served and could be rolled back to, "base" first and what serves now last."""
        return self._served(self._connections.db)

    def moves(self) -> int:
        """Return how often the pointer was moved: as long as it is the same, nothing was promoted or rolled back."""
        return int(next(iter(list(self._connections.db.query("SELECT count(*) AS n FROM promotions"))))["n"])

    def previous(self) -> str | None:
        """Return what `rollback` would put back, "base" included; None when nothing has served before."""
        served = self.served()
        return served[-2] if len(served) > 1 else None

    def promote(self, version: str, by: str, reason: str, overruled: bool, *, expected: str | None = None) -> None:
        """Make a version (or "base") what serves, after verifying it; recorded in the audit.

        `overruled` says that a person decides without the gate: it needs a reason, and only so a held or rejected version
        may serve. `expected` is what must serve at that moment (None: whatever does). Raises UnknownAdapter, CorruptAdapter,
        ServingChanged, and AdapterError for a promotion that is not allowed.
        """
        if version != BASE:
            self.verify(version)
        with self._connections.write() as db:
            if overruled and not reason.strip():
                raise AdapterError(f"Promoting {version} over the gate needs a reason: say why.")
            serving = self._served(db)[-1]
            if expected not in (None, serving):
                raise ServingChanged(str(expected), serving)
            if serving == version:
                raise AdapterError(f"{version} serves already: there is nothing to promote.")
            status = None if version == BASE else self._row(version)["status"]
            if status in ("held", "rejected") and not overruled:
                raise AdapterError(f"The adapter {version} was {status} by the gate: overrule it with a reason, or let it be.")
            if version != BASE:
                db.execute("UPDATE adapters SET status = 'promoted' WHERE seq = ?", [_seq(version)])
            self._move(db, "promote", version, by, reason, overruled)

    def rollback(self, by: str, reason: str = "") -> str:
        """Put back what served before (perhaps "base"), after verifying it; recorded in the audit. Returns it.

        Rolling back twice goes back two steps. Raises AdapterError when nothing served before, CorruptAdapter when what did
        cannot serve again: then promote another version, or "base".
        """
        for _ in range(10):  # verified outside of the transaction, as it reads whole files
            target = self.previous()
            if target is None:
                raise AdapterError(f"Nothing served before {self.current()}: there is nothing to roll back to.")
            if target != BASE:
                self.verify(target)
            with self._connections.write() as db:
                served = self._served(db)
                if len(served) > 1 and served[-2] == target:
                    self._move(db, "rollback", target, by, reason or f"back from {served[-1]}", False)
                    return target
        raise AdapterError("What serves keeps changing: try again when nobody else promotes.")

    def put_back(self, refused: str, serving: str, by: str, reason: str) -> bool:
        """Name what really serves again, after a version that the pointer was moved to could not; recorded in the audit.

        Returns False, and does nothing, when the pointer names something other than `refused` by now.
        """
        with self._connections.write() as db:
            served = self._served(db)
            if served[-1] != refused:
                return False
            if serving not in served:  # it was rolled back a moment ago
                self._move(db, "promote", serving, by, reason, False)
            while (served := self._served(db))[-1] != serving:
                self._move(db, "rollback", served[-2], by, reason, False)
        return True

    def show(self, version: str) -> AdapterRow:
        """Return one adapter's row. Raises UnknownAdapter."""
        self._row(version)
        return next(row for row in self.list() if row.version == version)

    def promotions(self, limit: int = 50) -> tuple[Promotion, ...]:
        """Return the newest `limit` moves of the pointer, newest first."""
        rows = self._connections.db.query(
            "SELECT action, adapter_seq, by, reason, overruled, at FROM promotions ORDER BY seq DESC LIMIT ?", [limit]
        )
        return tuple(
            Promotion(
                action=row["action"],
                version=_version(row["adapter_seq"]),
                by=row["by"],
                reason=row["reason"],
                overruled=bool(row["overruled"]),
                at=row["at"],
            )
            for row in rows
        )

    def close(self) -> None:
        """Close the connections of all threads."""
        self._connections.close()

    # ---- what the pointer is ----

    def _served(self, db: Database) -> tuple[str, ...]:
        """Return what served, oldest first, up to what serves now: a promotion adds one, a rollback takes one away."""
        served = [BASE]
        for row in list(db.query("SELECT action, adapter_seq FROM promotions ORDER BY seq")):
            if row["action"] == "promote":
                served.append(_version(row["adapter_seq"]))
            else:
                served.pop()
        return tuple(served)

    def _move(
        self, db: Database, action: Literal["promote", "rollback"], version: str, by: str, reason: str, overruled: bool
    ) -> None:
        before = self._served(db)[-1]
        at = self._now()
        db.execute(
            "INSERT INTO promotions (action, adapter_seq, by, reason, overruled, at) VALUES (?, ?, ?, ?, ?, ?)",
            [action, None if version == BASE else _seq(version), storable(by), storable(reason), int(overruled), at],
        )
        detail = {"version": version, "before": before, "reason": reason, "overruled": overruled}
        append_audit(db, at=at, actor=by, action=f"adapter.{action}", detail=detail)

    # ---- files ----

    def _write(self, lock: int, candidate: Path, version: str, content: dict[str, Any]) -> str:
        """Write the folder of `version`, whole and synced, under its final name; returns the text of its manifest."""
        temporary = self._folder / f"{_TEMPORARY}{version}"
        temporary.mkdir()
        content["files"] = {name: copy(candidate / name, temporary / name) for name in files_of(candidate)}
        text = json.dumps(content, indent=2, sort_keys=True, allow_nan=False) + "\n"
        (temporary / MANIFEST).write_bytes(text.encode())
        sync(temporary / MANIFEST)
        for name in (*content["files"], MANIFEST):
            (temporary / name).chmod(0o444)  # immutable once published
        sync(temporary)
        _note(lock, version)  # from here until its row is there, the folder is a dead publication's if we die
        temporary.rename(self._folder / version)
        sync(self._folder)
        return text

    @contextmanager
    def _publishing(self, *, wait: bool) -> Iterator[int | None]:
        """Hold the lock of publication; yields its descriptor, or None when another holds it and `wait` is False."""
        descriptor = os.open(self._folder / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            except BlockingIOError:
                yield None
                return
            yield descriptor
        finally:
            os.close(descriptor)

    def _sweep(self, lock: int) -> None:
        """Remove what a dead publication left: its temporary folder, or the folder that it renamed and did not name."""
        for leftover in self._folder.glob(f"{_TEMPORARY}*"):
            shutil.rmtree(leftover)
        noted = os.pread(lock, 32, 0).decode(errors="replace")
        if _is_version(noted) and not list(self._connections.db.query("SELECT 1 FROM adapters WHERE seq = ?", [_seq(noted)])):
            shutil.rmtree(self._folder / noted, ignore_errors=True)
        if noted:
            _note(lock, "")

    # ---- rows ----

    def _row(self, version: str) -> dict[str, Any]:
        rows = []
        if _is_version(version):
            rows = list(self._connections.db.query("SELECT * FROM adapters WHERE seq = ?", [_seq(version)]))
        if not rows:
            raise UnknownAdapter(version)
        return dict(rows[0])

    def _run_seq(self, run_id: str | None) -> int | None:
        if run_id is None:
            return None
        number = run_number(run_id)
        if number is not None and list(self._connections.db.query("SELECT 1 FROM runs WHERE seq = ?", [number])):
            return number
        raise RunError(f"There is no run {run_id!r} to publish an adapter of: see `nightschool runs list`.")

    def _now(self) -> str:
        return self._clock().astimezone(UTC).isoformat(timespec="microseconds")

    def list(self) -> list[AdapterRow]:
        """Return all published adapters, oldest first."""
        current = self.current()
        rows = self._connections.db.query(
            "SELECT adapters.*, (SELECT max(at) FROM promotions WHERE action = 'promote' AND adapter_seq = adapters.seq)"
            " AS promoted_at FROM adapters ORDER BY seq"
        )
        return [
            AdapterRow(
                version=_version(row["seq"]),
                status=row["status"],
                run_id=None if row["run_seq"] is None else named(row["run_seq"]),
                created_at=row["created_at"],
                serving=_version(row["seq"]) == current,
                promoted_at=row["promoted_at"],
                manifest=json.loads(row["manifest"]),
            )
            for row in rows
        ]


def _version(seq: int | None) -> str:
    return BASE if seq is None else f"v{seq:04d}"


def _is_version(text: str) -> bool:
    return text[:1] == "v" and text[1:].isascii() and text[1:].isdigit() and len(text) <= 12 and _version(int(text[1:])) == text


def _seq(version: str) -> int:
    return int(version[1:])


def _note(lock: int, text: str) -> None:
    """Write the version that is being published into the lock file; "" when none is."""
    os.ftruncate(lock, 0)
    os.pwrite(lock, text.encode(), 0)
    os.fsync(lock)


def _difference(found: set[str], published: set[str]) -> str:
    missing = sorted(published - found)
    if missing:
        return f"its folder has no {' and no '.join(missing)}"
    return f"its folder holds {' and '.join(sorted(found - published))}, which was not published"
