"""The GPU that is trained on, looked at through the driver's own library (NVML), or through torch where there is none.

NVML is called with ctypes: it comes with the driver, so nothing has to be installed. Signatures:
https://docs.nvidia.com/deploy/nvml-api/group__nvmlDeviceQueries.html
"""

from __future__ import annotations

import ctypes
from typing import Any

from training.monitor import MB, Gpu, GpuReading

NVML = "libnvidia-ml.so.1"
_SUCCESS = 0


class _Utilization(ctypes.Structure):
    _fields_ = (("gpu", ctypes.c_uint), ("memory", ctypes.c_uint))


class _Memory(ctypes.Structure):
    _fields_ = (("total", ctypes.c_ulonglong), ("free", ctypes.c_ulonglong), ("used", ctypes.c_ulonglong))


class NvmlGpu:
    """One device of NVML. `library` is the loaded library, `handle` what it knows the device by."""

    def __init__(self, library: Any, handle: Any) -> None:
        self._library, self._handle = library, handle

    @classmethod
    def open(cls, library: Any, uuid: str) -> NvmlGpu | None:
        """Return the device of this uuid ("GPU-..."); None when the library does not know it."""
        handle = ctypes.c_void_p()
        if library.nvmlInit_v2() != _SUCCESS:
            return None
        if library.nvmlDeviceGetHandleByUUID(uuid.encode(), ctypes.byref(handle)) != _SUCCESS:
            return None
        return cls(library, handle)

    def read(self) -> GpuReading:
        """Look at the device; what it does not tell is None."""
        busy, memory, milliwatts = _Utilization(), _Memory(), ctypes.c_uint()
        library = self._library
        return GpuReading(
            percent=float(busy.gpu) if self._told(library.nvmlDeviceGetUtilizationRates, busy) else None,
            mb=memory.used / MB if self._told(library.nvmlDeviceGetMemoryInfo, memory) else None,
            watts=milliwatts.value / 1000 if self._told(library.nvmlDeviceGetPowerUsage, milliwatts) else None,
        )

    def _told(self, function: Any, into: Any) -> bool:
        return bool(function(self._handle, ctypes.byref(into)) == _SUCCESS)


class TorchGpu:
    """The device as torch sees it, where there is no NVML: its memory alone."""

    def read(self) -> GpuReading:
        """Look at the device's memory."""
        import torch

        try:
            free, total = torch.cuda.mem_get_info()
        except RuntimeError:
            return GpuReading(percent=None, mb=None, watts=None)
        return GpuReading(percent=None, mb=(total - free) / MB, watts=None)


def current_gpu() -> Gpu | None:
    """Return the GPU that torch trains on by default; None without one."""
    import torch

    if not torch.cuda.is_available():
        return None
    try:
        library = ctypes.CDLL(NVML)
        uuid = str(torch.cuda.get_device_properties(torch.cuda.current_device()).uuid)
    except (OSError, AttributeError, RuntimeError):
        return TorchGpu()
    return NvmlGpu.open(library, uuid if uuid.startswith(("GPU-", "MIG-")) else f"GPU-{uuid}") or TorchGpu()
