"""One far service's events: a subscription to its event port, fed to an event port on this host's loopback.

A subscriber here that does not read loses events alone, and sees so by their numbers; nothing is kept for it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable

import zmq

from common.errors import BadRequest
from common.supervisor.relay.interest import Interest
from common.supervisor.relay.requests import LOOPBACK, Context
from common.transport import sockets
from common.transport.drain import Drain
from common.transport.sockets import Address, Endpoint
from common.wire.frames import Buffer


class Following:
    """A subscription to a far publisher whose topics change; `event` gets every message, `turned` hears of a turn's end."""

    def __init__(
        self,
        context: Context,
        endpoint: Endpoint,
        topics: list[bytes],
        event: Callable[[list[Buffer]], None],
        turned: Callable[[], bool],
    ) -> None:
        self._endpoint = endpoint
        self._socket = sockets.subscriber(context, endpoint, topics)
        self._monitor = sockets.monitor(self._socket, sockets.REFUSALS)
        self._drain = Drain(self._socket, event, turned)
        self._news = Drain(self._monitor, self._refused)
        self._again: asyncio.TimerHandle | None = None
        try:
            sockets.connect(self._socket, endpoint)
        except BadRequest:
            self.close()
            raise

    def change(self, off: Iterable[bytes], on: Iterable[bytes]) -> None:
        """Take topics off and put others on, in this order."""
        for topic in off:
            self._socket.setsockopt(zmq.UNSUBSCRIBE, topic)
        for topic in on:
            self._socket.setsockopt(zmq.SUBSCRIBE, topic)
        self._drain.look()

    def _refused(self, _news: list[Buffer]) -> None:
        """libzmq gives up for good where a handshake was refused; a key that is not known yet may be so in a while."""
        if self._again is None:
            self._again = asyncio.get_running_loop().call_later(sockets.REFUSED_AGAIN_S, self._connect_again)

    def _connect_again(self) -> None:
        self._again = None
        sockets.connect_again(self._socket, self._endpoint)
        self._drain.look()

    def close(self) -> None:
        """Follow no more."""
        if self._again is not None:
            self._again.cancel()
        self._drain.close()
        self._news.close()
        self._socket.disable_monitor()
        self._monitor.close(0)
        self._socket.close(0)


class Events:
    """The events of one far service; `open` binds its port here, `lead` says where they come from."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._interest = Interest()
        self._here: zmq.Socket[bytes] | None = None
        self._listening: Drain | None = None
        self._send: sockets.Send | None = None
        self._far: Following | None = None
        self.number = 0

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
        if endpoint is not None:
            topics = self._interest.topics()
            self._far = Following(self._context, endpoint, topics, self._event, self._look_here)

    def _told(self, frames: list[Buffer]) -> None:
        off, on = self._interest.told(frames)
        if self._far is not None and (off or on):
            self._far.change(off, on)

    def _event(self, frames: list[Buffer]) -> None:
        if self._send is not None:
            sockets.send_now(self._send, frames)

    def _look_here(self) -> bool:
        """The events of this turn went out on the other socket, whose news they may have swallowed."""
        if self._listening is not None:
            self._listening.look()
        return False

    def _leave(self) -> None:
        if self._far is not None:
            self._far.close()
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
