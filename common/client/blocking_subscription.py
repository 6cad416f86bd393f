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

REFUSED_AGAIN_POLLS: Final = int(sockets.REFUSED_AGAIN_S * 1000 / SLICE_MS)
"""Polls without an event after which a refused handshake is tried anew."""


class BlockingSubscription:
    """One SUB; a ZeroMQ socket belongs to one thread at a time, so polling and closing take turns."""

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]], endpoint: Endpoint, topics: Sequence[str]) -> None:
        self._turn = threading.Lock()
        self._endpoint = endpoint
        self._socket = sockets.subscriber(context, endpoint, [topic.encode() for topic in (*topics, BEAT.name)])
        self._monitor = sockets.monitor(self._socket, sockets.REFUSALS)
        self._news = sockets.raw_receive(self._monitor)
        self._quiet_polls = 0
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
            if self._socket.poll(SLICE_MS):
                return read_message(self._receive)
            self._quiet_polls += 1
            if self._quiet_polls % REFUSED_AGAIN_POLLS == 0 and read_message(self._news) is not None:
                sockets.connect_again(self._socket, self._endpoint)
            return None

    def close(self) -> None:
        """Stop listening; a second call does nothing."""
        with self._turn:
            if not self._socket.closed:
                self._socket.disable_monitor()
                self._monitor.close(0)
            self._socket.close(0)
