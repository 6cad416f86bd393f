"""The driver's cards, through NVIDIA's own binding of NVML.

Every question fails by itself: a card without a thermometer still has memory, but one whose memory could not be read has
none to give, and says so as its `problem`. Nothing here changes a card's settings.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable, Iterable
from typing import Any, Final, TypeVar

import msgspec

from common.errors import Unavailable
from common.gpu import process_identity
from common.gpu.nvml_health import NvmlHealth
from common.vram.cards import UNKNOWN_START, CardSample, ProcessUse

T = TypeVar("T")

_LIBRARY: Final = "libnvidia-ml.so.1"

_MENDS: Final[dict[str, str]] = {
    "NVMLError_LibraryNotFound": "no NVIDIA driver library (libnvidia-ml.so.1) on {host}; install the NVIDIA driver, "
    "or run `make start`, which simulates cards",
    "NVMLError_DriverNotLoaded": "the NVIDIA kernel driver is not loaded on {host}; load it (modprobe nvidia) or reboot",
    "NVMLError_LibRmVersionMismatch": "the NVIDIA driver's library and kernel module on {host} are of different versions; "
    "reboot to finish the driver's update",
    "NVMLError_NoPermission": "this user may not use the NVIDIA driver on {host}; allow it to open /dev/nvidiactl",
}
_PROBLEMS: Final[dict[str, str]] = {
    "NVMLError_GpuIsLost": "the card has fallen off the bus; see the kernel log for its XID, then reset it or reboot",
    "NVMLError_ResetRequired": "the card needs a reset (nvidia-smi --gpu-reset, with nobody using it) or a reboot",
}


class _Known(msgspec.Struct, frozen=True):
    """What a card said of itself while it could; a lost card is reported by it."""

    index: int
    uuid: str
    name: str = ""
    total_bytes: int = 0


class NvmlCards:
    """The cards that NVML lists on this host, as a CardSource; a card once seen stays in the samples until `close`."""

    def __init__(self, host: str) -> None:
        """Raises Unavailable, with the mend, where there is no library, no driver or no card."""
        self._nvml = pynvml = _binding(host)
        self._host = host
        self._known: dict[str, _Known] = {}
        self._running = False
        self._health = NvmlHealth(pynvml)
        try:
            self._start()
            count = int(pynvml.nvmlDeviceGetCount())
        except pynvml.NVMLError as error:
            self.close()
            mend = _MENDS.get(type(error).__name__, "NVML does not work on {host}: " + str(error))
            raise Unavailable(mend.format(host=host)) from error
        if count == 0:
            self.close()
            raise Unavailable(f"the NVIDIA driver finds no card on {host}; see lspci and the kernel log")

    def sample(self, now: float) -> list[CardSample]:
        """A sample for every card listed now or earlier, in NVML's order."""
        try:
            self._start()
            listed = range(self._nvml.nvmlDeviceGetCount())
        except self._nvml.NVMLError as error:
            self.close()  # a driver that was loaded anew answers only those who start anew
            return [self._unmeasured(known, now, f"NVML does not answer: {error}") for known in self._by_index()]
        self._health.collect()
        samples = [self._sample_card(index, now) for index in listed]
        uuids = {sample.uuid for sample in samples}
        gone = (known for known in self._by_index() if known.uuid not in uuids)
        return samples + [
            self._unmeasured(known, now, "the driver no longer lists the card", lost=True) for known in gone
        ]

    def close(self) -> None:
        """Ends the use of NVML; the next sample would start it again."""
        if self._running:
            self._running = False
            self._health.close()
            self._ask(self._nvml.nvmlShutdown)

    def _start(self) -> None:
        if not self._running:
            self._nvml.nvmlInit()
            self._running = True

    def _by_index(self) -> list[_Known]:
        return sorted(self._known.values(), key=lambda known: known.index)

    def _ask(self, *questions: Callable[[], T]) -> T | None:
        """The first answer; None when NVML answers none of them."""
        for question in questions:
            try:
                return question()
            except self._nvml.NVMLError:
                continue
        return None

    def _sample_card(self, index: int, now: float) -> CardSample:
        try:
            handle = self._nvml.nvmlDeviceGetHandleByIndex(index)
            known = self._identify(index, handle)
            memory = self._memory(handle)
        except self._nvml.NVMLError as error:
            reason = _PROBLEMS.get(type(error).__name__, f"its memory could not be read: {error}")
            lost = isinstance(error, self._nvml.NVMLError_GpuIsLost)
            return self._unmeasured(self._last_at(index), now, reason, lost=lost)
        known = msgspec.structs.replace(known, total_bytes=memory.total)
        self._known[known.uuid] = known
        if self._mig_enabled(handle):
            reason = f"MIG is enabled, and Tandem leases whole cards only; disable it (nvidia-smi -i {index} -mig 0)"
            return msgspec.structs.replace(self._unmeasured(known, now, reason), mig=True)
        return self._measured(known, handle, memory, now)

    def _measured(self, known: _Known, handle: Any, memory: Any, now: float) -> CardSample:
        nvml = self._nvml
        sensor = nvml.NVML_TEMPERATURE_GPU
        temperature = self._ask(
            lambda: nvml.nvmlDeviceGetTemperatureV(handle, sensor),
            lambda: nvml.nvmlDeviceGetTemperature(handle, sensor),
        )
        utilization = self._ask(lambda: nvml.nvmlDeviceGetUtilizationRates(handle).gpu)
        return CardSample(
            host=self._host,
            index=known.index,
            uuid=known.uuid,
            name=known.name,
            total_bytes=known.total_bytes,
            free_bytes=memory.free,
            used_bytes=memory.used,
            processes=self._processes(handle, known.total_bytes),
            sampled_at=now,
            temperature_c=float(temperature or 0),
            utilization_pct=float(utilization or 0),
            vitals=self._health.read(known.uuid, handle),
        )

    def _identify(self, index: int, handle: Any) -> _Known:
        uuid: str = self._nvml.nvmlDeviceGetUUID(handle)
        name: str = self._ask(lambda: self._nvml.nvmlDeviceGetName(handle)) or ""
        return _Known(index, uuid, name)

    def _last_at(self, index: int) -> _Known:
        """The card last seen at this index, or one that never told its UUID and is known by its place."""
        return next(
            (known for known in self._by_index() if known.index == index), _Known(index, f"{self._host}:{index}")
        )

    def _unmeasured(self, known: _Known, now: float, reason: str, *, lost: bool = False) -> CardSample:
        """A sample that says why there is none; `lost` where the card itself is gone, and not only an answer."""
        if lost:
            self._health.forget(known.uuid)
        return CardSample(
            host=self._host,
            index=known.index,
            uuid=known.uuid,
            name=known.name,
            total_bytes=known.total_bytes,
            free_bytes=0,
            used_bytes=0,
            processes=None,
            sampled_at=now,
            problem=f"{known.name or known.uuid}: {reason}",
            lost=lost,
        )

    def _memory(self, handle: Any) -> Any:
        """Total, free and used bytes; the newer question keeps what the driver reserves apart from what is used."""
        nvml = self._nvml
        try:
            return nvml.nvmlDeviceGetMemoryInfo(handle, version=nvml.nvmlMemory_v2)
        except (nvml.NVMLError_FunctionNotFound, nvml.NVMLError_ArgumentVersionMismatch, nvml.NVMLError_NotSupported):
            return nvml.nvmlDeviceGetMemoryInfo(handle)

    def _mig_enabled(self, handle: Any) -> bool:
        mode = self._ask(lambda: self._nvml.nvmlDeviceGetMigMode(handle)[0])
        return bool(mode == self._nvml.NVML_DEVICE_MIG_ENABLE)

    def _processes(self, handle: Any, total_bytes: int) -> tuple[ProcessUse, ...] | None:
        nvml = self._nvml
        compute = self._ask(
            lambda: nvml.nvmlDeviceGetComputeRunningProcesses_v3(handle),
            lambda: nvml.nvmlDeviceGetComputeRunningProcesses_v2(handle),
        )
        graphics = self._ask(
            lambda: nvml.nvmlDeviceGetGraphicsRunningProcesses_v3(handle),
            lambda: nvml.nvmlDeviceGetGraphicsRunningProcesses_v2(handle),
        )
        served = self._ask(
            lambda: nvml.nvmlDeviceGetMPSComputeRunningProcesses_v3(handle),
            lambda: nvml.nvmlDeviceGetMPSComputeRunningProcesses_v2(handle),
        )
        return None if compute is None else _merged([*compute, *(graphics or []), *(served or [])], total_bytes)


def _binding(host: str) -> Any:
    """The binding. It takes 2.6 MB, so it is imported only where the library that it binds is there, and never by others."""
    if "pynvml" not in sys.modules:
        try:
            ctypes.CDLL(_LIBRARY)
        except OSError as error:
            raise Unavailable(_MENDS["NVMLError_LibraryNotFound"].format(host=host)) from error
    import pynvml

    return pynvml


def _merged(entries: Iterable[Any], total_bytes: int) -> tuple[ProcessUse, ...]:
    """One entry per process: each of NVML's lists gives a process's whole use, so the larger figure stands, not the sum.

    A figure above the card's total is none: libraries older than the binding fill the struct differently.
    """
    used: dict[int, int | None] = {}
    for entry in entries:
        figure = entry.usedGpuMemory
        if figure is not None and figure > total_bytes:
            figure = None
        known = used.get(entry.pid)
        used[entry.pid] = figure if known is None else max(known, figure or 0)
    visible = process_identity.visible_pids(used)
    return tuple(_use(visible.get(pid, pid), figure) for pid, figure in sorted(used.items()))


def _use(pid: int, used_bytes: int | None) -> ProcessUse:
    started = process_identity.start_time(pid)
    return ProcessUse(pid, UNKNOWN_START if started is None else started, process_identity.name(pid), used_bytes)
