"""What the host and each of its processes use, as the kernel tells it; judges nothing.

A process's figures are those of its tree: the launched program and what it started, as long as these are its descendants.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final, NamedTuple

import psutil

from common.api.supervisor import Vitals

PAGE_BYTES: Final = os.sysconf("SC_PAGE_SIZE")
TICKS_PER_S: Final = os.sysconf("SC_CLK_TCK")
MAX_TREE: Final = 512
"""More descendants than this are not counted: a sample stays cheap whatever a process forks."""


class Use(NamedTuple):
    """Resident bytes (shared pages counted in each process), and percent of one core since the sample before."""

    rss_bytes: int = 0
    cpu_pct: float = 0.0


class ProcessUses:
    """The last sample of every process of the host."""

    def __init__(self) -> None:
        self._uses: dict[str, Use] = {}
        self._cpu_s: dict[str, tuple[int, float]] = {}
        self._sampled_at = 0.0

    def of(self, name: str) -> Use:
        """The last sample of `name`; nothing used where there is none."""
        return self._uses.get(name, Use())

    def sample(self, pids: Mapping[str, int], at: float) -> None:
        """Looks at every process by its name and pid; `at` is a monotonic reading, in seconds."""
        before, self._cpu_s, self._uses = self._cpu_s, {}, {}
        for name, pid in pids.items():
            seen = [found for one in _tree(pid) if (found := _read(one))]
            cpu_s = sum(seconds for seconds, _ in seen)
            known = before.get(name)
            spent_s = cpu_s - known[1] if known and known[0] == pid else 0.0
            elapsed_s = at - self._sampled_at
            pct = 100 * max(spent_s, 0.0) / elapsed_s if elapsed_s > 0 else 0.0
            self._cpu_s[name] = pid, cpu_s
            self._uses[name] = Use(sum(rss for _, rss in seen), round(pct, 1))
        self._sampled_at = at


def busy_pct() -> float:
    """How busy all cores were together since the call before, in percent; 0 at the first."""
    return psutil.cpu_percent()


def host_vitals(host: str, home: Path, cpu_pct: float) -> Vitals:
    """The host now, with `cpu_pct` as sampled; disk figures are those of the file system that `home` is on."""
    memory, disk = psutil.virtual_memory(), psutil.disk_usage(str(home))
    with open("/proc/uptime", encoding="ascii") as file:
        uptime_s = float(file.read().split()[0])
    return Vitals(
        host=host,
        cpu_pct=cpu_pct,
        load_1m=os.getloadavg()[0],
        cores=os.cpu_count() or 1,
        memory_total_bytes=memory.total,
        memory_used_bytes=memory.used,
        swap_used_bytes=psutil.swap_memory().used,
        disk_total_bytes=disk.total,
        disk_free_bytes=disk.free,
        uptime_s=uptime_s,
        processes=sum(name.isdigit() for name in os.listdir("/proc")),
    )


def tree_rss_bytes(pid: int) -> int:
    """Resident bytes of a process and its descendants together (shared pages counted in each); 0 when it is gone."""
    return sum(found[1] for one in _tree(pid) if (found := _read(one)))


def _tree(pid: int) -> Iterator[int]:
    """`pid` and its descendants, by the kernel's own lists of children (proc(5))."""
    found = [pid]
    for one in found:
        yield one
        if len(found) < MAX_TREE:
            found += _children(one)


def _children(pid: int) -> list[int]:
    try:
        lists = [Path(f"/proc/{pid}/task/{task}/children").read_text() for task in os.listdir(f"/proc/{pid}/task")]
    except OSError:
        return []
    return [int(child) for text in lists for child in text.split()]


def _read(pid: int) -> tuple[float, int] | None:
    """Seconds of CPU and resident bytes of one process."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            fields = file.read().rpartition(b")")[2].split()
    except OSError:
        return None
    return (int(fields[11]) + int(fields[12])) / TICKS_PER_S, int(fields[21]) * PAGE_BYTES
