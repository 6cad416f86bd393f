"""One look at what a host has beside its cards: RAM, disk and cores, and the RAM that the owners of leases hold.

It measures and judges nothing; what may be leased on it is decided in common/vram/resources.py.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

import psutil

from common.supervisor.vitals import tree_rss_bytes
from common.vram.cards import ProcessId


class HostLook(NamedTuple):
    """The host's figures; `held_ram` maps owners to what they and their descendants hold. A `problem` says why there are none."""

    ram_total_bytes: int = 0
    ram_available_bytes: int = 0
    disk_total_bytes: int = 0
    disk_available_bytes: int = 0
    cpu_cores: float = 0.0
    held_ram: Mapping[ProcessId, int] = {}
    problem: str = ""


def ram_available_bytes() -> int | None:
    """The RAM that is to be had at this moment, at little cost; None where it cannot be read."""
    try:
        return psutil.virtual_memory().available
    except (OSError, RuntimeError):
        return None


def look_at_host(home: Path, owners: Iterable[ProcessId]) -> HostLook:
    """The host now; its disk is the one that `home` is on. Never raises: what could not be read is the look's `problem`."""
    try:
        memory, disk = psutil.virtual_memory(), psutil.disk_usage(str(home))
    except (OSError, RuntimeError) as error:
        return HostLook(problem=str(error))
    held = {owner: tree_rss_bytes(owner.pid) for owner in owners}
    cores = float(os.cpu_count() or 0)
    return HostLook(memory.total, memory.available, disk.total, disk.free, cores, held)
