"""The machine a run was made on, and which core each side of a contest gets."""

from __future__ import annotations

import importlib.metadata
import os
import platform
from pathlib import Path

PACKAGES = ("pyzmq", "msgspec", "uvloop", "grpcio")


def cores() -> tuple[int, int]:
    """The server's core and the client's; -1 twice on a machine that has but one."""
    allowed = sorted(os.sched_getaffinity(0))
    return (allowed[0], allowed[1]) if len(allowed) > 1 else (-1, -1)


def described() -> list[str]:
    """The machine in lines: processor, cores, memory, system, Python, packages."""
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in PACKAGES)
    pinned = "one server and one client, a core each" if cores()[0] >= 0 else "server and client share the one core"
    return [
        f"{_processor()}, {len(os.sched_getaffinity(0))} cores, {memory:.0f} GiB",
        f"{platform.system()} {platform.release()}, Python {platform.python_version()}, {versions}",
        f"loopback TCP; {pinned}",
    ]


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()
