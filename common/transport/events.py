"""The event ports: a publisher that never waits for a subscriber, and a subscription that says when it is live.

Three frames: topic, JSON header {epoch, seq, at, entity}, JSON body. A subscriber's last topic is a mark of its own (byte 0xFF
and up to 31 more); the publisher sends the mark back when it takes it, and subscriptions are taken in the order they were made,
so the mark proves that from here on the subscriber misses nothing it is not told of. XPUB_WELCOME_MSG proves no such thing:
libzmq sends it when the connection stands, before it has read the peer's subscriptions.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

import zmq

from common.errors import BadRequest, TandemError
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


@dataclass(frozen=True, slots=True)
class _Outlet:
    """One XPUB of an event port."""

    address: sockets.Address
    socket: zmq.Socket[bytes]
    send: sockets.Send
    drain: Drain

    def close(self, linger_ms: int) -> None:
        self.drain.close()
        self.socket.close(linger_ms)


class EventPort:
    """One XPUB per address; a stuck subscriber loses events alone, and finds out by their numbers."""

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]], addresses: Sequence[sockets.Address]) -> None:
        self._context = context
        self._outlets: list[_Outlet] = []
        self.number = 0
        self.sent = 0
        try:
            for address in addresses:
                self.add(address)
        except Exception:
            self.close(0)
            raise

    def add(self, address: sockets.Address) -> None:
        """Publish at another address too, at the number of the first where it names none; Conflict, Unavailable."""
        socket = sockets.publisher(self._context, address.keys)
        try:
            wanted = sockets.Address(address.host, address.port or self.number, address.keys)
            number = sockets.bind(socket, wanted)
        except Exception:
            socket.close(0)
            raise
        self.number = self.number or number
        send = sockets.raw_send(socket)
        marks = Marks(send)
        self._outlets.append(_Outlet(wanted, socket, send, Drain(socket, marks.subscription, marks.sent)))

    def is_open_at(self, host: str) -> bool:
        """Whether events are published at one of this host's addresses."""
        return any(outlet.address.host == host for outlet in self._outlets)

    def close_encrypted(self) -> list[str]:
        """End every CURVE subscription at once, and say at which addresses to `add` again: whoever may come in comes back."""
        closed = [outlet for outlet in self._outlets if outlet.address.keys is not None]
        self._outlets = [outlet for outlet in self._outlets if outlet.address.keys is None]
        for outlet in closed:
            outlet.close(0)
        return [outlet.address.host for outlet in closed]

    def publish(self, topic: bytes, header: bytes, body: bytes) -> None:
        """Send one event to whoever listens."""
        for outlet in self._outlets:
            outlet.send(topic, _MORE_NOW)
            outlet.send(header, _MORE_NOW)
            outlet.send(body, _LAST_NOW)
            outlet.drain.look()
        self.sent += 1

    def close(self, linger_ms: int = sockets.DRAIN_LINGER_MS) -> None:
        """Stop publishing; what was sent gets `linger_ms` to leave."""
        for outlet in self._outlets:
            outlet.close(linger_ms)
        self._outlets.clear()


class Subscription:
    """One SUB on the running loop; `live` is called when the publisher has taken the subscription, each time it does.

    Where a handshake is refused, `current` is asked for the endpoint of now: the publisher may have got another key.
    """

    def __init__(
        self,
        context: zmq.Context[zmq.Socket[bytes]],
        endpoint: sockets.Endpoint,
        topics: Sequence[str],
        event: Callable[[bytes, bytes, bytes], None],
        live: Callable[[], None],
        current: Callable[[], sockets.Endpoint] | None = None,
    ) -> None:
        self._current = current or (lambda: endpoint)
        self._event = event
        self._live = live
        self._mark = MARK + os.urandom(8)
        self._endpoint = endpoint
        self._socket = sockets.subscriber(context, endpoint, [*(topic.encode() for topic in topics), self._mark])
        self._monitor = sockets.monitor(self._socket, sockets.REFUSALS | zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL)
        self._drain = Drain(self._socket, self._message)
        self._news = Drain(self._monitor, self._refused)
        self._again: asyncio.TimerHandle | None = None
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

    def _refused(self, _news: list[Buffer]) -> None:
        """libzmq gives up for good where a handshake was refused; a key that is not known yet may be so in a while."""
        if self._again is None:
            self._again = asyncio.get_running_loop().call_later(sockets.REFUSED_AGAIN_S, self._connect_again)

    def _connect_again(self) -> None:
        self._again = None
        with suppress(TandemError):  # whose key is not known any more is asked again as it was
            self._endpoint = self._current()
        sockets.connect_again(self._socket, self._endpoint)
        self._drain.look()

    def close(self) -> None:
        """Stop listening; a second call does nothing."""
        if self._socket.closed:
            return
        if self._again is not None:
            self._again.cancel()
        self._drain.close()
        self._news.close()
        self._socket.disable_monitor()
        self._monitor.close(0)
        self._socket.close(0)
