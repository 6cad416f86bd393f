"""The event ports: a publisher that never waits for a subscriber, and a subscription that says when it is live.

Three frames: topic, JSON header {epoch, seq, at, entity}, JSON body. A subscriber's last topic is a mark of its own (byte 0xFF
and up to 31 more); the publisher sends the mark back when it takes it, and subscriptions are taken in the order they were made,
so the mark proves that from here on the subscriber misses nothing it is not told of. XPUB_WELCOME_MSG proves no such thing:
libzmq sends it when the connection stands, before it has read the peer's subscriptions.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Sequence
from typing import Final

import zmq

from common.errors import BadRequest
from common.transport import sockets
from common.transport.drain import Drain
from common.wire.frames import Buffer

MARK: Final = b"\xff"
"""The first byte of a mark: no topic's, since topics are text, and the last in any order, so a reconnect keeps it last."""

MARK_LIMIT: Final = 32
"""The longest mark that is sent back, in bytes; a longer one is a subscription like any other."""

_SUBSCRIBED: Final = b"\x01" + MARK
_MORE_NOW: Final = int(zmq.SNDMORE | zmq.DONTWAIT)
_LAST_NOW: Final = int(zmq.DONTWAIT)


class Marks:
    """Sends each subscriber's mark back; it goes to whoever subscribed to it, so to that subscriber alone."""

    def __init__(self, send: sockets.Send) -> None:
        self._send = send
        self._sent = False

    def subscription(self, frames: list[Buffer]) -> None:
        """A peer subscribed, unsubscribed or sent something else."""
        told = frames[0]
        if len(told) <= 1 + MARK_LIMIT and bytes(told[:2]) == _SUBSCRIBED:
            self._send(bytes(told[1:]), _LAST_NOW)
            self._sent = True

    def sent(self) -> bool:
        """Whether any mark was sent since this was last asked."""
        sent, self._sent = self._sent, False
        return sent


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
        self.number = sockets.bind(socket, address)
        send = sockets.raw_send(socket)
        marks = Marks(send)
        self._sends.append(send)
        self._drains.append(Drain(socket, marks.subscription, marks.sent))

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
        self._mark = MARK + secrets.token_bytes(8)
        self._socket = sockets.subscriber(context, endpoint, [*(topic.encode() for topic in topics), self._mark])
        self._drain = Drain(self._socket, self._message)
        try:
            sockets.connect(self._socket, endpoint)
        except BadRequest:
            self.close()
            raise

    def _message(self, frames: list[Buffer]) -> None:
        if len(frames) == 3:
            self._event(bytes(frames[0]), bytes(frames[1]), bytes(frames[2]))
        elif len(frames) == 1 and frames[0] == self._mark:
            self._live()

    def close(self) -> None:
        """Stop listening."""
        self._drain.close()
        self._socket.close(0)
