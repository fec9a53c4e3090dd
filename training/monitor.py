"""What a training takes from the machine while it runs: processor, memory, disk, GPU and energy, where they can be read."""

from __future__ import annotations

import math
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import psutil

POWERCAP = Path("/sys/class/powercap")
"""Where Linux keeps the energy counters of the processor (Intel's RAPL; AMD's stand there too). Often only root may read it."""
READ_EVERY = 2.0
"""Seconds between two looks at the machine."""
MB = 2**20


@dataclass(frozen=True, kw_only=True)
class GpuReading:
    """One look at a GPU: how busy it is (percent), memory in use by everybody (MB), power (watts). None: not to be read."""

    percent: float | None
    mb: float | None
    watts: float | None


class Gpu(Protocol):
    """A GPU that can be looked at."""

    def read(self) -> GpuReading:
        """Look at it; never raises."""


class MachineMonitor:
    """Looks at the machine, at most every two seconds. It never raises: what cannot be read is None.

    `folder` is the run's (for the free disk), `gpu` the device that is trained on. Energy is of the whole processor, or the
    whole device, not of this process alone. `powercap`, `every` (seconds) and `clock` are there for the tests.
    """

    def __init__(
        self,
        folder: Path,
        *,
        gpu: Gpu | None = None,
        powercap: Path = POWERCAP,
        every: float = READ_EVERY,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._folder, self._gpu, self._every, self._clock = folder, gpu, every, clock
        self._process = psutil.Process()
        self._cores = _usable_cores(self._process)
        self._meters = [meter for path in _packages(powercap) if (meter := EnergyMeter.open(path)) is not None]
        self._at = clock()
        self._kept: dict[str, float | None] | None = None
        # both percentages are means since the call before: this is that call
        self._process.cpu_percent()
        psutil.cpu_percent()

    def read(self) -> dict[str, float | None]:
        """Return the newest values; between two looks the last ones again, with an energy of 0.

        cpu_percent: of the cores that this process may use. machine_percent: of all cores, by everybody. rss_mb,
        available_mb (memory left on the machine), disk_free_mb, gpu_mb: MB. cpu_watts, gpu_watts: watts; of the processor
        the mean since the look before. cpu_energy_j, gpu_energy_j: joules since the look before, so that a run's sum holds
        over restarts.
        """
        now = self._clock()
        seconds = now - self._at
        if self._kept is not None and seconds < self._every:
            return {name: 0.0 if name.endswith("energy_j") and value is not None else value for name, value in self._kept.items()}
        self._at = now
        readings = {**self._processor(), **self._energy(seconds), **self._graphics(seconds)}
        self._kept = {name: None if value is None else round(value, 1) for name, value in readings.items()}
        return dict(self._kept)

    def _processor(self) -> dict[str, float | None]:
        return {
            "cpu_percent": _or_none(lambda: self._process.cpu_percent() / self._cores),
            "machine_percent": _or_none(psutil.cpu_percent),
            "rss_mb": _or_none(lambda: self._process.memory_info().rss / MB),
            "available_mb": _or_none(lambda: psutil.virtual_memory().available / MB),
            "disk_free_mb": _or_none(lambda: shutil.disk_usage(self._folder).free / MB),
        }

    def _energy(self, seconds: float) -> dict[str, float | None]:
        spent = [joules for meter in self._meters if (joules := meter.spent()) is not None]
        if not spent:
            return {"cpu_watts": None, "cpu_energy_j": None}
        joules = sum(spent)
        return {"cpu_watts": joules / seconds if seconds > 0 else None, "cpu_energy_j": joules}

    def _graphics(self, seconds: float) -> dict[str, float | None]:
        reading = self._gpu.read() if self._gpu is not None else GpuReading(percent=None, mb=None, watts=None)
        # counters of energy are not on every card: power times the time since the look before is near enough
        joules = None if reading.watts is None else reading.watts * max(0.0, seconds)
        return {"gpu_percent": reading.percent, "gpu_mb": reading.mb, "gpu_watts": reading.watts, "gpu_energy_j": joules}


class EnergyMeter:
    """One counter of energy, in microjoules, that begins again at 0 when it is full."""

    def __init__(self, path: Path, *, range_uj: int, last_uj: int) -> None:
        self._path, self._range, self._last = path, range_uj, last_uj

    @classmethod
    def open(cls, zone: Path) -> EnergyMeter | None:
        """Return the meter of a powercap zone; None when its counter cannot be read."""
        value = _number(zone / "energy_uj")
        if value is None:
            return None
        return cls(zone / "energy_uj", range_uj=_number(zone / "max_energy_range_uj") or 0, last_uj=value)

    def spent(self) -> float | None:
        """Return the joules since the last call; None when the counter cannot be read any more."""
        now = _number(self._path)
        if now is None:
            return None
        moved = now - self._last if now >= self._last else now + self._range - self._last
        self._last = now
        return max(0, moved) / 1e6


def _packages(powercap: Path) -> list[Path]:
    """Return the zones of whole processors: a zone below one (cores, memory) or around all (psys) would count twice."""
    zones = sorted(powercap.glob("intel-rapl:*")) if powercap.is_dir() else []
    return [zone for zone in zones if _text(zone / "name").startswith("package")]


def _text(path: Path) -> str:
    try:
        return path.read_text("utf-8").strip()
    except (OSError, UnicodeDecodeError):
        return ""


def _number(path: Path) -> int | None:
    text = _text(path)
    return int(text) if text.isdecimal() else None


def _usable_cores(process: psutil.Process) -> int:
    try:
        return max(1, len(process.cpu_affinity()))
    except (AttributeError, psutil.Error):  # macOS has no affinity
        return psutil.cpu_count() or 1


def _or_none(read: Callable[[], float]) -> float | None:
    try:
        value = float(read())
    except (OSError, psutil.Error):
        return None
    return value if math.isfinite(value) else None
