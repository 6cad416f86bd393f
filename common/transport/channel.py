"""A client's channel to one endpoint on an asyncio loop: messages out, messages in, and news of the connection.

What cannot leave at once waits in a bounded outbox; the connection's loss is told at once (a socket monitor sees it), after
everything that had arrived before it was handed over.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from typing import Final, Protocol

import zmq
from zmq.utils.monitor import parse_monitor_message

from common.errors import BadRequest
from common.transport import sockets
from common.transport.drain import Drain
from common.wire.frames import Buffer

OUTBOX: Final = 10_000
"""Messages worth keeping for a connection that is being made; beyond it callers are told `overloaded`."""

WATCHED: Final = int(
    zmq.EVENT_HANDSHAKE_SUCCEEDED
    | zmq.EVENT_DISCONNECTED
    | zmq.EVENT_CONNECT_RETRIED
    | zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL
    | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL
    | zmq.EVENT_HANDSHAKE_FAILED_AUTH
)
"""What a socket monitor is asked to tell."""


class Listener(Protocol):
    """Who a channel tells what happens on it."""

    def message(self, frames: list[Buffer]) -> None:
        """A message came."""

    def connected(self) -> None:
        """The connection stands."""

    def lost(self, reason: str) -> None:
        """The connection ended: what was sent and not answered will not be, and what was kept is dropped."""

    def refused(self, reason: str, unsent: int) -> None:
        """An attempt to connect failed; `unsent` messages that waited for it were dropped, undone."""


def reason_for(event: int, endpoint: sockets.Endpoint) -> str:
    """A monitor's event as a sentence."""
    address = endpoint.address
    if event == zmq.EVENT_DISCONNECTED:
        return f"the connection to {address} was lost"
    if event == zmq.EVENT_CONNECT_RETRIED:
        return f"nobody listens at {address}"
    if event == zmq.EVENT_HANDSHAKE_FAILED_AUTH:
        return f"{address} does not let this process's key in: its host has not joined there, or the key was revoked"
    if endpoint.server_key:
        return f"{address} refused the handshake: another key is served there than this host knows, or none"
    return f"{address} refused the handshake: it is encrypted, and this process came without a key, or speaks no ZeroMQ"


class Channel:
    """One DEALER, connected to one endpoint and drained on the running loop."""

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]], endpoint: sockets.Endpoint, listener: Listener) -> None:
        self.endpoint = endpoint
        self.is_connected = False
        self._listener = listener
        self._outbox: deque[Sequence[Buffer]] = deque()
        self._socket = sockets.dealer(context, endpoint)
        self._monitor = sockets.monitor(self._socket, WATCHED)
        self._send = sockets.raw_send(self._socket)
        self._drain = Drain(self._socket, listener.message, self._flush)
        self._news = Drain(self._monitor, self._connection_news)
        self._again: asyncio.TimerHandle | None = None
        try:
            sockets.connect(self._socket, endpoint)
        except BadRequest:
            self.close()
            raise

    @property
    def backlog(self) -> int:
        """Messages kept for a connection that is being made; at OUTBOX of them a sender should hold back."""
        return len(self._outbox)

    def send(self, frames: Sequence[Buffer]) -> None:
        """Send a message, or keep it until the connection stands."""
        if self._outbox or not sockets.send_now(self._send, frames):
            self._outbox.append(frames)
        self._drain.look()

    def _connection_news(self, frames: list[Buffer]) -> None:
        event = int(parse_monitor_message([bytes(frame) for frame in frames])["event"])
        if event == zmq.EVENT_HANDSHAKE_SUCCEEDED:
            self.is_connected = True
            self._listener.connected()
            self._drain.look()
            return
        reason = reason_for(event, self.endpoint)
        if event == zmq.EVENT_DISCONNECTED:
            was_connected, self.is_connected = self.is_connected, False
            self._drain.read_all()
            if was_connected:
                self._outbox.clear()
                self._listener.lost(reason)
        else:
            if event & sockets.REFUSALS and self._again is None:
                self._again = asyncio.get_running_loop().call_later(sockets.REFUSED_AGAIN_S, self._connect_again)
            unsent = len(self._outbox)
            self._outbox.clear()
            self._listener.refused(reason, unsent)

    def _connect_again(self) -> None:
        self._again = None
        sockets.connect_again(self._socket, self.endpoint)
        self._drain.look()

    def _flush(self) -> bool:
        sent = False
        while self._outbox and sockets.send_now(self._send, self._outbox[0]):
            self._outbox.popleft()
            sent = True
        return sent

    def close(self, linger_ms: int = 0) -> None:
        """Disconnect; what was sent gets `linger_ms` to leave. A second call does nothing."""
        if self._socket.closed:
            return
        if self._again is not None:
            self._again.cancel()
        self._drain.close()
        self._news.close()
        self._socket.disable_monitor()
        self._monitor.close(0)
        self._socket.close(linger_ms)
