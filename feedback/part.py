"""What the parts of the store share: the connections, the clock, and how text and times are written down."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime

from feedback.database import Connections

Clock = Callable[[], datetime]
"""Gives the time as an aware datetime; tests give their own."""


def utc_now() -> datetime:
    """Return the time now, in UTC."""
    return datetime.now(UTC)


def timestamp(moment: datetime) -> str:
    """Return `moment` (aware) as the store writes it: ISO 8601, UTC, always with microseconds, so that it sorts as text."""
    return moment.astimezone(UTC).isoformat(timespec="microseconds")


def storable(text: str) -> str:
    """Return `text` with lone surrogates replaced by U+FFFD: JSON bodies may hold them, and UTF-8 cannot."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


class StorePart:
    """One part of the store: SQL over the shared connections. Not made by itself: see `feedback.store.FeedbackStore`."""

    def __init__(self, connections: Connections, clock: Clock) -> None:
        self._connections = connections
        self._clock = clock

    def _now(self) -> str:
        return timestamp(self._clock())
