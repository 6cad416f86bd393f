"""The usual alternative: grpc.aio, one unary method on raw bytes, so that no serialiser is counted."""

from __future__ import annotations

import asyncio
from time import perf_counter
from typing import Final

import grpc
import grpc.aio

from benchmarks.asking import crowd, timed_calls
from benchmarks.peer import PAYLOAD, Announce

SERVICE: Final = "bench.Echo"


async def _echo(request: bytes, context: grpc.aio.ServicerContext) -> bytes:
    return request


class GrpcAio:
    def serve(self, announce: Announce) -> None:
        asyncio.run(self._serve(announce))

    async def _serve(self, announce: Announce) -> None:
        server = grpc.aio.server()
        method = grpc.unary_unary_rpc_method_handler(_echo)
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, {"Call": method}),))
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        announce(port)
        await server.wait_for_termination()

    def sequential(self, port: int, calls: int) -> list[float]:
        return asyncio.run(self._sequential(port, calls))

    async def _sequential(self, port: int, calls: int) -> list[float]:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            call = channel.unary_unary(f"/{SERVICE}/Call")
            return await timed_calls(lambda: call(PAYLOAD), calls)

    def pipelined(self, port: int, calls: int, in_flight: int) -> float:
        return asyncio.run(self._pipelined(port, calls, in_flight))

    async def _pipelined(self, port: int, calls: int, in_flight: int) -> float:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            call = channel.unary_unary(f"/{SERVICE}/Call")
            await call(PAYLOAD)
            began = perf_counter()
            await crowd(lambda: call(PAYLOAD), calls, in_flight)
            return perf_counter() - began


PEER = GrpcAio()
