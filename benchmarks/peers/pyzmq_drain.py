"""The least that takes something in: a blocking pyzmq ROUTER that reads each message, looks at nothing, and says it has it."""

from __future__ import annotations

from time import perf_counter

import zmq

from benchmarks.peer import Announce
from benchmarks.peers.pyzmq_router_dealer import RouterDealer, dealer

TAKEN = b"taken"


class Drain(RouterDealer):
    def serve(self, announce: Announce) -> None:
        socket = zmq.Context().socket(zmq.ROUTER)
        socket.set_hwm(0)
        announce(socket.bind_to_random_port("tcp://127.0.0.1"))
        while True:
            sender, _ = socket.recv_multipart()
            socket.send_multipart([sender, TAKEN])

    def drained(self, port: int, calls: int, in_flight: int, size: int) -> float:
        """The seconds that `calls` messages of `size` bytes took, `in_flight` of them under way."""
        socket, message = dealer(port), [bytes(size)]
        began = perf_counter()
        for _ in range(in_flight):
            socket.send_multipart(message)
        for _ in range(calls - in_flight):
            socket.recv_multipart()
            socket.send_multipart(message)
        for _ in range(in_flight):
            socket.recv_multipart()
        return perf_counter() - began


PEER = Drain()
