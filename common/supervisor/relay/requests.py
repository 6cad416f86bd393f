"""One far process's requests: a ROUTER on this host's loopback, a line to the far side, and the table between them.

Nothing waits here for a line: while there is none every call is refused at once, and what was under way when it went is ended.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Final, Protocol, cast

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


class Line(Protocol):
    """What carries messages to a far process, and its answers back to the Requests that made it."""

    @property
    def backlog(self) -> int:
        """Messages that could not leave yet."""
        ...

    def send(self, step: Forward) -> None:
        """Send a message."""
        ...

    def close(self) -> None:
        """Carry nothing more."""
        ...


class Curve:
    """A line that is a connection of its own to the far port."""

    def __init__(self, context: Context, endpoint: Endpoint, requests: Requests) -> None:
        self._channel = Channel(context, endpoint, requests)

    @property
    def backlog(self) -> int:
        """Messages that the far side does not read yet."""
        return self._channel.backlog

    def send(self, step: Forward) -> None:
        """Send a message."""
        self._channel.send(step.frames)

    def close(self) -> None:
        """Disconnect."""
        self._channel.close()


class Requests:
    """The requests of one far process. `open` binds its port here, `lead` says where it leads to."""

    def __init__(self, context: Context, clock: SystemClock, reach: Reach) -> None:
        self._context = context
        self._clock = clock
        self._reach = reach
        self._nat = Nat(reach.far)
        self._port: RouterPort | None = None
        self._line: Line | None = None
        self.number = 0

    @property
    def under_way(self) -> int:
        """Calls that wait for the far side."""
        return len(self._nat)

    def open(self, port: int) -> None:
        """Listen on loopback, on a port of the system's choosing for 0; Conflict when it is taken."""
        self._port = RouterPort(self._context, Address(LOOPBACK, port), self._called)
        self.number = self._port.number

    def lead(self, connect: Callable[[Requests], Line] | None) -> None:
        """Send over the line that `connect` makes from now on, and over none where it is None."""
        if self._line is not None:
            self._line.close()
            self._line = None
            self.lost("the connection is being made anew")
        if connect is not None:
            self._line = connect(self)

    def _called(self, _port: RouterPort, route: bytes, frames: list[Buffer]) -> None:
        now = self._clock.monotonic()
        self._perform(self._nat.called(route, frames, now, self._barred(now)))

    def _barred(self, now: float) -> TandemError | None:
        unavailable = self._reach.unavailable(now)
        if unavailable is not None or self._line is None:
            return unavailable or Unavailable(f"{self._reach.far} is not connected to")
        if self._line.backlog:
            return Overloaded(f"{self._reach.far} does not read what it is sent", retry_after_ms=100)
        return None

    def _perform(self, steps: Iterable[Step]) -> None:
        for step in steps:
            if isinstance(step, Forward):
                if self._line is not None:
                    self._line.send(step._replace(frames=uncopied(step.frames)))
            elif not self._deliver(step) and step.part_of is not None:
                self._perform(self._nat.caller_gone(step.part_of))

    def _deliver(self, step: Deliver) -> bool:
        return self._port is not None and self._port.send(step.route, uncopied(step.frames))

    def message(self, frames: Sequence[Buffer]) -> None:
        """The far side said something."""
        delivery = self._nat.replied(frames, self._clock.monotonic())
        if delivery is not None:
            self._perform([delivery])

    def failed(self, number_frame: Buffer, error: TandemError) -> None:
        """One message came to nothing."""
        self._perform(self._nat.failed(number_frame, error))

    def connected(self) -> None:
        """The line stands."""
        self._reach.connected()

    def lost(self, reason: str) -> None:
        """The line went, with what was under way on it."""
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


def uncopied(frames: Sequence[Buffer]) -> Sequence[Buffer]:
    """The same frames, with each view of libzmq's own memory replaced by the frame that holds it, which is sent as it is."""
    if not any(type(frame) is memoryview for frame in frames):
        return frames
    return [_holder(frame) if type(frame) is memoryview else frame for frame in frames]


def _holder(view: memoryview) -> Buffer:
    return cast("Buffer", view.obj) if isinstance(view.obj, zmq.Frame) else view
