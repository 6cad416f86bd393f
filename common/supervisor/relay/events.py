"""One far service's events: a subscription to its event port, fed to an event port on this host's loopback.

A subscriber here that does not read loses events alone, and sees so by their numbers; nothing is kept for it.
"""

from __future__ import annotations

from typing import Final

import zmq

from common.errors import BadRequest
from common.supervisor.relay.interest import Interest
from common.supervisor.relay.requests import LOOPBACK, Context
from common.transport import sockets
from common.transport.drain import Drain
from common.transport.sockets import Address, Endpoint
from common.wire.frames import Buffer

_NOW: Final = int(zmq.DONTWAIT)


class Events:
    """The events of one far service; `open` binds its port here, `lead` says where they come from."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._interest = Interest()
        self._here: zmq.Socket[bytes] | None = None
        self._listening: Drain | None = None
        self._send: sockets.Send | None = None
        self._far: zmq.Socket[bytes] | None = None
        self._hearing: Drain | None = None
        self.number = 0
        self.passed_on = 0

    def open(self, port: int) -> None:
        """Listen on loopback; Conflict when the port is taken."""
        here = sockets.publisher(self._context)
        try:
            self.number = sockets.bind(here, Address(LOOPBACK, port))
        except Exception:
            here.close(0)
            raise
        self._here = here
        self._send = sockets.raw_send(here)
        self._listening = Drain(here, self._told)

    def lead(self, endpoint: Endpoint | None) -> None:
        """Follow the publisher at `endpoint` from now on, and none where it is None."""
        self._leave()
        if endpoint is None:
            return
        far = sockets.subscriber(self._context, endpoint, self._interest.topics())
        try:
            sockets.connect(far, endpoint)
        except BadRequest:
            far.close(0)
            raise
        self._far = far
        self._hearing = Drain(far, self._event, self._look_here)

    def _told(self, frames: list[Buffer]) -> None:
        off, on = self._interest.told(frames)
        if self._far is None or self._hearing is None or not (off or on):
            return
        for topic in off:
            self._far.setsockopt(zmq.UNSUBSCRIBE, topic)
        for topic in on:
            self._far.setsockopt(zmq.SUBSCRIBE, topic)
        self._hearing.look()

    def _event(self, frames: list[Buffer]) -> None:
        if self._send is not None:
            sockets.send_now(self._send, frames)
            self.passed_on += 1

    def _look_here(self) -> bool:
        """The events of this turn went out on the other socket, whose news they may have swallowed."""
        if self._listening is not None:
            self._listening.look()
        return False

    def _leave(self) -> None:
        if self._hearing is not None:
            self._hearing.close()
            self._hearing = None
        if self._far is not None:
            self._far.close(0)
            self._far = None

    def close(self) -> None:
        """Follow and publish no more."""
        self._leave()
        if self._listening is not None:
            self._listening.close()
            self._listening = None
        if self._here is not None:
            self._here.close(0)
            self._here = None
            self._send = None
