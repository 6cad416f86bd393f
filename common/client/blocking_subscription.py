"""A subscription for programs without a loop: polled by one thread, closed by any."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Final

import zmq

from common.api.basic import BEAT
from common.errors import BadRequest, Interrupted
from common.transport import sockets
from common.transport.drain import read_message
from common.transport.sockets import Endpoint
from common.wire.frames import Buffer

SLICE_MS: Final = 100
"""Who closes it waits no longer than this for who polls it."""


class BlockingSubscription:
    """One SUB; a ZeroMQ socket belongs to one thread at a time, so polling and closing take turns."""

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]], endpoint: Endpoint, topics: Sequence[str]) -> None:
        self._turn = threading.Lock()
        self._socket = sockets.subscriber(context, endpoint, [topic.encode() for topic in (*topics, BEAT.name)])
        self._receive = sockets.raw_receive(self._socket)
        try:
            sockets.connect(self._socket, endpoint)
        except BadRequest:
            self.close()
            raise

    def receive(self) -> list[Buffer] | None:
        """The next message, None when none came for a moment; Interrupted once it was closed."""
        with self._turn:
            if self._socket.closed:
                raise Interrupted("the client was closed; its events are not followed any more")
            return read_message(self._receive) if self._socket.poll(SLICE_MS) else None

    def close(self) -> None:
        """Stop listening; a second call does nothing."""
        with self._turn:
            self._socket.close(0)
