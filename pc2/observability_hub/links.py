"""The link to each other host as its ends see it: what the hub measures, and what the supervisors at both ends say of it.

A supervisor that cannot say anything of its links shows as a lack; what it said is kept with its age, and forgotten when that is
of no use any more.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from common.api.links import LIST_LINKS, Link, ListLinks
from common.api.observability_hub import LinkHealth, LinkSide
from common.client.aio import AsyncClient
from common.clock import timestamp
from common.errors import TandemError
from common.service.shell import Shell
from pc2.observability_hub.opinions import UNASKED, of_link
from pc2.observability_hub.steady import Steady
from pc2.observability_hub.ward import Changed, Host, Stood, Ward, changed, restored

ASK_S: Final = 1.0
STALE_S: Final = 15.0
"""What an end said longer ago than this is not shown any more."""


@dataclass(frozen=True, slots=True)
class _Said:
    link: Link
    at: float


class Links:
    """The links from `here` to every other host; `stood` is what an earlier life left."""

    def __init__(self, here: str, shell: Shell, ward: Ward, client: AsyncClient, stood: Mapping[str, Stood]) -> None:
        self._here = here
        self._shell = shell
        self._clock = shell.clock
        self._ward = ward
        self._client = client
        self._said: dict[tuple[str, str], _Said] = {}
        self._stood = stood
        self._steady: dict[str, Steady] = {}

    async def ask(self) -> None:
        """Asks each supervisor once what it says of its links."""
        await asyncio.gather(*(self._ask(host) for host in self._ward.hosts))

    async def _ask(self, host: str) -> None:
        lack = f"links as {host} sees them"
        try:
            told = await self._client.call(f"Supervisor/{host}", LIST_LINKS, ListLinks(), timeout_s=ASK_S)
        except TandemError as error:
            self._shell.lacks[lack] = f"{lack}: {error.message}"
            return
        self._shell.lacks.pop(lack, None)
        for link in told.links:
            self._said[host, link.host] = _Said(link, self._clock.monotonic())

    def judge(self) -> list[Changed]:
        """What changed about the links since the last time."""
        now, wall = self._clock.monotonic(), self._clock.wall()
        found: list[Changed] = []
        for host in self._peers():
            key = f"{self._here}-{host.name}"
            opinion = of_link(host.name, host.steady.opinion, self._round_trip_s(host), self._told(host.name, now))
            steady = self._steady.get(host.name)
            if steady is None:
                steady = self._steady[host.name] = restored(self._stood.get(key), now, wall)
            was = None if opinion is UNASKED else steady.consider(opinion, now, wall)
            if was is not None:
                found.append(changed(key, "link", self._here, host.name, was, steady))
        return found

    def show(self) -> list[LinkHealth]:
        """Every link as it stands."""
        now = self._clock.monotonic()
        return [self._shown(host, self._steady[host.name], now) for host in self._peers() if host.name in self._steady]

    def _peers(self) -> list[Host]:
        return [host for host in self._ward.hosts.values() if host.name != self._here]

    def _shown(self, host: Host, steady: Steady, now: float) -> LinkHealth:
        evidence, opinion = host.supervisor.evidence, steady.opinion
        own = LinkSide(
            seen_from="ObservabilityHub",
            up=evidence.missed_since is None and evidence.believed != "unknown",
            round_trip_ms=evidence.latency_s * 1000,
            heard_s=max(0.0, min(now - evidence.answered_at, 31_536_000.0)),
            reason=evidence.reason if evidence.missed_since is not None else "",
        )
        return LinkHealth(
            host=self._here,
            peer=host.name,
            verdict=opinion.verdict,
            reason=opinion.reason,
            since=timestamp(steady.since_wall),
            sides=[own, *self._told(host.name, now)],
        )

    def _told(self, peer: str, now: float) -> list[LinkSide]:
        ends = ((self._here, peer), (peer, self._here))
        said = [(end, self._said[end]) for end in ends if end in self._said]
        return [_side(end[0], one, now) for end, one in said if now - one.at < STALE_S]

    def _round_trip_s(self, host: Host) -> float:
        """The time of an answer as it usually is; one slow answer is no slow link."""
        return host.supervisor.pace.smoothed_s


def _side(seen_from: str, said: _Said, now: float) -> LinkSide:
    link = said.link
    return LinkSide(
        seen_from=f"Supervisor/{seen_from}",
        up=link.up,
        round_trip_ms=link.round_trip_ms or 0.0,
        heard_s=now - said.at + (link.heard_s or 0.0),
        since=link.since,
        reason=link.why,
    )
