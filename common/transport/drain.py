"""Reading a ZeroMQ socket from an asyncio loop, without zmq.asyncio's cost.

The socket's FD is edge-triggered: it tells once that something changed, and any send may swallow that news. So a drain reads
until nothing is left, a bounded number of messages a turn, and whoever sends outside a drain calls `look` afterwards.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

import zmq

from common.transport import sockets
from common.wire.frames import Buffer

TURN: Final = 128
"""Messages read before the loop gets its turn."""

MAX_FRAMES: Final = 80
"""Frames kept of one message; the rest is swallowed, so that the socket stays in step and the message is refused."""

_COPIED_BELOW: Final = 32_768
_NOW: Final = int(zmq.DONTWAIT)


def read_message(receive: sockets.Receive, flags: int = _NOW) -> list[Buffer] | None:
    """All frames of the next message, or None when there is none; an Again from libzmq is that answer, not an error.

    With `flags` 0 it waits for the socket's RCVTIMEO.

    Small frames come as bytes, large ones as views of libzmq's own memory, uncopied.
    """
    try:
        frame = receive(flags, False)
    except zmq.Again:
        return None
    return frames_from(frame, receive)


def frames_from(frame: zmq.Frame, receive: sockets.Receive) -> list[Buffer]:
    """All frames of the message that begins with `frame`."""
    frames: list[Buffer] = [frame.bytes if len(frame) < _COPIED_BELOW else frame.buffer]
    while frame.more:
        frame = receive(_NOW, False)
        if len(frames) < MAX_FRAMES:
            frames.append(frame.bytes if len(frame) < _COPIED_BELOW else frame.buffer)
    return frames


Read = Callable[[sockets.Receive], list[Buffer] | None]
"""How a drain takes the next message off its socket; None when there is none."""


class Drain:
    """Feeds every message of `socket` to `message` on the loop.

    `drained` is called when a drain has read all there was, and says whether it sent anything on this socket; `read` takes the
    next message off the socket.
    """

    def __init__(
        self,
        socket: zmq.Socket[bytes],
        message: Callable[[list[Buffer]], None],
        drained: Callable[[], bool] | None = None,
        read: Read = read_message,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._receive = sockets.raw_receive(socket)
        self._read_message = read
        self._message = message
        self._drained = drained
        self._fd = int(socket.getsockopt(zmq.FD))
        self._busy = False
        self._scheduled = False
        self._closed = False
        self._loop.add_reader(self._fd, self._turn)
        self.look()

    def look(self) -> None:
        """Look again soon: called after a send outside a drain. Any number of calls cost one look."""
        if not (self._busy or self._scheduled or self._closed):
            self._scheduled = True
            self._loop.call_soon(self._turn)

    def _turn(self) -> None:
        self._scheduled = False
        if self._closed:
            return
        self._busy = True
        more = True
        try:
            more = not self._read(TURN) or (self._drained is not None and self._drained())
        finally:
            self._busy = False
            if more:
                self.look()

    def _read(self, messages: int) -> bool:
        for _ in range(messages):
            frames = self._read_message(self._receive)
            if frames is None:
                return True
            self._message(frames)
            if self._closed:
                return True
        return False

    def read_all(self) -> None:
        """Hand over everything that has arrived, now."""
        while not self._closed and not self._read(TURN):
            pass

    def close(self) -> None:
        """Stop reading; the socket stays its owner's."""
        if not self._closed:
            self._closed = True
            self._loop.remove_reader(self._fd)
