"""The machine as a training sees it: made-up counters and a made-up card, and the real machine for the rest."""

from __future__ import annotations

import ctypes
import json
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from training.gpu import NvmlGpu
from training.monitor import MB, GpuReading, MachineMonitor
from training.recipe import Recipe


class Clock:
    """A clock that stands still until it is moved."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class Zone:
    """A folder of the kernel's powercap tree with a counter that a test moves."""

    def __init__(self, root: Path, name: str, label: str, *, joules: float = 0.0, full: float = 1000.0) -> None:
        self.folder = root / name
        self.folder.mkdir(parents=True)
        (self.folder / "name").write_text(f"{label}\n")
        (self.folder / "max_energy_range_uj").write_text(f"{round(full * 1e6)}\n")
        self.set(joules)

    def set(self, joules: float) -> None:
        (self.folder / "energy_uj").write_text(f"{round(joules * 1e6)}\n")


@pytest.fixture
def clock() -> Clock:
    return Clock()


def test_the_processors_energy_is_that_of_its_packages_counted_once(tmp_path: Path, clock: Clock) -> None:
    power = tmp_path / "powercap"
    first, second = Zone(power, "intel-rapl:0", "package-0", joules=50), Zone(power, "intel-rapl:1", "package-1")
    inner, around = Zone(power, "intel-rapl:0:0", "core"), Zone(power, "intel-rapl:2", "psys")
    monitor = MachineMonitor(tmp_path, powercap=power, clock=clock)
    for zone, joules in ((first, 80), (second, 10), (inner, 25), (around, 500)):
        zone.set(joules)
    clock.now += 4
    reading = monitor.read()
    assert reading["cpu_energy_j"] == 40 and reading["cpu_watts"] == 10


def test_a_counter_that_is_full_begins_again_at_nothing(tmp_path: Path, clock: Clock) -> None:
    zone = Zone(tmp_path / "powercap", "intel-rapl:0", "package-0", joules=990, full=1000)
    monitor = MachineMonitor(tmp_path, powercap=tmp_path / "powercap", clock=clock)
    zone.set(15)
    clock.now += 5
    assert monitor.read()["cpu_energy_j"] == 25


def test_a_counter_that_may_not_be_read_is_no_energy_and_no_fault(tmp_path: Path, clock: Clock) -> None:
    zone = Zone(tmp_path / "powercap", "intel-rapl:0", "package-0")
    monitor = MachineMonitor(tmp_path, powercap=tmp_path / "powercap", clock=clock)
    (zone.folder / "energy_uj").unlink()
    later = MachineMonitor(tmp_path, powercap=tmp_path / "powercap", clock=clock)
    clock.now += 5
    assert monitor.read()["cpu_energy_j"] is None
    assert later.read()["cpu_watts"] is None


class Card:
    """A GPU that draws 200 W, and counts how often it is looked at."""

    def __init__(self) -> None:
        self.looks = 0

    def read(self) -> GpuReading:
        self.looks += 1
        return GpuReading(percent=80.0, mb=5000.0, watts=200.0)


def test_the_machine_is_looked_at_every_two_seconds_and_its_energy_told_once(tmp_path: Path, clock: Clock) -> None:
    card = Card()
    monitor = MachineMonitor(tmp_path, gpu=card, powercap=tmp_path, clock=clock)
    told = []
    for _ in range(8):
        clock.now += 0.5
        told.append(monitor.read())
    assert card.looks == 2, "at the first call, and two seconds later"
    assert [each["gpu_energy_j"] for each in told] == [100.0, 0.0, 0.0, 0.0, 400.0, 0.0, 0.0, 0.0]
    assert all(each["gpu_percent"] == 80 and each["rss_mb"] == told[0]["rss_mb"] for each in told[:4])


def test_this_machine_can_be_read(tmp_path: Path) -> None:
    monitor = MachineMonitor(tmp_path, every=0.0)
    end = time.process_time() + 0.15
    while time.process_time() < end:
        pass
    reading = monitor.read()
    assert 0 < reading["cpu_percent"] <= 120 and 0 < reading["machine_percent"] <= 100  # type: ignore[operator]
    assert reading["rss_mb"] > 10 and reading["available_mb"] > 10 and reading["disk_free_mb"] > 0  # type: ignore[operator]
    assert reading["gpu_percent"] is None and reading["gpu_energy_j"] is None
    begun = time.perf_counter()
    for _ in range(20):
        monitor.read()
    assert (time.perf_counter() - begun) / 20 < 0.05, "a look costs next to nothing beside a step"


def test_a_folder_that_is_gone_leaves_the_other_readings(tmp_path: Path) -> None:
    reading = MachineMonitor(tmp_path / "gone", every=0.0).read()
    assert reading["disk_free_mb"] is None and reading["rss_mb"] is not None


class Nvml:
    """NVML's C functions, as far as they are called, over one card; the names in `refused` return an error."""

    def __init__(self, *refused: str) -> None:
        self.refused = refused

    def __getattr__(self, name: str) -> Callable[..., int]:
        def call(*arguments: Any) -> int:
            if name in self.refused:
                return 3  # NVML_ERROR_NOT_SUPPORTED
            into = arguments[-1]._obj if arguments else None
            if name == "nvmlDeviceGetHandleByUUID":
                into.value = 7
            elif name == "nvmlDeviceGetUtilizationRates":
                into.gpu = 63
            elif name == "nvmlDeviceGetMemoryInfo":
                into.used = 2048 * MB
            elif name == "nvmlDeviceGetPowerUsage":
                into.value = 151_500
            return 0

        return call


def test_a_card_is_read_through_the_drivers_library() -> None:
    card = NvmlGpu.open(Nvml(), "GPU-1")
    assert card is not None and card.read() == GpuReading(percent=63.0, mb=2048.0, watts=151.5)


def test_what_a_card_does_not_tell_is_none() -> None:
    card = NvmlGpu.open(Nvml("nvmlDeviceGetPowerUsage"), "GPU-1")
    assert card is not None and card.read() == GpuReading(percent=63.0, mb=2048.0, watts=None)
    assert NvmlGpu.open(Nvml("nvmlInit_v2"), "GPU-1") is None
    assert NvmlGpu.open(Nvml("nvmlDeviceGetHandleByUUID"), "GPU-1") is None
    assert isinstance(card._handle, ctypes.c_void_p)


def test_a_trainings_progress_tells_the_gradient_and_the_machine(make_run: Callable[..., Path]) -> None:
    from training.session import train

    run = make_run(max_steps=2)
    recipe = Recipe.from_json((run / "config.json").read_text("utf-8"))
    train(run, recipe, stop=SimpleNamespace(asked=False, training=False), started=time.monotonic())
    lines = [json.loads(line) for line in (run / "progress.jsonl").read_text("utf-8").splitlines()]
    assert len(lines) == 2
    for line in lines:
        assert line["grad_norm"] > 0 and line["rss_mb"] > 50 and line["disk_free_mb"] > 0 and 0 <= line["cpu_percent"] <= 120
        assert None not in line.values(), "what cannot be read takes no room"
