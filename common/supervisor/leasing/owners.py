"""The processes on whose lives leases and requests hang: pinned when they ask, watched until nothing hangs on them.

A death is told at once, and told again until what hung on the process has let go of it, for what follows from it may have
failed to be committed. It signals no process and ends no lease.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Iterable
from typing import Final

import msgspec

from common.api.supervisor import AdmitLease
from common.errors import NotFound, Unavailable
from common.gpu import process_identity
from common.gpu.process_identity import ExitWatch
from common.vram.cards import ProcessId

MAX_DESCRIPTORS: Final = 256
"""Processes watched by a descriptor each; more than that are looked at by `check`, and leave descriptors for the rest."""

LEASES: Final = "leases"
"""The holder that stands for all leases of an owner; a waiting request is a holder under its lease id."""


def pinned(asked: AdmitLease, host: str, neighbours: Collection[str] = ()) -> AdmitLease:
    """The request with its owner's start time looked up, where the owner is a process of this host; an empty host is this one.

    A process of a neighbour, a host on this same machine, is pinned here as well as any; one that cannot be seen stays with its
    host. Raises NotFound where there is no such process, or another one has its pid by now.
    """
    owner = asked.owner
    if owner is None or owner.pid == 0 or owner.host not in ("", host, *neighbours):
        return asked
    found = process_identity.start_time(owner.pid)
    if found is None or owner.start_time not in (0, found):
        if owner.host in neighbours:
            return asked
        which = f"process {owner.pid}" + (f" (started at tick {owner.start_time})" if owner.start_time else "")
        raise NotFound(f"{which} does not run on {host}; a lease hangs on a living process", pid=owner.pid, host=host)
    return msgspec.structs.replace(asked, owner=msgspec.structs.replace(owner, host=host, start_time=found))


def process_of(asked: AdmitLease, host: str) -> ProcessId | None:
    """The process that a pinned request's lease hangs on; None where only its TTL ends it."""
    owner = asked.owner
    if owner is None or not (owner.pid and owner.start_time) or owner.host != host:
        return None
    return ProcessId(owner.pid, owner.start_time)


class OwnerWatch:
    """Watched processes and who hangs on each; `died` is called on the loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop, died: Callable[[ProcessId], None]) -> None:
        self._loop = loop
        self._died = died
        self._holders: dict[ProcessId, set[str]] = {}
        self._watches: dict[ProcessId, ExitWatch] = {}
        self._unwatchable: set[ProcessId] = set()
        self._dead: set[ProcessId] = set()

    def hold(self, owner: ProcessId, holder: str) -> None:
        """`holder` hangs on the process from now on; its death is told in the next turn if it has died already."""
        holders = self._holders.setdefault(owner, set())
        holders.add(holder)
        if owner not in self._watches and owner not in self._dead:
            self._watch(owner)

    def drop(self, owner: ProcessId, holder: str) -> None:
        """`holder` hangs on the process no more; the last one ends the watch."""
        holders = self._holders.get(owner, set())
        holders.discard(holder)
        if not holders:
            self._forget(owner)

    def follow(self, owners: Iterable[ProcessId]) -> None:
        """These and no others have leases now."""
        wanted = frozenset(owners)
        for owner in [each for each, holders in self._holders.items() if LEASES in holders and each not in wanted]:
            self.drop(owner, LEASES)
        for owner in wanted:
            self.hold(owner, LEASES)

    def check(self) -> None:
        """Looks after what could not be watched, and tells again of the dead that something still hangs on."""
        for owner in list(self._unwatchable):
            if not process_identity.is_alive(*owner):
                self._ended(owner)
        for owner in list(self._dead):
            self._died(owner)

    def close(self) -> None:
        """Ends every watch."""
        for owner in list(self._holders):
            self._forget(owner)

    def _watch(self, owner: ProcessId) -> None:
        if len(self._watches) >= MAX_DESCRIPTORS:
            self._unwatchable.add(owner)
            return
        try:
            self._watches[owner] = process_identity.watch_exit(*owner, self._loop, lambda: self._ended(owner))
        except Unavailable:
            self._unwatchable.add(owner)  # no pidfd is left, or it names a thread: `check` looks twice a second

    def _ended(self, owner: ProcessId) -> None:
        self._watches.pop(owner, None)
        self._unwatchable.discard(owner)
        self._dead.add(owner)
        self._died(owner)

    def _forget(self, owner: ProcessId) -> None:
        self._holders.pop(owner, None)
        self._unwatchable.discard(owner)
        self._dead.discard(owner)
        watch = self._watches.pop(owner, None)
        if watch is not None:
            watch.close()
