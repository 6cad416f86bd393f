"""Every call that was begun ends once, however soon it is withdrawn."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from common.client.agent_calls import AgentCalls, Work
from common.client.pursuit import Found
from common.client.verbs import verb_named
from common.errors import Cancelled, Conflict, Unavailable
from common.telemetry.system_clock import SystemClock
from common.transport.sockets import Endpoint

CALL = ("task-1", 1)


class Silent:
    """A client whose calls never end by themselves."""

    def __init__(self) -> None:
        self.asked = 0

    async def call_at(self, *_: Any, **__: Any) -> Any:
        self.asked += 1
        await asyncio.Event().wait()


class Desk:
    """Calls, and what was told of their ends."""

    def __init__(self) -> None:
        self.client = Silent()
        self.spawned: list[asyncio.Task[None]] = []
        self.ends: list[object] = []
        self.calls = AgentCalls(self.client, SystemClock(), self._spawn)  # type: ignore[arg-type]

    def _spawn(self, work: Any, _name: str) -> asyncio.Task[None]:
        self.spawned.append(asyncio.get_running_loop().create_task(work))
        return self.spawned[-1]

    def start(self, find: Any = lambda: Found(Endpoint.tcp("127.0.0.1", 1))) -> None:
        self.calls.start(
            Work(
                call=CALL,
                agent_name="a",
                find=find,
                verb=verb_named("say", "a"),
                request={},
                deadline=SystemClock().monotonic() + 60.0,
                part=lambda _part: None,
                ended=self.ends.append,
            )
        )

    async def settled(self) -> None:
        await asyncio.wait(self.spawned, timeout=10.0)
        await asyncio.sleep(0)


@pytest.mark.parametrize("turns", [0, 1, 3])
async def test_a_call_that_is_withdrawn_ends_once_however_soon(turns: int) -> None:
    desk = Desk()
    desk.start()
    for _ in range(turns):
        await asyncio.sleep(0)
    desk.calls.withdraw(CALL)
    desk.calls.withdraw(CALL)
    await desk.settled()
    assert [type(end) for end in desk.ends] == [Cancelled]
    assert list(desk.calls.open) == []
    assert desk.client.asked == min(turns, 1)


async def test_an_agents_error_is_handed_over_without_secrets_and_of_bounded_length() -> None:
    desk = Desk()

    async def fail(*_: Any, **__: Any) -> Any:
        raise Conflict(f"the model at https://me:hunter2@models refused api_key=abcdef0123 {'x' * 100_000}")

    desk.client.call_at = fail  # type: ignore[method-assign]
    desk.start()
    await desk.settled()
    (end,) = desk.ends
    assert isinstance(end, Conflict)
    assert end.message.startswith("the model at https://me:[redacted]@models refused api_key=[redacted] xxx")
    assert len(end.message) < 7_000


async def test_calls_of_a_lost_agent_end_also_before_they_began() -> None:
    desk = Desk()
    desk.start()
    desk.calls.lose([CALL, ("task-2", 1)])
    await desk.settled()
    assert [type(end) for end in desk.ends] == [Cancelled]


@pytest.mark.parametrize("turns", [0, 3])
async def test_whatever_is_open_when_it_has_to_end_is_dropped_without_a_word(turns: int) -> None:
    desk = Desk()
    desk.start()
    for _ in range(turns):
        await asyncio.sleep(0)
    desk.spawned[0].cancel()
    await desk.calls.finish(0.0)
    await desk.settled()
    assert desk.ends == []
    assert list(desk.calls.open) == []


async def test_an_agent_of_no_known_place_is_told_as_the_end() -> None:
    def nowhere() -> Found:
        raise Unavailable("it is not known where a answers")

    desk = Desk()
    desk.start(nowhere)
    await desk.settled()
    assert [type(end) for end in desk.ends] == [Unavailable]
