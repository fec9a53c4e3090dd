"""The canary tells an adapter that works from one that does nothing, and from another adapter."""

from __future__ import annotations

import copy
import math

import pytest

from assistant import canary
from assistant.engines.base import AdapterVersion
from feedback.errors import CorruptAdapter


@pytest.fixture
def readings(speaking_engine, tmp_path):
    base = canary.record(speaking_engine, speaking_engine.load(None))
    adapter = canary.record(speaking_engine, speaking_engine.load(AdapterVersion(version="v0001", path=tmp_path)))
    return base, adapter


def test_a_moved_adapter_that_meets_its_record_passes(readings) -> None:
    base, adapter = readings
    assert canary.check("v0001", adapter, base, copy.deepcopy(adapter)) == "as recorded"
    assert canary.check("v0001", adapter, base, None) == "not recorded"


def test_an_adapter_that_leaves_the_base_as_it_is_fails(readings) -> None:
    base, _ = readings
    with pytest.raises(CorruptAdapter, match=r"moved 0\.0000 nats"):
        canary.check("v0001", copy.deepcopy(base), base, None)


def test_readings_that_are_not_finite_fail(readings) -> None:
    base, adapter = readings
    broken = copy.deepcopy(adapter)
    for row in broken["readings"]:
        row["logprobs"] = dict.fromkeys(row["logprobs"], math.nan)
    with pytest.raises(CorruptAdapter):
        canary.check("v0001", broken, base, None)


def test_another_adapter_under_the_same_name_fails(readings) -> None:
    base, adapter = readings
    other = copy.deepcopy(adapter)
    for row in other["readings"]:
        row["logprobs"] = {token: value - 0.2 for token, value in row["logprobs"].items()}
    with pytest.raises(CorruptAdapter, match=r"0\.200 nats away"):
        canary.check("v0001", other, base, adapter)


def test_the_record_of_another_build_is_set_aside_and_said(readings) -> None:
    base, adapter = readings
    elsewhere = copy.deepcopy(base) | {"build": "speaking 0 on another machine"}
    assert canary.check("v0001", adapter, base, elsewhere) == "other build"
