"""A service's request port: one ROUTER per address on one loop, all of them feeding one receiver.

Refuses nothing and understands nothing: it moves frames and counts what could not be delivered.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

import zmq

from common.transport import sockets
from common.transport.drain import Drain, frames_from, read_message
from common.wire.frames import Buffer

_MORE_NOW: Final = int(zmq.SNDMORE | zmq.DONTWAIT)
_LAST_NOW: Final = int(zmq.DONTWAIT)


Receive = Callable[["RouterPort", bytes, list[Buffer]], None]


class RouterPort:
    """One bound ROUTER, drained on the running loop.

    While a message is handed over, `key` is the public key (Z85) of the peer that sent it: libzmq lays it on every message of a
    connection that its gate let in. It is empty on a plain port. It is read anew for each message and never remembered by the
    routing id, since a peer may give itself an id of any form, the id of one that has left included.
    """

    def __init__(
        self,
        context: zmq.Context[zmq.Socket[bytes]],
        address: sockets.Address,
        receive: Receive,
        drained: Callable[[], bool] | None = None,
    ) -> None:
        self._socket = sockets.router(context, address.keys)
        try:
            self.number = sockets.bind(self._socket, address)
        except Exception:
            self._socket.close(0)
            raise
        self.address = address
        self.encrypted = address.keys is not None
        self.undelivered = 0
        self.key = ""
        self._send = sockets.raw_send(self._socket)
        self._receive = receive
        read = self._read_with_key if self.encrypted else read_message
        self._drain = Drain(self._socket, self._message, drained, read)

    def _read_with_key(self, receive: sockets.Receive) -> list[Buffer] | None:
        try:
            frame = receive(_LAST_NOW, False)
        except zmq.Again:
            return None
        key = frame.get("User-Id")
        self.key = key if type(key) is str else ""
        return frames_from(frame, receive)

    def _message(self, frames: list[Buffer]) -> None:
        self._receive(self, bytes(frames[0]), frames[1:])

    def send(self, route: bytes, frames: Sequence[Buffer]) -> bool:
        """Send one message to a peer; False (and counted) when it is gone or does not read."""
        self._drain.look()  # a send that fails swallows the news of what arrived as well
        send = self._send
        try:
            send(route, _MORE_NOW)
        except zmq.ZMQError:
            self.undelivered += 1
            return False
        for frame in frames[:-1]:
            send(frame, _MORE_NOW)
        send(frames[-1], _LAST_NOW)
        return True

    def close(self, linger_ms: int = sockets.DRAIN_LINGER_MS) -> None:
        """Stop reading and unbind; what was sent gets `linger_ms` to leave."""
        self._drain.close()
        self._socket.close(linger_ms)


def open_ports(
    context: zmq.Context[zmq.Socket[bytes]],
    addresses: Sequence[sockets.Address],
    receive: Receive,
    drained: Callable[[], bool] | None = None,
) -> list[RouterPort]:
    """A port per address; all take the number that the system chose for the first when that was asked for (port 0)."""
    ports: list[RouterPort] = []
    number = addresses[0].port
    try:
        for address in addresses:
            wanted = sockets.Address(address.host, address.port or number, address.keys)
            ports.append(RouterPort(context, wanted, receive, drained))
            number = number or ports[0].number
    except Exception:
        for port in ports:
            port.close(0)
        raise
    return ports
