"""The two ways of calling, for contestants whose calls are awaited."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from time import perf_counter

Call = Callable[[], Awaitable[object]]


async def timed_calls(call: Call, calls: int) -> list[float]:
    """The seconds each of `calls` calls took, one after the other."""
    times = []
    for _ in range(calls):
        began = perf_counter()
        await call()
        times.append(perf_counter() - began)
    return times


async def crowd(call: Call, calls: int, in_flight: int) -> None:
    """Makes `calls` calls, `in_flight` at a time; the first failure ends it."""
    left = calls

    async def one_of_many() -> None:
        nonlocal left
        while left > 0:
            left -= 1
            await call()

    await asyncio.gather(*(one_of_many() for _ in range(in_flight)))
