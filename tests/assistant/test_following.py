"""The server follows the registry: what may not serve is refused, said, and no longer named; nothing ends the following."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace

import pytest

from assistant import server
from assistant.server import following, set_up
from assistant.services import Services
from feedback.errors import StoreError
from training.registry import AdapterRegistry


def damage(services: Services, version: str) -> None:
    """Harm an adapter's weights after it was promoted: the registry names it, and no engine may load it."""
    weights = services.registry.path(version) / "adapter_model.safetensors"
    weights.chmod(0o644)
    weights.write_text("{ }")


@pytest.fixture
def harmed(bare: Services, make_adapter: Callable[..., str]) -> Services:
    """v0001 served, v0002 was promoted, and then its file was harmed."""
    for version in (make_adapter(bare), make_adapter(bare)):
        bare.registry.promote(version, "ada", "for the test", True)
    damage(bare, "v0002")
    return bare


def by_server(services: Services) -> list[tuple[str, str]]:
    return [(each.action, each.version) for each in services.registry.promotions() if each.by == "server"]


def test_a_version_that_is_refused_is_no_longer_named_and_the_reason_is_kept(harmed: Services) -> None:
    harmed.pool.switch("v0001")
    refused = harmed.follow_registry()
    assert refused is not None and "v0002 cannot serve" in refused
    assert (harmed.pool.current, harmed.registry.current(), harmed.registry.previous()) == ("v0001", "v0001", "base")
    newest = harmed.registry.promotions()[0]
    assert (newest.by, newest.version, newest.reason) == ("server", "v0001", refused)
    assert harmed.follow_registry() is None, "nothing is left to follow"


def test_a_rollback_to_a_version_that_is_refused_is_taken_back(bare: Services, make_adapter: Callable[..., str]) -> None:
    for version in (make_adapter(bare), make_adapter(bare)):
        bare.registry.promote(version, "ada", "for the test", True)
    bare.pool.switch("v0002")
    bare.registry.rollback("ada")
    damage(bare, "v0001")
    assert bare.follow_registry() is not None
    assert (bare.pool.current, bare.registry.current(), bare.registry.previous()) == ("v0002", "v0002", "v0001")


def test_what_serves_is_found_again_past_several_moves_and_a_newer_move_is_left_alone(harmed: Services) -> None:
    assert harmed.registry.put_back("v0002", "base", "server", "harmed")
    assert (harmed.registry.current(), harmed.registry.previous()) == ("base", None)
    harmed.registry.promote("v0001", "ada", "again", True)
    assert not harmed.registry.put_back("v0002", "base", "server", "harmed")
    assert harmed.registry.current() == "v0001"


def test_a_start_falls_back_to_what_served_before_and_a_command_moves_nothing(harmed: Services) -> None:
    refused = harmed.start_serving()
    assert refused is not None and refused.version == "v0002"
    assert (harmed.pool.current, harmed.registry.current()) == ("v0001", "v0002")
    assert by_server(harmed) == []


def test_a_server_says_at_its_start_what_was_refused_and_names_what_serves(harmed: Services) -> None:
    started = replace(harmed, refused=harmed.start_serving())
    (said, *_) = set_up(started)
    assert "v0002 cannot serve" in said and said.endswith("In service: v0001.")
    assert harmed.registry.current() == "v0001" and by_server(harmed) == [("rollback", "v0001")]


class Flaky(AdapterRegistry):
    """A registry whose database cannot be read the first three times."""

    faults = 3

    def moves(self) -> int:
        if self.faults:
            self.faults -= 1
            raise StoreError("The database cannot be read: free some space.")
        return super().moves()


def test_a_database_that_cannot_be_read_for_a_while_does_not_end_the_following(
    bare: Services, make_adapter: Callable[..., str], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(server, "FOLLOW_SECONDS", 0.01)
    flaky = Flaky(bare.home.db, bare.home.adapters)
    flaky.promote(make_adapter(bare), "ada", "for the test", True)
    with following(replace(bare, registry=flaky)):
        deadline = time.monotonic() + 10
        while bare.pool.current != "v0001" and time.monotonic() < deadline:
            time.sleep(0.01)
    assert bare.pool.current == "v0001"
    assert "could not be followed (The database cannot be read" in caplog.text
