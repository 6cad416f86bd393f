"""What NVML says of a card's health: heat, throttling, power, memory errors, and the XIDs that the driver reported.

Each question fails by itself, for older cards and drivers answer only some of them. Nothing here needs root, and nothing judges:
what a fact means for the leases on the card is decided in common/vram/card_health.py.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, TypeVar

from common.vram.cards import CardVitals

T = TypeVar("T")

EVENT_WAIT_MS: Final = 1
MOST_EVENTS: Final = 64
"""Events taken at one look; a card that reports more at once is told of at the next."""
THROTTLES: Final[tuple[tuple[str, str], ...]] = (
    ("hw-thermal", "HwThermalSlowdown"),
    ("hw-power-brake", "HwPowerBrakeSlowdown"),
    ("hw-slowdown", "HwSlowdown"),
    ("sw-thermal", "SwThermalSlowdown"),
    ("power-cap", "SwPowerCap"),
)


class NvmlHealth:
    """Reads one host's cards' health through a started NVML; `close` before NVML is shut down."""

    def __init__(self, nvml: Any) -> None:
        self._nvml = nvml
        self._events: Any = None
        self._watched: set[str] = set()
        self._xids: dict[str, tuple[int, ...]] = {}
        self._limits: dict[str, tuple[float, float]] = {}

    def read(self, uuid: str, handle: Any) -> CardVitals:
        """What the card tells now, and the XIDs reported of it since it was first read or came back."""
        nvml = self._nvml
        self._watch(uuid, handle)
        slowdown_c, shutdown_c = self._thresholds(uuid, handle)
        pending, failed = self._repairs(handle)
        uncorrected = (nvml.NVML_MEMORY_ERROR_TYPE_UNCORRECTED, nvml.NVML_VOLATILE_ECC)
        return CardVitals(
            slowdown_c=slowdown_c,
            shutdown_c=shutdown_c,
            throttled=self._throttled(handle),
            power_w=(self._ask(nvml.nvmlDeviceGetPowerUsage, handle) or 0) / 1_000,
            power_limit_w=(self._ask(nvml.nvmlDeviceGetEnforcedPowerLimit, handle) or 0) / 1_000,
            uncorrected_errors=int(self._ask(nvml.nvmlDeviceGetTotalEccErrors, handle, *uncorrected) or 0),
            repair_pending=pending,
            repair_failed=failed,
            xids=self._xids.get(uuid, ()),
        )

    def collect(self) -> None:
        """Takes in the events since the last time; once a look, before the cards are read."""
        if self._events is None:
            return
        for _ in range(MOST_EVENTS):
            event = self._ask(self._nvml.nvmlEventSetWait_v2, self._events, EVENT_WAIT_MS)
            if event is None:
                return
            uuid = self._ask(self._nvml.nvmlDeviceGetUUID, event.device)
            if uuid and event.eventType == self._nvml.nvmlEventTypeXidCriticalError:
                xid = int(event.eventData)
                self._xids[uuid] = (*(known for known in self._xids.get(uuid, ()) if known != xid), xid)

    def forget(self, uuid: str) -> None:
        """The card is gone: it comes back only by a reset, which settles what was reported of it."""
        self._watched.discard(uuid)
        self._xids.pop(uuid, None)

    def close(self) -> None:
        """Ends the watching; what was reported is forgotten, since the driver was or will be loaded anew."""
        if self._events is not None:
            self._ask(self._nvml.nvmlEventSetFree, self._events)
        self._events = None
        self._watched.clear()
        self._xids.clear()

    def _ask(self, question: Callable[..., T], *about: Any) -> T | None:
        """The answer; None where this card or this driver gives none."""
        try:
            return question(*about)
        except self._nvml.NVMLError:
            return None

    def _watch(self, uuid: str, handle: Any) -> None:
        if uuid in self._watched:
            return
        self._watched.add(uuid)
        nvml = self._nvml
        if self._events is None:
            self._events = self._ask(nvml.nvmlEventSetCreate)
        if self._events is not None:
            self._ask(nvml.nvmlDeviceRegisterEvents, handle, nvml.nvmlEventTypeXidCriticalError, self._events)

    def _thresholds(self, uuid: str, handle: Any) -> tuple[float, float]:
        """Slowdown and shutdown in °C, 0 where the card does not say; they never change."""
        if uuid not in self._limits:
            nvml = self._nvml
            kinds = nvml.NVML_TEMPERATURE_THRESHOLD_SLOWDOWN, nvml.NVML_TEMPERATURE_THRESHOLD_SHUTDOWN
            slowdown, shutdown = (self._ask(nvml.nvmlDeviceGetTemperatureThreshold, handle, kind) for kind in kinds)
            self._limits[uuid] = float(slowdown or 0), float(shutdown or 0)
        return self._limits[uuid]

    def _throttled(self, handle: Any) -> tuple[str, ...]:
        nvml = self._nvml
        reasons = self._ask(nvml.nvmlDeviceGetCurrentClocksEventReasons, handle)
        if reasons is None:
            reasons = self._ask(nvml.nvmlDeviceGetCurrentClocksThrottleReasons, handle) or 0
        return tuple(name for name, flag in THROTTLES if reasons & getattr(nvml, f"nvmlClocksThrottleReason{flag}"))

    def _repairs(self, handle: Any) -> tuple[bool, bool]:
        """Whether broken memory waits for a reset to be replaced, and whether replacing it has failed."""
        rows = self._ask(self._nvml.nvmlDeviceGetRemappedRows, handle)
        if rows is not None:
            return bool(rows[2]), bool(rows[3])
        return bool(self._ask(self._nvml.nvmlDeviceGetRetiredPagesPendingStatus, handle)), False
