"""What one writes by hand for many calls under way: blocking pyzmq, DEALER to ROUTER, whole messages as lists."""

from __future__ import annotations

from time import perf_counter

import zmq

from benchmarks.peer import PAYLOAD, Announce


def dealer(port: int) -> zmq.Socket[bytes]:
    socket = zmq.Context().socket(zmq.DEALER)
    socket.set_hwm(0)
    socket.connect(f"tcp://127.0.0.1:{port}")
    return socket


class RouterDealer:
    def serve(self, announce: Announce) -> None:
        socket = zmq.Context().socket(zmq.ROUTER)
        socket.set_hwm(0)
        announce(socket.bind_to_random_port("tcp://127.0.0.1"))
        while True:
            socket.send_multipart(socket.recv_multipart())

    def sequential(self, port: int, calls: int) -> list[float]:
        socket, times = dealer(port), []
        for _ in range(calls):
            began = perf_counter()
            socket.send_multipart([PAYLOAD])
            socket.recv_multipart()
            times.append(perf_counter() - began)
        return times

    def pipelined(self, port: int, calls: int, in_flight: int) -> float:
        socket = dealer(port)
        began = perf_counter()
        for _ in range(min(in_flight, calls)):
            socket.send_multipart([PAYLOAD])
        for _ in range(calls - in_flight):
            socket.recv_multipart()
            socket.send_multipart([PAYLOAD])
        for _ in range(min(in_flight, calls)):
            socket.recv_multipart()
        return perf_counter() - began


PEER = RouterDealer()
