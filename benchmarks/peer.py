"""What every contestant offers: a server to call, and two ways of calling it."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Final, Protocol, cast

PAYLOAD_BYTES: Final = 200
PAYLOAD: Final = bytes(range(32, 127)) * 2 + b"ten bytes."
assert len(PAYLOAD) == PAYLOAD_BYTES

Announce = Callable[[int], None]


class Peer(Protocol):
    """One way to call another process over loopback TCP; the callee returns the payload it was sent."""

    def serve(self, announce: Announce) -> None:
        """Listens, tells its port, and answers until it is killed."""
        ...

    def sequential(self, port: int, calls: int) -> list[float]:
        """The seconds that each of `calls` calls took, one after the other; raises when one fails."""
        ...

    def pipelined(self, port: int, calls: int, in_flight: int) -> float:
        """The seconds that `calls` calls took, `in_flight` of them under way at any time; raises when one fails."""
        ...


def peer_named(name: str) -> Peer:
    """The contestant of the file of that name in benchmarks/peers."""
    return cast("Peer", importlib.import_module(f"benchmarks.peers.{name}").PEER)
