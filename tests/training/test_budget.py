"""The time budget: it sets the steps, follows the speed, and the learning rate follows it."""

from __future__ import annotations

from training.budget import RESERVE_SECONDS, Budget


class Clock:
    """A clock that the test moves."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def train(budget: Budget, clock: Clock, seconds: float, *, first: int = 1, most: int = 10_000) -> int:
    """Take steps of `seconds` until the budget ends them; return how many were taken."""
    step = first - 1
    while step < budget.steps and step < most:
        step += 1
        clock.now += seconds
        budget.measure(step=step, seconds=seconds, tokens=100)
    return step


def test_the_minutes_set_the_steps_and_are_not_overrun() -> None:
    clock = Clock()
    budget = Budget(steps=500, minutes=10, started=0.0, warmup=0.05, clock=clock)
    clock.now = 30.0  # loading counts
    steps = train(budget, clock, 5.0)
    assert steps == int((600 - RESERVE_SECONDS - 30) / 5)
    assert clock.now <= 600 - RESERVE_SECONDS


def test_a_machine_that_becomes_slower_ends_in_time_all_the_same() -> None:
    clock = Clock()
    budget = Budget(steps=500, minutes=10, started=0.0, warmup=0.05, clock=clock)
    fast = train(budget, clock, 2.0, most=100)
    slow = train(budget, clock, 8.0, first=fast + 1)
    assert fast == 100 and slow > fast
    assert 560 <= clock.now <= 600


def test_a_budget_that_is_long_enough_takes_every_planned_step() -> None:
    clock = Clock()
    assert train(Budget(steps=50, minutes=10, started=0.0, warmup=0.05, clock=clock), clock, 1.0) == 50
    assert train(Budget(steps=50, minutes=None, started=0.0, warmup=0.05, clock=clock), clock, 1e6) == 50


def test_seconds_of_an_interrupted_start_count() -> None:
    clock = Clock()
    budget = Budget(steps=500, minutes=10, started=0.0, warmup=0.05, spent=400.0, clock=clock)
    assert train(budget, clock, 5.0) == int((200 - RESERVE_SECONDS) / 5)


def test_the_first_slow_steps_do_not_spoil_the_measured_speed() -> None:
    clock = Clock()
    budget = Budget(steps=100, minutes=None, started=0.0, warmup=0.05, clock=clock)
    for step, seconds in enumerate((60.0, 10.0, 1.0, 1.0), start=1):
        budget.measure(step=step, seconds=seconds, tokens=100)
    assert budget.tokens_per_second == 100.0
    assert budget.eta(4) == 96.0


def test_the_learning_rate_rises_then_falls_towards_nothing_at_the_last_step() -> None:
    budget = Budget(steps=100, minutes=None, started=0.0, warmup=0.1)
    rates = [budget.rate(step) for step in range(100)]
    top = rates.index(1.0)
    assert 8 <= top <= 10
    assert rates[: top + 1] == sorted(rates[: top + 1]) and rates[top:] == sorted(rates[top:], reverse=True)
    assert 0 < rates[-1] < 0.02 and budget.rate(100) == 0.0


def test_the_cosine_falls_late_and_ends_at_nothing_and_the_constant_stays() -> None:
    rates = {
        schedule: [Budget(steps=100, minutes=None, started=0.0, warmup=0.1, schedule=schedule).rate(step) for step in range(101)]
        for schedule in ("linear", "cosine", "constant")
    }
    assert rates["linear"][:10] == rates["cosine"][:10] == rates["constant"][:10]
    assert rates["cosine"][30] > rates["linear"][30] and rates["cosine"][80] < rates["linear"][80]
    assert abs(rates["cosine"][55] - 0.5) < 0.03 and rates["cosine"][100] == 0.0
    assert set(rates["constant"][10:]) == {1.0}


def test_the_schedule_follows_the_steps_that_the_minutes_leave_and_a_second_start_knows_them() -> None:
    clock = Clock()
    budget = Budget(steps=500, minutes=10, started=0.0, warmup=0.05, schedule="cosine", clock=clock)
    train(budget, clock, 5.0, most=60)
    assert budget.steps < 120 and budget.rate(60) < 0.6
    resumed = Budget(
        steps=500, minutes=10, started=clock.now, warmup=0.05, schedule="cosine", spent=300.0, expected=budget.steps, clock=clock
    )
    assert resumed.rate(60) == budget.rate(60) and resumed.planned == 500


def test_time_is_kept_for_what_follows_the_last_step() -> None:
    clock = Clock()
    budget = Budget(steps=500, minutes=10, started=0.0, warmup=0.05, clock=clock)
    budget.reserve(90.0)
    train(budget, clock, 5.0)
    assert 485 <= clock.now <= 600 - RESERVE_SECONDS - 90
