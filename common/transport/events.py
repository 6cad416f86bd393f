"""The event ports: a publisher that never waits for a subscriber, and a subscription that says when it is live.

Three frames: topic, JSON header {epoch, seq, at, entity}, JSON body. A new subscriber to `beat` gets one frame `beat` at once
(XPUB_WELCOME_MSG), which proves that from here on it misses nothing it is not told of.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

import zmq

from common.errors import BadRequest
from common.transport import sockets
from common.transport.drain import Drain
from common.wire.frames import Buffer

WELCOME: Final = b"beat"

_MORE_NOW: Final = int(zmq.SNDMORE | zmq.DONTWAIT)
_LAST_NOW: Final = int(zmq.DONTWAIT)


class EventPort:
    """One XPUB per address; a stuck subscriber loses events alone, and finds out by their numbers."""

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]], addresses: Sequence[sockets.Address]) -> None:
        self._sockets: list[zmq.Socket[bytes]] = []
        self._sends: list[sockets.Send] = []
        self._drains: list[Drain] = []
        self.number = 0
        self.sent = 0
        try:
            for address in addresses:
                self._open(context, sockets.Address(address.host, address.port or self.number, address.keys))
        except Exception:
            self.close(0)
            raise

    def _open(self, context: zmq.Context[zmq.Socket[bytes]], address: sockets.Address) -> None:
        socket = sockets.publisher(context, address.keys)
        self._sockets.append(socket)
        socket.setsockopt(zmq.XPUB_WELCOME_MSG, WELCOME)
        self.number = sockets.bind(socket, address)
        self._sends.append(sockets.raw_send(socket))
        self._drains.append(Drain(socket, lambda _subscription: None))

    def publish(self, topic: bytes, header: bytes, body: bytes) -> None:
        """Send one event to whoever listens."""
        for send, drain in zip(self._sends, self._drains, strict=True):
            send(topic, _MORE_NOW)
            send(header, _MORE_NOW)
            send(body, _LAST_NOW)
            drain.look()
        self.sent += 1

    def close(self, linger_ms: int = sockets.DRAIN_LINGER_MS) -> None:
        """Stop publishing; what was sent gets `linger_ms` to leave."""
        for drain in self._drains:
            drain.close()
        for socket in self._sockets:
            socket.close(linger_ms)


class Subscription:
    """One SUB on the running loop; `live` is called when the publisher has taken the subscription, each time it does."""

    def __init__(
        self,
        context: zmq.Context[zmq.Socket[bytes]],
        endpoint: sockets.Endpoint,
        topics: Sequence[str],
        event: Callable[[bytes, bytes, bytes], None],
        live: Callable[[], None],
    ) -> None:
        self._event = event
        self._live = live
        self._socket = sockets.subscriber(context, endpoint, [*topics, WELCOME.decode()])
        self._drain = Drain(self._socket, self._message)
        try:
            sockets.connect(self._socket, endpoint)
        except BadRequest:
            self.close()
            raise

    def _message(self, frames: list[Buffer]) -> None:
        if len(frames) == 3:
            self._event(bytes(frames[0]), bytes(frames[1]), bytes(frames[2]))
        elif len(frames) == 1 and frames[0] == WELCOME:
            self._live()

    def close(self) -> None:
        """Stop listening."""
        self._drain.close()
        self._socket.close(0)
