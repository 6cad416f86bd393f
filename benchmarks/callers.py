"""Four callers on connections of their own, with 64 calls under way each: the load that services promise to carry."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import AsyncExitStack
from time import perf_counter
from typing import Any, Final

from benchmarks.asking import crowd
from common.api.words import AnyVerb
from common.client.aio import AsyncClient
from common.client.directory import Directory
from common.client.opening import open_async_client
from common.service.loop import run

CALLERS: Final = 4
IN_FLIGHT: Final = 64


def answered_after(
    directory: Directory,
    target: str,
    verb: AnyVerb,
    request: Callable[[int], Any],
    calls: int,
    in_flight: int = IN_FLIGHT,
) -> list[float]:
    """When each of `calls` answers came, in seconds since the first call went out, in order; the first failure ends it."""
    return run(_answered_after(directory, target, verb, request, calls, in_flight))


async def _answered_after(
    directory: Directory, target: str, verb: AnyVerb, request: Callable[[int], Any], calls: int, in_flight: int
) -> list[float]:
    ends: list[float] = []
    numbers = iter(range(calls))

    async def one(client: AsyncClient) -> None:
        await client.call(target, verb, request(next(numbers)), idempotent=False)
        ends.append(perf_counter())

    async with AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(open_async_client(directory=directory)) for _ in range(CALLERS)]
        began = perf_counter()
        await asyncio.gather(*(crowd(lambda c=c: one(c), calls // CALLERS, in_flight) for c in clients))  # type: ignore[misc]
    return [end - began for end in ends]
