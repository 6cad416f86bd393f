"""The link to one peer: pings its supervisor each second, and exchanges lists of keys with it whenever something changed there.

It decides nothing about what is believed (trust.py) or when a link is up (pulse.py).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Final, NoReturn

import msgspec

from common.api import basic, links
from common.api.words import Cursor, Empty
from common.client.aio import AsyncClient
from common.client.following import Event
from common.client.keeping_up import keep_up
from common.clock import Clock, timestamp
from common.config.schema import Peer
from common.errors import TandemError
from common.supervisor.links.keeper import Keeper
from common.supervisor.links.pulse import Pulse
from common.supervisor.links.trust import Verdict, not_joined

PING_S: Final = 1.0
PING_DOWN_S: Final = 0.25
"""How often one that is down is asked, so that a link that comes back is seen to."""
EXCHANGE_TIMEOUT_S: Final = 3.0


class PeerLink:
    """One peer, a `neighbour` on this machine or not; `changed` hears when its link comes up or goes down."""

    def __init__(
        self,
        host: str,
        peer: Peer,
        keeper: Keeper,
        clock: Clock,
        changed: Callable[[PeerLink], None],
        *,
        neighbour: bool,
    ) -> None:
        self.host = host
        self._target = f"Supervisor/{host}"
        self._peer = peer
        self._keeper = keeper
        self._clock = clock
        self._changed = changed
        self._neighbour = neighbour
        self._pulse = Pulse(clock.monotonic())
        self._refused = ""
        self._stale = asyncio.Event()

    def unjoined(self) -> str:
        """Why this peer's keys are not known here and what to do, empty where they are."""
        if self._keeper.knows(self.host):
            return ""
        if self._neighbour:
            return f"{self.host} has no keys in this TANDEM_HOME: start it on this machine with the same TANDEM_HOME"
        return not_joined(self.host)

    @property
    def up(self) -> bool:
        """Whether its supervisor is trusted and answers."""
        return self._pulse.up and self._keeper.knows(self.host)

    def told(self) -> links.Link:
        """The link as list_links shows it."""
        now, pulse = self._clock.monotonic(), self._pulse
        since_s = max(now - pulse.since, 0.0)
        trip_s = pulse.round_trip_s
        return links.Link(
            host=self.host,
            address=self._peer.address,
            joined=self._keeper.knows(self.host),
            neighbour=self._neighbour,
            up=self.up,
            since=timestamp(self._clock.wall() - since_s),
            since_s=since_s,
            heard_s=max(now - pulse.heard_at, 0.0) if pulse.heard_at is not None else None,
            round_trip_ms=round(trip_s * 1000, 3) if trip_s is not None and self.up else None,
            lost=pulse.lost,
            why=self.unjoined() or pulse.why or self._refused,
        )

    async def ping(self, client: AsyncClient) -> NoReturn:
        """Ping until cancelled."""
        while True:
            begun = self._clock.monotonic()
            unjoined = self.unjoined()
            if unjoined:  # a connection may still stand from before it was sent away
                self._missed(unjoined)
            else:
                await self._ping_once(client, begun)
            pace_s = PING_S if self._pulse.up else PING_DOWN_S
            await asyncio.sleep(max(pace_s - (self._clock.monotonic() - begun), PING_DOWN_S / 2))

    async def _ping_once(self, client: AsyncClient, begun: float) -> None:
        try:
            await client.call(self._target, basic.PING, Empty(), timeout_s=PING_S, idempotent=False)
        except TandemError as error:
            self._missed(error.message)
        except Exception as bug:
            logging.getLogger("tandem.supervisor").exception("pinging %s failed", self.host)
            self._missed(f"the ping failed here: {type(bug).__name__}")
        else:
            now = self._clock.monotonic()
            if self._pulse.heard(now, now - begun):
                self._changed(self)

    def _missed(self, why: str) -> None:
        if self._pulse.missed(self._clock.monotonic(), why):
            self._changed(self)

    async def follow(self, client: AsyncClient) -> NoReturn:
        """Keep the lists of both hosts the same until cancelled."""
        again = asyncio.create_task(self._exchange_when_stale(client))
        try:
            await keep_up(client, self._target, [links.KEYS_CHANGED.name], _Listener(self, client))
        finally:
            again.cancel()

    async def exchange(self, client: AsyncClient) -> Cursor:
        """Bring and take the lists once; where the peer's topic stood then."""
        if self._neighbour:
            await self._keeper.aside(self._keeper.meet, self.host)
        asked = links.ExchangeKeys(lists=self._keeper.lists)
        answer = await client.call(
            self._target, links.EXCHANGE_KEYS, asked, timeout_s=EXCHANGE_TIMEOUT_S, idempotent=False
        )
        verdicts = await self._keeper.aside(self._keeper.take, answer.lists)
        refused = answer.refused.get(self._keeper.host, "")
        told = f"{self.host} does not take this host's keys: {refused}" if refused else ""
        self._refused = told or self._refusal(verdicts)
        if any(verdict.outcome == "own" and verdict.serial < self._keeper.serial(verdict.host) for verdict in verdicts):
            self._stale.set()  # it answered from before it knew what we have
        return answer.as_of

    def heard_change(self, event: Event) -> None:
        """The peer knows a list that is another one now; it is fetched, unless it is known here."""
        with suppress(msgspec.MsgspecError, UnicodeError):
            changed = msgspec.json.decode(event.body, type=links.KeysChanged)
            if changed.serial != self._keeper.serial(event.entity):
                self._stale.set()

    def _refusal(self, verdicts: list[Verdict]) -> str:
        return next(
            (one.reason for one in verdicts if one.host == self.host and one.outcome in ("older", "refused")), ""
        )

    async def _exchange_when_stale(self, client: AsyncClient) -> NoReturn:
        while True:
            await self._stale.wait()
            self._stale.clear()
            pause_s = PING_DOWN_S
            try:
                await self.exchange(client)
            except Exception as error:  # what changed may be a key that was revoked: it is fetched until it is here
                if not isinstance(error, TandemError):
                    logging.getLogger("tandem.supervisor").exception("exchanging keys with %s failed", self.host)
                self._stale.set()
                pause_s = PING_S
            await asyncio.sleep(pause_s)


class _Listener:
    """The peer's events, as keep_up tells them."""

    def __init__(self, link: PeerLink, client: AsyncClient) -> None:
        self._link = link
        self._client = client

    async def look(self) -> Mapping[str, Cursor]:
        """Exchanges the lists."""
        return {links.KEYS_CHANGED.name: await self._link.exchange(self._client)}

    def take(self, event: Event) -> None:
        """A list changed there."""
        self._link.heard_change(event)

    def away(self, reason: str) -> None:
        """The pings tell."""
