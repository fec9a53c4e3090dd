"""The time budget of a training: how many steps fit, how fast it goes, and the learning rate that follows from both."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable

from training.recipe import Schedule

RESERVE_SECONDS = 10.0
"""Kept for saving and converting the adapter."""

SETTLING_STEPS = 2
"""The first steps are slower (memory is touched for the first time) and are not measured."""

REPLAN_EVERY = 5
WINDOW = 40


class Budget:
    """Counts the steps that fit into `minutes` (None: all planned ones) and gives the learning rate's factor.

    `started` is the clock's time when the budget began; `spent` are seconds of an earlier, interrupted start, and `expected`
    the number of steps that it last counted on. The number of steps is planned anew every few steps, from the speed of the
    last ones, never above what was planned. `schedule` is the way of the learning rate after the warm-up.
    """

    def __init__(
        self,
        *,
        steps: int,
        minutes: float | None,
        started: float,
        warmup: float,
        schedule: Schedule = "linear",
        spent: float = 0.0,
        expected: int | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.planned = steps
        self.steps = min(steps, expected or steps)
        self._schedule = schedule
        self._reserve = RESERVE_SECONDS
        self._seconds = None if minutes is None else minutes * 60
        self._started = started - spent
        self._warmup = warmup
        self._clock = clock
        self._measured: deque[tuple[float, int]] = deque(maxlen=WINDOW)
        self._first_step: int | None = None

    def elapsed(self) -> float:
        """Return the seconds since the budget began, earlier starts included."""
        return self._clock() - self._started

    def reserve(self, seconds: float) -> None:
        """Keep this much time at the end for what follows the last step, beside saving."""
        self._reserve = RESERVE_SECONDS + seconds

    def measure(self, *, step: int, seconds: float, tokens: int) -> None:
        """Take in a finished step (counted from 1); plan the number of steps anew when it is time to."""
        self._first_step = self._first_step or step
        since = step - self._first_step
        if since >= SETTLING_STEPS or not self._measured:
            if since == SETTLING_STEPS:
                self._measured.clear()
            self._measured.append((seconds, tokens))
        if self._seconds is None or since < SETTLING_STEPS:
            return
        left = self._seconds - self._reserve - self.elapsed()
        if left < self._step_seconds():
            self.steps = step
        elif (since - SETTLING_STEPS) % REPLAN_EVERY == 0:
            self.steps = min(self.planned, step + int(left / self._step_seconds()))

    def _step_seconds(self) -> float:
        return sum(seconds for seconds, _ in self._measured) / len(self._measured)

    @property
    def tokens_per_second(self) -> float:
        """The speed of the last steps, padding not counted; 0 before the first."""
        seconds = sum(seconds for seconds, _ in self._measured)
        return sum(tokens for _, tokens in self._measured) / seconds if seconds else 0.0

    def eta(self, step: int) -> float:
        """Return the seconds that the steps after `step` will take."""
        return (self.steps - step) * self._step_seconds() if self._measured else 0.0

    def rate(self, step: int) -> float:
        """Return the learning rate's factor for the step after `step` ones: up over the warm-up, then as the schedule says.

        Linear and cosine (Loshchilov and Hutter 2017, arXiv:1608.03983, one period) come to 0 after the last step.
        """
        warm = max(1, round(self._warmup * self.steps))
        if step < warm:
            return (step + 1) / warm
        left = max(0.0, (self.steps - step) / max(1, self.steps - warm + 1))
        if self._schedule == "constant":
            return 1.0
        return left if self._schedule == "linear" else 0.5 * (1 - math.cos(math.pi * left))
