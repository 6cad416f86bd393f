"""What one look at a card found: the form in which a measurement enters the VRAM rules.

The GPU adapter makes these structs, from NVML or from a simulated card's folder; the rules only read them. They judge
nothing: whether a measurement may be believed, and what may be granted on it, is the ledger's business.
"""

from __future__ import annotations

from typing import NamedTuple

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


class CardSample(msgspec.Struct, frozen=True, kw_only=True):
    """One card at one moment; bytes as NVML counts them, `sampled_at` in seconds of this host's monotonic clock.

    `processes` is None where the list itself could not be had, and empty only where nobody uses the card. One process
    has one entry, compute and graphics use together. `problem`, when not empty, says in a sentence why the card cannot
    be scheduled: the probe failed, it fell off the bus, or another supervisor of this machine owns it. The byte fields
    of such a sample mean nothing.
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
