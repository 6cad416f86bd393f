"""Whose cgroup a process is in, as /proc tells it: how a container's processes are known, which descend from a daemon.

Paths are as this host's /proc shows them, of whichever hierarchies there are (cgroups(7), versions 1 and 2); the root of a
hierarchy says nothing and is left out. Nothing here makes, changes or ends a cgroup.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Final

from common.vram.cards import ProcessId

_PROC = Path("/proc")
_MONITOR: Final = "conmon"
"""Podman keeps a container's monitor, which is no part of it, in a cgroup named `libpod-conmon-ID`."""


def paths(pid: int) -> tuple[str, ...]:
    """The process's cgroups below the roots, each once; empty when it is gone."""
    try:
        lines = (_PROC / str(pid) / "cgroup").read_text(errors="replace").splitlines()
    except OSError:
        return ()
    found = (line.split(":", 2)[-1] for line in lines)
    return tuple(dict.fromkeys(path for path in found if path not in ("", "/")))


def is_within(path: str, cgroup: str) -> bool:
    """Whether `path` is that cgroup or one below it; nothing is within the root, which everybody is in."""
    return cgroup.strip("/") != "" and (path == cgroup or path.startswith(f"{cgroup.rstrip('/')}/"))


def owner_of(pid: int, owners: Mapping[str, ProcessId]) -> ProcessId | None:
    """The owner whose cgroup the process is in, the innermost where they nest; None where it is in none of them."""
    around = [cgroup for cgroup in owners if any(is_within(path, cgroup) for path in paths(pid))]
    return owners[max(around, key=len)] if around else None


def claimable(owners: Mapping[str, ProcessId], own_pid: int) -> dict[str, ProcessId]:
    """The cgroups without those around the process `own_pid`: nobody's container has the supervisor in it."""
    around = paths(own_pid)
    return {cgroup: owner for cgroup, owner in owners.items() if not any(is_within(path, cgroup) for path in around)}


def container_cgroup(container_id: str) -> str:
    """The cgroup that a container's processes share, found by the id in its name; empty while it has no process here."""
    return next((cgroup for pid in _pids() for cgroup in _named(paths(pid), container_id)), "")


def members(container_id: str) -> list[int]:
    """The processes of a container, as this host numbers them."""
    return [pid for pid in _pids() if any(_named(paths(pid), container_id))]


def _named(found: Iterable[str], container_id: str) -> Iterator[str]:
    """Of each path the part down to the component that names the container, in whatever way its engine does."""
    for path in found:
        components = path.split("/")
        names = (n for n, each in enumerate(components, 1) if container_id in each and _MONITOR not in each)
        if container_id and (depth := next(names, 0)):
            yield "/".join(components[:depth])


def _pids() -> Iterator[int]:
    return (int(entry) for entry in os.listdir(_PROC) if entry.isdigit())
