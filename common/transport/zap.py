"""The gate of a context's CURVE ports: libzmq asks here, once for each connection, whether a client's key may come in (ZAP).

Open it before the first CURVE port and close it after the last: a CURVE port without a gate lets nobody in. It decides nothing
about what a key may do, and nothing here looks at plain ports.

Source: RFC 27/ZAP. One ROUTER on an inproc address, since libzmq's sessions ask without waiting for each other.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import zmq
from zmq.utils import z85

from common.transport import sockets
from common.transport.drain import Drain
from common.wire.frames import Buffer

ADDRESS: Final = "inproc://zeromq.zap.01"
VERSION: Final = b"1.0"
REQUESTS: Final = sockets.REQUESTS_DOMAIN
EVENTS: Final = sockets.EVENTS_DOMAIN
_DOMAINS: Final = frozenset({REQUESTS.encode(), EVENTS.encode()})
_CURVE: Final = b"CURVE"
_KEY_BYTES: Final = 32
_REQUEST_FRAMES: Final = 7
"""Version, request id, domain, address, routing id, mechanism, and the one credential of CURVE: the client's key."""

Admits = Callable[[str, str], bool]
"""Whether a public key (Z85) may come in now, to ports of the domain REQUESTS or EVENTS."""


class Gate:
    """Answers libzmq on the running loop; `admitted` and `refused` count connections, `malformed` what was no question."""

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]], admits: Admits) -> None:
        self._admits = admits
        self.admitted = 0
        self.refused = 0
        self.malformed = 0
        self._socket = sockets.gate(context)
        try:
            self._socket.bind(ADDRESS)
        except zmq.ZMQError:
            self._socket.close(0)
            raise
        self._send = sockets.raw_send(self._socket)
        self._drain = Drain(self._socket, self._asked)

    def _asked(self, frames: list[Buffer]) -> None:
        asked = [bytes(frame) for frame in frames]
        envelope, question = asked[:2], asked[2:]
        if len(question) < 2 or envelope[1]:  # no envelope or no request id: there is nobody to answer
            self.malformed += 1
            return
        code, text, user = self._judge(question)
        sockets.send_now(self._send, (*envelope, VERSION, question[1], code, text, user, b""))
        self._drain.look()

    def _judge(self, question: list[bytes]) -> tuple[bytes, bytes, bytes]:
        """Status code and text, and the User-Id that every message of the connection will carry."""
        if (
            len(question) != _REQUEST_FRAMES
            or (question[0], question[5]) != (VERSION, _CURVE)
            or len(question[6]) != _KEY_BYTES
        ):
            self.malformed += 1
            return b"500", b"not a question of ZAP 1.0 about a CURVE key", b""
        key = z85.encode(question[6])
        if question[2] in _DOMAINS and self._admits(key.decode(), question[2].decode()):
            self.admitted += 1
            return b"200", b"OK", key
        self.refused += 1
        return b"400", b"this key has not joined", b""

    def close(self) -> None:
        """Answer nobody any more."""
        self._drain.close()
        self._socket.close(0)
