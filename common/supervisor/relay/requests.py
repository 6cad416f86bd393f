"""One far service's requests: a ROUTER on this host's loopback, a channel to the far port, and the table between them.

Nothing waits here for a link: while there is none every call is refused at once, and what was under way when it went is ended.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import zmq

from common.errors import Overloaded, TandemError, Unavailable
from common.supervisor.relay.nat import Deliver, Forward, Nat, Step
from common.supervisor.relay.reach import Reach, Since
from common.telemetry.system_clock import SystemClock
from common.transport.channel import Channel
from common.transport.router_port import RouterPort
from common.transport.sockets import Address, Endpoint
from common.wire.frames import Buffer

LOOPBACK: Final = "127.0.0.1"

Context = zmq.Context[zmq.Socket[bytes]]


class Requests:
    """The requests of one far service; `port` 0 lets the system choose. `open` binds it, `lead` says where it leads to."""

    def __init__(self, context: Context, clock: SystemClock, reach: Reach) -> None:
        self._context = context
        self._clock = clock
        self._reach = reach
        self._nat = Nat(reach.far)
        self._port: RouterPort | None = None
        self._channel: Channel | None = None
        self.number = 0

    @property
    def under_way(self) -> int:
        """Calls that wait for the far service."""
        return len(self._nat)

    def open(self, port: int) -> None:
        """Listen on loopback; Conflict when the port is taken."""
        self._port = RouterPort(self._context, Address(LOOPBACK, port), self._called)
        self.number = self._port.number

    def lead(self, endpoint: Endpoint | None) -> None:
        """Connect to `endpoint` from now on, and to nothing where it is None."""
        if self._channel is not None:
            self._channel.close()
            self._channel = None
            self.lost("the link is made anew")
        if endpoint is not None:
            self._channel = Channel(self._context, endpoint, self)

    def _called(self, _port: RouterPort, route: bytes, frames: list[Buffer]) -> None:
        now = self._clock.monotonic()
        self._perform(self._nat.called(route, frames, now, self._barred(now)))

    def _barred(self, now: float) -> TandemError | None:
        unavailable = self._reach.unavailable(now)
        if unavailable is not None or self._channel is None:
            return unavailable or Unavailable(f"{self._reach.far} is not connected to")
        if self._channel.backlog:
            return Overloaded(f"{self._reach.far} does not read what it is sent", retry_after_ms=100)
        return None

    def _perform(self, steps: Iterable[Step]) -> None:
        for step in steps:
            if isinstance(step, Forward):
                if self._channel is not None:
                    self._channel.send(step.frames)
            elif not self._deliver(step) and step.part_of is not None:
                self._perform(self._nat.caller_gone(step.part_of))

    def _deliver(self, step: Deliver) -> bool:
        return self._port is not None and self._port.send(step.route, step.frames)

    def message(self, frames: list[Buffer]) -> None:
        """The far service said something."""
        delivery = self._nat.replied(frames, self._clock.monotonic())
        if delivery is not None:
            self._perform([delivery])

    def connected(self) -> None:
        """The link stands."""
        self._reach.connected()

    def lost(self, reason: str) -> None:
        """The link went, with what was under way on it."""
        now = self._clock.monotonic()
        self._reach.lost(reason, Since(now, self._clock.timestamp()))
        self._perform(self._nat.end_all(self._reach.interrupted(now)))

    def refused(self, reason: str, _unsent: int) -> None:
        """An attempt to connect failed; nothing is under way then."""
        self._reach.lost(reason, Since(self._clock.monotonic(), self._clock.timestamp()))

    def sweep(self) -> None:
        """End the calls whose time has passed; called some ten times a second."""
        self._perform(self._nat.overdue(self._clock.monotonic()))

    def close(self) -> None:
        """End what is under way, and listen no more."""
        self.lead(None)
        if self._port is not None:
            self._port.close()
            self._port = None
