"""When a night is due: cron from the settings, the ledger for what was run, and an alarm clock that looks every half minute.

APScheduler reads the cron expression and wakes us; it remembers nothing. What is due follows from the ledger alone, so a
restart, a suspended laptop or a late wake-up changes nothing: a night that was missed is made up once.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, tzinfo
from typing import Any, Final

from feedback.errors import SettingsError
from training.runs import RunLedger

_log = logging.getLogger(__name__)

CHECK_SECONDS: Final = 30
RETRY: Final = timedelta(minutes=10)
"""How long a night that was told to start may take to appear in the ledger before it is told again."""
ATTEMPTS: Final = 3

_DAYS: Final = ("sun", "mon", "tue", "wed", "thu", "fri", "sat")
_TICK: Final = timedelta(microseconds=1)
# how far back to look for the newest due times: near ones first, so that a cron of minutes is not counted through a year
_WINDOWS: Final = (timedelta(hours=2), timedelta(days=2), timedelta(days=64), timedelta(days=740), timedelta(days=3700))


@dataclass(frozen=True, kw_only=True)
class Due:
    """A night that should start now. `missed` are the first and the last due times before it that nothing ran for."""

    slot: datetime
    missed: tuple[datetime, datetime] | None

    @property
    def slot_name(self) -> str:
        """The slot as the ledger knows it."""
        return slot_name(self.slot)


def slot_name(slot: datetime) -> str:
    """Return the ledger's name of a due time: ISO 8601 in UTC, in whole seconds, so that names sort as times."""
    return slot.astimezone(UTC).isoformat(timespec="seconds")


def check_cron(cron: str) -> None:
    """Raise SettingsError unless `cron` is five cron fields that come true some time, or empty."""
    if cron.strip():
        _trigger(cron, None)


def next_due(cron: str, now: datetime, *, timezone: tzinfo | None = None) -> datetime | None:
    """Return the first due time after `now`, in `timezone` (default: this machine's); None when `cron` is empty (off).

    Raises SettingsError for a bad `cron`.
    """
    return None if not cron.strip() else _next(_trigger(cron, timezone), now)


def due_slot(cron: str, *, now: datetime, after: datetime, timezone: tzinfo | None = None) -> Due | None:
    """Return the newest due time in (after, now], with the ones before it that it makes up for; None when nothing is due.

    `after` is the newest slot that was run or missed, or when this `cron` came into force. Raises SettingsError.
    """
    if not cron.strip():
        return None
    trigger = _trigger(cron, timezone)
    first = _next(trigger, after)
    if first is None or first > now:
        return None
    before, newest = _newest_two(trigger, first=first, now=now)
    return Due(slot=newest, missed=None if before is None else (first, before))


class NightClock:
    """Starts the nights that are due: `start_night` gets the slot's name, and must not wait for the night.

    Looks every half minute; a night in progress puts the next one off until it is over. A night that is told to start and
    never appears in the ledger is told again, three times in all, and then recorded as missed. Raises SettingsError for a
    bad `cron`; an empty one starts nothing. Dead nights are marked as abandoned in any case.
    """

    def __init__(
        self,
        cron: str,
        ledger: RunLedger,
        start: Callable[[str], object],
        *,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
        timezone: tzinfo | None = None,
    ) -> None:
        check_cron(cron)
        self._cron = cron.strip()
        self._ledger = ledger
        self._start_night = start
        self._clock = clock
        self._timezone = timezone
        self._told: tuple[str, int, datetime] = ("", 0, datetime.min.replace(tzinfo=UTC))  # slot, attempts, when last
        self._scheduler: Any = None

    def start(self) -> None:
        """Look now, and then every half minute, in a thread of its own."""
        from apscheduler.jobstores.memory import MemoryJobStore
        from apscheduler.schedulers.background import BackgroundScheduler

        scheduler = BackgroundScheduler(jobstores={"default": MemoryJobStore()}, timezone=UTC)
        scheduler.add_job(
            self.check,
            "interval",
            seconds=CHECK_SECONDS,
            next_run_time=datetime.now(UTC),
            misfire_grace_time=None,  # by default a look that comes a second late is dropped
            coalesce=True,
            max_instances=1,
        )
        scheduler.start()
        self._scheduler = scheduler

    def stop(self) -> None:
        """Stop looking; waits for a look in progress. Nights that run are left alone."""
        if self._scheduler is not None:
            self._scheduler.shutdown(wait=True)
            self._scheduler = None

    def check(self) -> str | None:
        """Look once: start the night that is due. Returns the slot that was told to start."""
        for run in self._ledger.recover():
            _log.warning("%s: %s", run.id, run.reason)
        if not self._cron or self._ledger.running() is not None:
            return None
        now = self._clock()
        since = self._ledger.schedule_since(self._cron)
        after = max(datetime.fromisoformat(since), datetime.fromisoformat(self._ledger.last_slot() or since))
        due = due_slot(self._cron, now=now, after=after, timezone=self._timezone)
        if due is None:
            return None
        if due.missed is not None:
            first, last = due.missed
            self._ledger.miss(
                slot_name(last),
                f"Nothing ran for what was due from {slot_name(first)} to {slot_name(last)} (no server, or a long night): "
                f"the night of {due.slot_name} makes up for it.",
            )
        return self._tell(due.slot_name, now)

    def _tell(self, slot: str, now: datetime) -> str | None:
        told, attempts, at = self._told
        if told != slot:
            attempts = 0
        elif now - at < RETRY:
            return None
        if attempts == ATTEMPTS:
            self._ledger.miss(slot, f"The night was told to start {ATTEMPTS} times and never began: see night.log.")
            return None
        self._told = (slot, attempts + 1, now)
        self._start_night(slot)
        return slot


def _trigger(cron: str, timezone: tzinfo | None) -> Any:
    """Read five cron fields into APScheduler's trigger. Raises SettingsError."""
    from apscheduler.triggers.cron import CronTrigger

    fields = cron.split()
    if len(fields) != 5:
        raise SettingsError(
            f"night.cron = {cron!r} has {len(fields)} fields instead of 5: write minute, hour, day, month and weekday, "
            "as in '0 2 * * *'."
        )
    minute, hour, day, month, weekday = fields
    if not day.startswith("*") and not weekday.startswith("*"):
        # cron takes either day, APScheduler only both at once: nobody should have to know
        raise SettingsError(
            f"night.cron = {cron!r} names days of the month and of the week: name one, and write * for the other."
        )
    try:
        trigger = CronTrigger(minute=minute, hour=hour, day=day, month=month, day_of_week=_weekdays(weekday), timezone=timezone)
    except ValueError as error:
        raise SettingsError(f"night.cron = {cron!r} is wrong ({error}): write it as in '0 2 * * *'.") from error
    if trigger.get_next_fire_time(None, datetime.now(UTC)) is None:
        raise SettingsError(f"night.cron = {cron!r} never comes true: choose a day that exists.")
    return trigger


def _weekdays(field: str) -> str:
    """Translate cron's weekdays into names: in cron 0 and 7 are Sunday, in APScheduler 3 a 0 is Monday. Raises ValueError."""
    if field == "*":
        return field
    chosen: set[int] = set()
    for part in field.lower().split(","):
        span, _, step = part.partition("/")
        low, _, high = ("0-6" if span == "*" else span).partition("-")
        first = _weekday(low)
        last = _weekday(high) if high else (6 if step else first)
        if high and last == 0 and first > 0:
            last = 7  # fri-sun
        if last < first or (step and not (step.isdigit() and int(step) > 0)):
            raise ValueError(f"{part!r} is no range of weekdays")
        chosen.update(day % 7 for day in range(first, last + 1, int(step or 1)))
    return ",".join(_DAYS[day] for day in sorted(chosen))


def _weekday(text: str) -> int:
    if text in _DAYS:
        return _DAYS.index(text)
    if len(text) == 1 and text in "01234567":
        return int(text)
    raise ValueError(f"{text!r} is no weekday: they are 0 (Sunday) to 7, or {', '.join(_DAYS)}")


def _next(trigger: Any, after: datetime) -> datetime | None:
    """Return the first due time later than `after`."""
    found: datetime | None = after
    while found is not None:
        found = trigger.get_next_fire_time(None, found.astimezone(UTC) + _TICK)
        # the hour that clocks repeat in autumn comes true twice: the second one is no night of its own
        if found is not None and not found.astimezone(UTC).astimezone(trigger.timezone).fold:
            return found
    return None


def _newest_two(trigger: Any, *, first: datetime, now: datetime) -> tuple[datetime | None, datetime]:
    """Return the last two due times from `first` (itself one) up to `now`; the earlier is None when there is only one."""
    for window in (*_WINDOWS, now - first):
        at: datetime | None = first if now - window <= first else _next(trigger, now - window)
        before: datetime | None = None
        newest: datetime | None = None
        while at is not None and at <= now:
            before, newest = newest, at
            at = _next(trigger, at)
        if newest is not None and (before is not None or now - window <= first):
            return before, newest
    raise AssertionError("the last window holds `first`")
