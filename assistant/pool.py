"""Adapters in service: who answers now, how many answers each version is writing, and the swap between them.

A request takes the current version and counts itself in one step, and keeps that version to its end. A swap loads and
checks the next version beside the serving one, and only then moves the pointer; if anything fails, nothing has moved.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from assistant import canary
from assistant.engines.base import BASE_VERSION, AdapterVersion, Engine, LoadedAdapter
from feedback.errors import NightschoolError

_log = logging.getLogger(__name__)

Verify = Callable[[str], AdapterVersion]


@dataclass(frozen=True, kw_only=True)
class Switch:
    """A swap that was done. `canary` is the canary's outcome, or "warm" for a version that was still loaded."""

    version: str
    previous: str | None  # None: nothing served before
    canary: str
    seconds: float


class Lease:
    """One request's hold on a version: `with pool.acquire() as lease`. Release it in any thread; a second time does nothing."""

    def __init__(self, pool: AdapterPool, entry: _Entry) -> None:
        self._pool = pool
        self._entry = entry
        self._held = True

    @property
    def adapter(self) -> LoadedAdapter:
        """The loaded adapter to stream from."""
        return self._entry.loaded

    @property
    def version(self) -> str:
        """Its version: what the turn records."""
        return self._entry.version

    def release(self) -> None:
        """Give the version back."""
        with self._pool._lock:
            held, self._held = self._held, False
            if held:
                self._entry.answering -= 1
        if held:
            self._pool._unload_idle()

    def __enter__(self) -> Lease:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()


class _Entry:
    """A version that is loaded."""

    def __init__(self, version: str, loaded: LoadedAdapter, reading: dict[str, Any]) -> None:
        self.version = version
        self.loaded = loaded
        self.reading = reading  # its canary, as it was when it was put into service
        self.answering = 0
        self.since = time.time()


class AdapterPool:
    """The versions that one engine holds: the current one, the previous one kept warm, and any that still answer.

    `verify` turns a version's name into its folder after checking its files; it raises UnknownAdapter or CorruptAdapter.
    Nothing is loaded until the first `switch` or `acquire` (which puts the bare base into service).
    """

    def __init__(self, engine: Engine, verify: Verify) -> None:
        self._engine = engine
        self._verify = verify
        self._lock = threading.Lock()  # pointer and counts; held for an instant, never while a model works
        self._switching = threading.Lock()  # one swap at a time
        self._entries: list[_Entry] = []
        self._current: _Entry | None = None
        self._previous: _Entry | None = None
        self._base_reading: dict[str, Any] | None = None

    @property
    def current(self) -> str | None:
        """The version that new requests get; None before the first one is in service."""
        with self._lock:
            return self._current.version if self._current else None

    @property
    def previous(self) -> str | None:
        """The version that is kept warm for a rollback, if any."""
        with self._lock:
            return self._previous.version if self._previous else None

    def acquire(self) -> Lease:
        """Take the current version and count this request, in one step. Release it when the answer is done."""
        if self.current is None:
            self._start_with_base()
        with self._lock:
            assert self._current is not None
            self._current.answering += 1
            return Lease(self, self._current)

    def switch(self, version: str) -> Switch:
        """Put a version ("base" for the bare base) into service; requests that are being answered keep theirs.

        Raises UnknownAdapter, CorruptAdapter, ModelError or EngineError; the version that served before serves on.
        """
        with self._switching:
            return self._switch(version)

    def describe(self) -> dict[str, Any]:
        """Say what is loaded: {"current", "previous", "loaded": [{"version", "answering", "seconds"}]}."""
        now = time.time()
        with self._lock:
            return {
                "current": self._current.version if self._current else None,
                "previous": self._previous.version if self._previous else None,
                "loaded": [
                    {"version": entry.version, "answering": entry.answering, "seconds": round(now - entry.since, 1)}
                    for entry in self._entries
                ],
            }

    def _start_with_base(self) -> None:
        with self._switching:
            if self.current is None:
                self._switch(BASE_VERSION)

    def _switch(self, version: str) -> Switch:
        started = time.perf_counter()
        # Verified even when it is warm: what the registry says of its files may have changed.
        adapter = self._verify(version) if version != BASE_VERSION else None
        with self._lock:
            entry = next((each for each in self._entries if each.version == version), None)
            if entry is not None:
                entry.answering += 1  # holds it: an older version could be unloaded before the pointer has moved
        outcome = "warm"
        if entry is None:
            entry, outcome = self._load(version, adapter)
        with self._lock:
            before = self._current
            if outcome == "warm":
                entry.answering -= 1
            else:
                self._entries.append(entry)
            if entry is not before:
                self._current, self._previous = entry, before
        self._unload_idle()
        return Switch(
            version=version,
            previous=before.version if before else None,
            canary=outcome,
            seconds=time.perf_counter() - started,
        )

    def _load(self, version: str, adapter: AdapterVersion | None) -> tuple[_Entry, str]:
        loaded = self._engine.load(adapter)
        try:
            reading = canary.record(self._engine, loaded)
            if adapter is None:
                self._base_reading = reading
                return _Entry(version, loaded, reading), "not recorded"
            recorded = canary.recorded_in(adapter.path)
            outcome = canary.check(version, reading, self._reading_of_base(), recorded)
        except BaseException:
            self._engine.unload(loaded)
            raise
        return _Entry(version, loaded, reading), outcome

    def _reading_of_base(self) -> dict[str, Any]:
        """Return the base's canary, read once for each process."""
        if self._base_reading is None:
            base = self._engine.load(None)
            try:
                self._base_reading = canary.record(self._engine, base)
            finally:
                self._engine.unload(base)
        return self._base_reading

    def _unload_idle(self) -> None:
        """Unload every version that is neither current nor previous and answers nobody; one that will not go is only logged."""
        with self._lock:
            kept = (self._current, self._previous)
            idle = [entry for entry in self._entries if entry.answering == 0 and entry not in kept]
            self._entries = [entry for entry in self._entries if entry not in idle]
        for entry in idle:  # out of the lock: it may wait for a stopped stream to end
            try:
                self._engine.unload(entry.loaded)
            except NightschoolError as error:  # the swap (or the answer) that brought us here is done all the same
                _log.warning("%s was not unloaded: %s", entry.version, error)
