"""Tandem: the same service over a CURVE port."""

from __future__ import annotations

from typing import Final

import zmq
from zmq.utils import z85

from benchmarks.peer import Announce
from benchmarks.peers.tandem_native import Native, service
from common.transport.router_port import open_ports
from common.transport.sockets import Address, Endpoint, Keys


def _keys(seed: int) -> Keys:
    """The same pair in every process of a run; it guards nothing but a measurement."""
    secret = z85.encode(bytes(range(seed, seed + 32)))
    return Keys(zmq.curve_public(secret), secret)


SERVER_KEYS: Final = _keys(1)
CLIENT_KEYS: Final = _keys(101)


class NativeCurve(Native):
    def endpoint(self, port: int) -> Endpoint:
        return Endpoint(f"tcp://127.0.0.1:{port}", SERVER_KEYS.public, CLIENT_KEYS)

    async def _serve(self, announce: Announce) -> None:
        shell = service()
        await shell.open()
        address = Address("127.0.0.1", 0, SERVER_KEYS)
        (port,) = open_ports(shell.context, [address], shell.onion.receive, shell.onion.drained)
        announce(port.number)
        await shell.serve()


PEER = NativeCurve()
