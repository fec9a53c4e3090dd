"""The pool: one version an answer, counted; swaps that leave what serves alone until everything is right."""

from __future__ import annotations

import json
import threading
from pathlib import Path

import pytest

from assistant import canary
from assistant.engines.base import AdapterVersion, ChatRequest, Engine
from assistant.pool import AdapterPool
from feedback.errors import CorruptAdapter, EngineError, UnknownAdapter
from feedback.records import Message

REQUEST = ChatRequest(messages=(Message(role="user", content="Hello"),), max_tokens=40)


@pytest.fixture
def pool(speaking_engine, tmp_path: Path) -> AdapterPool:
    assert isinstance(speaking_engine, Engine)  # the fake keeps the protocol

    def verify(version: str) -> AdapterVersion:
        if version == "v0666":
            raise UnknownAdapter(version)
        return AdapterVersion(version=version, path=tmp_path / version)

    return AdapterPool(speaking_engine, verify)


def answer(pool: AdapterPool, engine) -> tuple[str, str]:
    with pool.acquire() as lease:
        return lease.version, "".join(delta.text for delta in engine.stream(REQUEST, lease.adapter))


def test_the_first_request_is_served_by_the_base(pool, speaking_engine) -> None:
    assert pool.current is None
    assert answer(pool, speaking_engine)[0] == "base"
    assert pool.current == "base"


def test_a_stream_keeps_its_version_through_a_swap_and_the_next_one_gets_the_new(pool, speaking_engine) -> None:
    pool.switch("v0001")
    with pool.acquire() as lease:
        stream = speaking_engine.stream(REQUEST, lease.adapter)
        said = [next(stream).text]
        pool.switch("v0002")
        pool.switch("v0003")  # v0001 is neither current nor previous now, and still answering
        said += [delta.text for delta in stream]
        assert lease.version == "v0001"
        assert "v0001" in speaking_engine.alive
    assert set(said) == {"v0001 ", ""}
    assert answer(pool, speaking_engine)[0] == "v0003"
    assert speaking_engine.alive == {"v0002", "v0003"}


def test_the_previous_version_stays_warm_and_older_ones_go(pool, speaking_engine) -> None:
    for version in ("v0001", "v0002", "v0003"):
        pool.switch(version)
    assert (pool.current, pool.previous) == ("v0003", "v0002")
    loads = len(speaking_engine.loads)
    assert pool.switch("v0002").canary == "warm"
    assert len(speaking_engine.loads) == loads
    assert (pool.current, pool.previous) == ("v0002", "v0003")


def test_switching_to_what_serves_changes_nothing(pool, speaking_engine) -> None:
    pool.switch("v0001")
    pool.switch("v0002")
    pool.switch("v0002")
    assert (pool.current, pool.previous) == ("v0002", "v0001")


def test_a_version_that_does_nothing_is_refused_and_the_old_one_serves(pool, speaking_engine) -> None:
    pool.switch("v0001")
    speaking_engine.canaries["v0002"] = 0.0
    with pytest.raises(CorruptAdapter, match="v0002 cannot serve: it leaves the base model's answers as they are"):
        pool.switch("v0002")
    assert pool.current == "v0001"
    assert speaking_engine.alive == {"v0001"}
    assert answer(pool, speaking_engine)[1].split() == ["v0001"] * REQUEST.max_tokens


def test_a_version_that_cannot_be_unloaded_does_not_undo_the_swap(speaking_engine, tmp_path: Path, caplog) -> None:
    class Stubborn(type(speaking_engine)):  # type: ignore[misc]
        def unload(self, adapter) -> None:
            if adapter.version == "v0001":
                raise EngineError("The adapter v0001 cannot be unloaded: it is still answering.")
            super().unload(adapter)

    pool = AdapterPool(Stubborn(), lambda version: AdapterVersion(version=version, path=tmp_path / version))
    for version in ("v0001", "v0002", "v0003"):
        assert pool.switch(version).version == version
    assert pool.current == "v0003"
    assert "v0001 was not unloaded" in caplog.text


def test_an_unknown_version_is_refused_before_anything_is_loaded(pool, speaking_engine) -> None:
    pool.switch("v0001")
    loads = list(speaking_engine.loads)
    with pytest.raises(UnknownAdapter):
        pool.switch("v0666")
    assert (pool.current, speaking_engine.loads) == ("v0001", loads)


def test_a_recorded_canary_must_be_met(pool, speaking_engine, tmp_path: Path) -> None:
    loaded = speaking_engine.load(AdapterVersion(version="v0001", path=tmp_path))
    recorded = canary.record(speaking_engine, loaded)
    for version in ("v0001", "v0002"):
        (tmp_path / version).mkdir()
        (tmp_path / version / "manifest.json").write_text(json.dumps({"canary": recorded}))
    assert pool.switch("v0001").canary == "as recorded"
    speaking_engine.canaries["v0002"] = 0.9
    with pytest.raises(CorruptAdapter, match="does not answer as it did when it was examined"):
        pool.switch("v0002")
    assert pool.current == "v0001"


def test_a_lease_is_given_back_once_however_often_it_is_released(pool) -> None:
    pool.switch("v0001")
    first, second = pool.acquire(), pool.acquire()
    first.release()
    first.release()
    assert pool.describe()["loaded"][0]["answering"] == 1
    second.release()
    assert pool.describe()["loaded"][0]["answering"] == 0


def test_two_hundred_streams_through_twenty_swaps_never_mix(pool, speaking_engine) -> None:
    pool.switch("v0001")
    faults: list[str] = []
    left = iter(range(200))
    lock = threading.Lock()

    def client() -> None:
        while True:
            with lock:
                if next(left, None) is None:
                    return
            version, text = answer(pool, speaking_engine)
            if set(text.split()) != {version}:
                faults.append(f"{version}: {text}")

    clients = [threading.Thread(target=client) for _ in range(16)]
    for each in clients:
        each.start()
    for number in range(2, 22):
        pool.switch(f"v{number:04d}")
    for each in clients:
        each.join()
    assert faults == []
    assert speaking_engine.alive == {"v0020", "v0021"}
    assert all(entry["answering"] == 0 for entry in pool.describe()["loaded"])
