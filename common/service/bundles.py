"""Replies of one turn to callers who bundle, sent together at the turn's end."""

from __future__ import annotations

import asyncio

from common.transport.router_port import RouterPort
from common.wire import bundle
from common.wire.frames import Buffer


class Bundles:
    """The small replies that wait for the end of this turn, by caller."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._waiting: dict[tuple[RouterPort, bytes], list[Buffer]] = {}
        self._scheduled = False

    def add(self, port: RouterPort, route: bytes, head: bytes, body: bytes) -> None:
        """Keep a small reply until the turn ends, or the bundle is full."""
        pairs = self._waiting.get((port, route))
        if pairs is None:
            pairs = self._waiting[(port, route)] = []
            if not self._scheduled:
                self._scheduled = True
                self._loop.call_soon(self.flush)
        pairs += (head, body)
        if len(pairs) == 2 * bundle.MAX_MESSAGES:
            del self._waiting[(port, route)]
            port.send(route, bundle.replies(pairs))

    def flush(self) -> bool:
        """Send what waits; whether anything did."""
        self._scheduled = False
        if not self._waiting:
            return False
        waiting, self._waiting = self._waiting, {}
        for (port, route), pairs in waiting.items():
            port.send(route, bundle.replies(pairs) if len(pairs) > 2 else pairs)
        return True
