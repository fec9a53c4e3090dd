from __future__ import annotations

import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest

from feedback.errors import SettingsError
from training.runs import RunLedger
from training.schedule import ATTEMPTS, RETRY, NightClock, check_cron, due_slot, next_due

BERLIN = ZoneInfo("Europe/Berlin")
NIGHTLY = "0 2 * * *"


def at(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


class Home:
    """A ledger, a clock that is moved by hand, and nights that take no time."""

    def __init__(self, path: Path) -> None:
        self.now = at("2026-11-20 12:00")
        self.path = path
        self.ledger = self.open()
        self.told: list[str] = []

    def open(self) -> RunLedger:
        return RunLedger(self.path / "nightschool.db", self.path / "runs", clock=lambda: self.now)

    def night(self, slot: str) -> None:
        self.told.append(slot)
        self.ledger.finish(self.ledger.start(slot, "schedule").id, "succeeded", "HOLD", "")

    def clock(self, cron: str = NIGHTLY) -> NightClock:
        return NightClock(cron, self.ledger, self.night, clock=lambda: self.now, timezone=UTC)

    def outcomes(self) -> list[tuple[str, str | None]]:
        return [(run.slot, run.outcome) for run in reversed(self.ledger.runs())]


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path)


def test_nothing_is_due_before_its_time_and_then_it_is_once(home: Home) -> None:
    clock = home.clock()
    assert clock.check() is None
    home.now = at("2026-11-21 01:59:59")
    assert clock.check() is None
    home.now = at("2026-11-21 02:00")
    assert clock.check() == "2026-11-21T02:00:00+00:00"
    home.now = at("2026-11-21 23:00")
    assert clock.check() is None
    assert home.outcomes() == [("2026-11-21T02:00:00+00:00", "succeeded")]


def test_a_restart_does_not_repeat_a_night(home: Home) -> None:
    home.clock().check()
    home.now = at("2026-11-21 02:01")
    home.clock().check()
    home.ledger = home.open()
    assert home.clock().check() is None
    assert len(home.told) == 1


def test_a_first_night_missed_while_the_machine_was_off_is_made_up(home: Home) -> None:
    home.clock().check()
    home.now = at("2026-11-21 09:00")
    assert home.clock().check() == "2026-11-21T02:00:00+00:00"


def test_of_several_missed_nights_the_newest_is_made_up_once_and_the_others_are_named(home: Home) -> None:
    home.clock().check()
    home.now = at("2026-11-24 09:00")
    clock = home.clock()
    assert clock.check() == "2026-11-24T02:00:00+00:00"
    assert clock.check() is None
    assert home.outcomes() == [("2026-11-23T02:00:00+00:00", "missed"), ("2026-11-24T02:00:00+00:00", "succeeded")]
    missed = home.ledger.run("r0001")
    assert "from 2026-11-21T02:00:00+00:00 to 2026-11-23T02:00:00+00:00" in missed.reason


def test_no_night_is_owed_from_before_the_schedule_was_set(home: Home) -> None:
    assert home.clock().check() is None
    home.now = at("2026-11-20 23:00")
    assert home.clock("0 * * * *").check() is None, "the hours before the change of the schedule are not due"
    home.now = at("2026-11-21 00:00")
    assert home.clock("0 * * * *").check() == "2026-11-21T00:00:00+00:00"


def test_a_running_night_puts_the_next_one_off(home: Home) -> None:
    clock = home.clock()
    clock.check()
    run = home.ledger.start("", "ada")
    home.now = at("2026-11-21 02:00")
    assert clock.check() is None
    home.ledger.finish(run.id, "succeeded")
    home.now = at("2026-11-21 02:40")
    assert clock.check() == "2026-11-21T02:00:00+00:00"


def test_a_dead_night_is_named_abandoned_and_its_slot_is_not_tried_again(home: Home) -> None:
    home.clock().check()
    home.now = at("2026-11-21 02:00")
    dead = home.open()
    dead.start("2026-11-21T02:00:00+00:00", "schedule")
    dead.close()
    assert home.clock().check() is None
    assert home.outcomes() == [("2026-11-21T02:00:00+00:00", "abandoned")]


def test_a_night_that_never_begins_is_told_again_and_then_recorded_as_missed(home: Home) -> None:
    told: list[str] = []
    clock = NightClock(NIGHTLY, home.ledger, told.append, clock=lambda: home.now, timezone=UTC)
    clock.check()
    home.now = at("2026-11-21 02:00")
    for attempt in range(1, ATTEMPTS + 1):
        clock.check()
        home.now += timedelta(seconds=30)
        clock.check()
        assert len(told) == attempt, "it has some minutes to begin"
        home.now += RETRY
    clock.check()
    assert len(told) == ATTEMPTS
    assert home.outcomes() == [("2026-11-21T02:00:00+00:00", "missed")]
    assert "never began" in home.ledger.run("r0001").reason
    home.now = at("2026-11-22 02:00")
    assert clock.check() == "2026-11-22T02:00:00+00:00"


def test_a_clock_set_back_repeats_nothing(home: Home) -> None:
    clock = home.clock()
    clock.check()
    home.now = at("2026-11-21 02:00")
    clock.check()
    home.now = at("2026-11-20 23:00")
    assert clock.check() is None
    home.now = at("2026-11-21 02:00")
    assert clock.check() is None


def test_an_empty_cron_starts_nothing(home: Home) -> None:
    clock = home.clock("  ")
    home.now = at("2027-11-21 02:00")
    assert clock.check() is None
    assert next_due("", home.now) is None
    assert due_slot("", now=home.now, after=home.now) is None


def test_the_alarm_looks_by_itself_and_stops(home: Home) -> None:
    home.clock().check()
    home.now = at("2026-11-21 02:00")
    told = threading.Event()
    clock = NightClock(NIGHTLY, home.ledger, lambda slot: told.set(), clock=lambda: home.now, timezone=UTC)
    clock.start()
    try:
        assert told.wait(5)
    finally:
        clock.stop()
    assert not [thread for thread in threading.enumerate() if "APScheduler" in thread.name]


@pytest.mark.parametrize(
    ("cron", "says"),
    [
        ("2 0", "2 fields instead of 5"),
        ("@daily", "1 fields"),
        ("61 2 * * *", "61"),
        ("0 2 30 2 *", "never comes true"),
        ("0 2 * * funday", "no weekday"),
        ("0 2 * * 8", "no weekday"),
        ("0 2 * * 4-2", "no range"),
        ("0 2 * * */0", "no range"),
        ("0 2 1 * 1", "days of the month and of the week"),
    ],
)
def test_a_bad_cron_is_one_sentence_with_its_value(home: Home, cron: str, says: str) -> None:
    for use in (check_cron, home.clock, lambda bad: next_due(bad, home.now)):
        with pytest.raises(SettingsError) as caught:
            use(cron)
        assert says in str(caught.value)
        assert repr(cron) in str(caught.value)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("field", "days"),
    [
        ("0", ["Sun"]),
        ("7", ["Sun"]),
        ("1-5", ["Mon", "Tue", "Wed", "Thu", "Fri"]),
        ("fri-sun", ["Fri", "Sat", "Sun"]),
        ("5-7", ["Fri", "Sat", "Sun"]),
        ("0-2", ["Mon", "Tue", "Sun"]),
        ("Mon,3", ["Mon", "Wed"]),
        ("*/3", ["Wed", "Sat", "Sun"]),
        ("*", ["Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun"]),
    ],
)
def test_weekdays_are_those_of_cron(field: str, days: list[str]) -> None:
    now, found = at("2026-11-22 12:00"), []  # a Sunday
    while (due := next_due(f"0 2 * * {field}", now, timezone=UTC)) is not None and due < at("2026-11-30 00:00"):
        found.append(due.strftime("%a"))
        now = due
    assert found == days


@pytest.mark.parametrize("cron", ["0 2 * * *", "30 2 * * *", "0 3 * * *"])
@pytest.mark.parametrize("day", ["2026-10-25", "2026-03-29"])
def test_each_date_has_one_night_when_the_clocks_change(cron: str, day: str) -> None:
    now = datetime.fromisoformat(f"{day} 00:30").replace(tzinfo=BERLIN) - timedelta(days=1)
    dates = []
    for _ in range(4):
        due = next_due(cron, now, timezone=BERLIN)
        assert due is not None
        dates.append(due.date())
        now = due
    assert dates == [dates[0] + timedelta(days=n) for n in range(4)]


def test_the_last_due_times_are_found_in_no_time_also_after_ten_years_of_minutes() -> None:
    now = at("2026-11-20 12:00:30")
    started = datetime.now(UTC)
    due = due_slot("* * * * *", now=now, after=at("2016-01-01 00:00"), timezone=UTC)
    assert datetime.now(UTC) - started < timedelta(seconds=2)
    assert due is not None
    assert due.slot == at("2026-11-20 12:00")
    assert due.missed == (at("2016-01-01 00:01"), at("2026-11-20 11:59"))


def test_a_rare_night_is_found_across_years() -> None:
    due = due_slot("0 2 29 2 *", now=at("2026-11-20 12:00"), after=at("2016-01-01 00:00"), timezone=UTC)
    assert due is not None
    assert (due.slot, due.missed) == (at("2024-02-29 02:00"), (at("2016-02-29 02:00"), at("2020-02-29 02:00")))
