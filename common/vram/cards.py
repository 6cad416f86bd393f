"""What one look at a card found: the form in which a measurement enters the VRAM rules.

The GPU adapter makes these structs, from NVML or from a simulated card's folder; the rules only read them. They judge
nothing: whether a measurement may be believed, and what may be granted on it, is the ledger's business.
"""

from __future__ import annotations

from typing import Final, NamedTuple

import msgspec

UNKNOWN_START = 0
"""A start time that could not be read; it never equals that of a process that was pinned."""


class ProcessId(NamedTuple):
    """A process for good: its pid, and the clock tick since boot at which it started (/proc/PID/stat, field 22)."""

    pid: int
    start_time: int


class ProcessUse(msgspec.Struct, frozen=True):
    """What one process holds on one card; `used_bytes` is None where NVML lists the process but hides its memory.

    `pid` is as this host's /proc shows it, containers already mapped back. `start_time` is field 22 of /proc/PID/stat
    (clock ticks since boot), or UNKNOWN_START where the process was gone before it could be read.
    """

    pid: int
    start_time: int
    name: str
    used_bytes: int | None


class CardVitals(msgspec.Struct, frozen=True, kw_only=True):
    """What a card tells of its health; whatever it does not tell is 0, False or empty.

    `throttled` are words of `hw-thermal`, `hw-power-brake`, `hw-slowdown`, `sw-thermal`, `power-cap`. `uncorrected_errors` are
    the volatile ECC count, since the driver was loaded. `repair_pending`: pages or rows of broken memory that a reset replaces;
    `repair_failed`: none are left to replace them. `xids` are the driver's critical errors since the card was first seen
    or came back, each once, the latest last.
    """

    slowdown_c: float = 0.0
    shutdown_c: float = 0.0
    throttled: tuple[str, ...] = ()
    power_w: float = 0.0
    power_limit_w: float = 0.0
    uncorrected_errors: int = 0
    repair_pending: bool = False
    repair_failed: bool = False
    xids: tuple[int, ...] = ()


UNTOLD: Final = CardVitals()


class CardSample(msgspec.Struct, frozen=True, kw_only=True):
    """One card at one moment; bytes as NVML counts them, `sampled_at` in seconds of this host's monotonic clock.

    `processes` is None where the list itself could not be had, and empty only where nobody uses the card. One process
    has one entry, compute and graphics use together. `problem`, when not empty, says in a sentence why the card cannot
    be scheduled: the probe failed, it fell off the bus, or another supervisor of this machine owns it. The byte fields
    of such a sample mean nothing. Beside a problem, `lost` says that the card is gone from the bus, and not merely hard to
    read. `health` says in a sentence why nothing new may go on a card whose figures are good: heat, ECC errors, an XID; it is
    judged from `vitals` (common/vram/card_health.py). `mig`: it is divided, and so not schedulable as a whole.
    """

    host: str
    index: int
    uuid: str
    name: str
    total_bytes: int
    free_bytes: int
    used_bytes: int
    processes: tuple[ProcessUse, ...] | None = ()
    simulated: bool = False
    sampled_at: float = 0.0
    problem: str = ""
    temperature_c: float = 0.0
    utilization_pct: float = 0.0
    lost: bool = False
    health: str = ""
    mig: bool = False
    vitals: CardVitals = UNTOLD
