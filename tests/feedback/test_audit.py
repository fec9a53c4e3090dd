"""The audit: what was done, by whom, and in the same transaction as the deed."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from feedback.audit import AuditEntry, append_audit
from feedback.store import FeedbackStore

if TYPE_CHECKING:
    from .conftest import FakeClock


def test_entries_come_back_newest_first(store: FeedbackStore, clock: FakeClock) -> None:
    store.audit("boss", "adapter.promote", {"version": "v0002", "overruled": True})
    clock.advance(minutes=1)
    store.audit("night r0001", "run.finish", {"note": "€ \ud800"})
    newest = AuditEntry(
        id=2, at="2026-11-22T12:01:00.000000+00:00", actor="night r0001", action="run.finish", detail={"note": "€ \ufffd"}
    )
    oldest = AuditEntry(
        id=1,
        at="2026-11-22T12:00:00.000000+00:00",
        actor="boss",
        action="adapter.promote",
        detail={"version": "v0002", "overruled": True},
    )
    assert store.audit_entries() == [newest, oldest]
    assert store.audit_entries(limit=1) == [newest]


def test_an_entry_goes_with_its_deed_or_not_at_all(store: FeedbackStore) -> None:
    with pytest.raises(KeyError), store._connections.write() as db:
        append_audit(db, at="2026-11-22T12:00:00.000000+00:00", actor="boss", action="adapter.promote", detail={})
        raise KeyError("the deed failed")
    assert store.audit_entries() == []
