"""Remembers what this host did while it could not reach another one; separations.py says what falls into which time.

A deed is a verb answered with success, so that whatever else serves the verb has nothing to count.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from typing import Final

from common.api import core_orchestrator, leases, models, supervisor
from common.api.links import Link
from common.api.separations import LIST_SEPARATIONS, ListSeparations, SeparationList
from common.errors import StorageUnavailable
from common.service.call import Call
from common.service.shell import Shell
from common.store.protocol import Change
from common.supervisor.separations import SEPARATIONS, Separations

PAST: Final = 16
"""Looks whose counts are kept: a peer's loss is noticed within a few."""
LOOK_S: Final = 1.0
"""How often the links are looked at, and the deeds so far stored while a separation lasts."""

DEEDS: Final = {
    "leases granted": (leases.ACQUIRE_LEASE, supervisor.ADMIT_LEASE),
    "leases renewed": (leases.RENEW_LEASE,),
    "leases given back": (leases.RELEASE_LEASE,),
    "models lent": (models.USE_MODEL,),
    "look-ups answered": (
        core_orchestrator.GET_AGENT_ENDPOINT,
        core_orchestrator.FIND_AGENTS,
        core_orchestrator.LIST_AGENTS,
    ),
    "processes controlled": (supervisor.START_AGENT, supervisor.STOP_AGENT, supervisor.RESTART_AGENT),
}


class Apart:
    """One host's record of the times without a peer, in the tables of its supervisor; `links` tells how they are now.

    Made once everything else is served, since only then it is known which deeds there are.
    """

    def __init__(self, shell: Shell, links: Callable[[], Iterable[Link]]) -> None:
        self._shell = shell
        self._links = links
        self._meters = {
            deed: [shell.meters.of(verb.name) for verb in verbs if shell.routes.get(verb.name)]
            for deed, verbs in DEEDS.items()
        }
        self._past: deque[tuple[float, dict[str, int]]] = deque(maxlen=PAST)
        self._now = shell.clock.monotonic
        self._separations = Separations(one for _, one in SEPARATIONS.load(shell.store))

    def begin(self) -> None:
        """Serve the verb, and look at the links from now on."""
        self._shell.handle(LIST_SEPARATIONS, self._list)
        self._shell.every(LOOK_S, self._look)

    def _look(self) -> None:
        now, wall, counts = self._now(), self._shell.clock.wall(), self._counts()
        for link in self._links():
            if link.up:
                self._write(self._separations.back(link.host, now, counts))
            elif link.heard_s is not None or self._separations.knows(link.host):
                ago_s = link.heard_s or 0.0
                before = self._counts_at(now - ago_s, counts)
                self._write(self._separations.lost(link.host, link.why, now - ago_s, wall - ago_s, before))
        self._write(self._separations.tick(now, counts))
        self._past.append((now, counts))

    def _counts_at(self, moment: float, counts: dict[str, int]) -> dict[str, int]:
        """The counts when a peer was last heard: its loss is noticed later, and deeds do not wait for that."""
        return next((then for at, then in reversed(self._past) if at <= moment), counts)

    def _counts(self) -> dict[str, int]:
        return {deed: sum(meter.successes for meter in meters) for deed, meters in self._meters.items()}

    def _write(self, changes: list[Change]) -> None:
        """A row that cannot be stored now is stored with the next tick: it is the newest of what happened."""
        if not changes:
            return
        try:
            self._shell.journal.write(changes)
        except StorageUnavailable as error:
            self._shell.log.warning("what this host does alone is not stored: %s", error.message)

    def _list(self, asked: ListSeparations, _call: Call) -> SeparationList:
        told = self._separations.told(asked.peer, asked.limit, self._now(), self._counts())
        return SeparationList(host=self._shell.settings.host, separations=told)
