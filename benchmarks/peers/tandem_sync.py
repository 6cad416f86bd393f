"""Tandem: the same service called by the synchronous client, for programs without a loop."""

from __future__ import annotations

from time import perf_counter

from benchmarks.peers.tandem_native import ECHO, REQUEST, SERVICE, Native
from common.client.directory import Directory, Place
from common.client.opening import open_client


class NativeSync(Native):
    def sequential(self, port: int, calls: int) -> list[float]:
        times = []
        with open_client(directory=Directory({SERVICE: Place(self.endpoint(port))})) as client:
            for _ in range(calls):
                began = perf_counter()
                client.call(SERVICE, ECHO, REQUEST, idempotent=False)
                times.append(perf_counter() - began)
        return times

    def pipelined(self, port: int, calls: int, in_flight: int) -> float:
        raise NotImplementedError("the synchronous client has one call under way at a time")


PEER = NativeSync()
