"""The floor of latency: blocking pyzmq, REQ to REP, bare bytes."""

from __future__ import annotations

from time import perf_counter

import zmq

from benchmarks.peer import PAYLOAD, Announce


class ReqRep:
    def serve(self, announce: Announce) -> None:
        socket = zmq.Context().socket(zmq.REP)
        announce(socket.bind_to_random_port("tcp://127.0.0.1"))
        while True:
            socket.send(socket.recv())

    def sequential(self, port: int, calls: int) -> list[float]:
        socket = zmq.Context().socket(zmq.REQ)
        socket.connect(f"tcp://127.0.0.1:{port}")
        times = []
        for _ in range(calls):
            began = perf_counter()
            socket.send(PAYLOAD)
            socket.recv()
            times.append(perf_counter() - began)
        return times

    def pipelined(self, port: int, calls: int, in_flight: int) -> float:
        raise NotImplementedError("REQ has one call under way at a time")


PEER = ReqRep()
