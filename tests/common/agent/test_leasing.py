from __future__ import annotations

import asyncio
import concurrent.futures
import logging
import os
from typing import Any

import pytest

from common.agent.leasing import LeaseLost
from common.errors import NoCapacity
from tandem import Agent, HeldLease, on_sleep, on_unload, verb
from tests.common.agent.lab import fabric, serving
from tests.common.agent.test_agent import Lab
from tests.common.service.lab import peer, until


async def test_a_lease_is_held_renewed_and_given_back(monkeypatch: pytest.MonkeyPatch) -> None:
    async with fabric(monkeypatch) as around, serving(Lab("lab")) as agent:
        assert around.manager is not None
        keeper = around.supervisor
        keeper.held = around.manager.held
        async with agent.lease("whisper", 10, ttl_s=0.3, priority=70, wait_s=2.0) as held:
            assert held.granted.lease_id in keeper.held
            await until(lambda: keeper.renewals >= 3)
            assert not held.lost.is_set()
        assert keeper.held == {}
        (asked,) = around.manager.asked
        assert (asked.model, asked.bytes, asked.priority, asked.wait_s) == ("whisper", 10, 70, 2.0)
        assert asked.owner is not None
        assert (asked.owner.agent_name, asked.owner.host, asked.owner.pid) == ("lab", "mainpc", os.getpid())
        assert asked.host == "mainpc", "no process reaches the cards of another host"
        assert asked.idempotency_key


async def test_without_a_resource_manager_the_hosts_own_supervisor_grants(monkeypatch: pytest.MonkeyPatch) -> None:
    async with fabric(monkeypatch, manager=False) as around, serving(Lab("lab")) as agent:
        async with agent.lease("whisper", 10, wait_s=0.0):
            assert list(around.supervisor.held) == ["lease-1"]
        assert around.supervisor.held == {}


async def test_no_room_is_told_with_need_and_free(monkeypatch: pytest.MonkeyPatch) -> None:
    async with fabric(monkeypatch) as around, serving(Lab("lab")) as agent:
        assert around.manager is not None
        around.manager.full = True
        with pytest.raises(NoCapacity) as caught:
            async with agent.lease("whisper", 10, wait_s=0.0):
                pass
        assert caught.value.details == {"need": 10, "free": 3}
        assert len(around.manager.asked) == 1


async def test_a_lease_that_ended_under_its_holder_is_lost_and_leaving_it_is_no_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with fabric(monkeypatch, manager=False) as around, serving(Lab("lab")) as agent:
        async with agent.lease("whisper", 10, ttl_s=0.3, wait_s=0.0) as held:
            around.supervisor.held["lease-1"] = 8
            async with asyncio.timeout(60):
                await held.lost.wait()
        assert around.supervisor.held == {}


async def test_a_renewal_that_failed_is_tried_again_and_the_lease_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    async with (
        fabric(monkeypatch, manager=False) as around,
        serving(Lab("lab")) as agent,
        agent.lease("whisper", 10, ttl_s=0.3, wait_s=0.0) as held,
    ):
        around.supervisor.unwell = True
        await until(lambda: around.supervisor.renewals >= 2)
        around.supervisor.unwell = False
        await until(lambda: around.supervisor.renewals >= 4)
        assert not held.lost.is_set()


async def test_a_lease_that_could_not_be_given_back_is_a_warning(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async with fabric(monkeypatch, manager=False) as around, serving(Lab("lab")) as agent:
        with caplog.at_level(logging.WARNING):
            async with agent.lease("whisper", 10, wait_s=0.0):
                await around.supervisor.shell.close(drain_s=0)
        assert "was not released" in caplog.text


class Speech(Lab):
    """An agent that keeps its model on the card between calls, and lets go of it when it is asked to."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.loads = 0
        self.asked: list[tuple[str, ...]] = []
        self.held: HeldLease

    async def started(self) -> None:
        self.held = self.lease("whisper", 10, ttl_s=30.0, wait_s=0.0, in_use=False, load_s=3.0, unload_within_s=7.0)

    @verb
    async def hear(self) -> int:
        async with self.held.busy() as held:
            assert held.held
            return self.loads

    @verb
    def hear_aside(self) -> bool:
        with self.held.busy() as held:
            return held.held

    @verb
    def hear_once(self) -> str:
        with self.lease("tts", 5, wait_s=0.0) as held:
            return held.granted.lease_id

    @verb
    def stuck(self) -> None:
        with self.lease("stuck", 5, wait_s=60.0):
            raise AssertionError

    @verb
    def wait_aside(self) -> None:
        assert self.go.wait(60)

    @on_unload
    def forget(self, model: str) -> None:
        self.asked.append(("unload", model))

    @on_sleep
    async def doze(self) -> None:
        self.asked.append(("sleep",))


async def call(agent: Agent, action: str, **fields: Any) -> dict[str, Any]:
    async with peer(agent.shell.port) as caller:
        reply: dict[str, Any] = await caller.plain(action, **fields)
        return reply


async def test_how_an_agent_gives_memory_back_is_announced_with_its_leases(monkeypatch: pytest.MonkeyPatch) -> None:
    async with fabric(monkeypatch, manager=False) as around, serving(Speech("speech")) as agent:
        await call(agent, "hear")
        (asked,) = around.supervisor.asked
        assert asked.unload is not None
        assert (asked.unload.port, asked.unload.timeout_s) == (agent.shell.port, 7.0)
        assert (asked.unload.sleep, asked.unload.unload) == ("sleep_model", "unload_model")
        assert (asked.load_s, asked.in_use) == (3.0, True)


async def test_an_agent_without_such_methods_announces_none(monkeypatch: pytest.MonkeyPatch) -> None:
    async with fabric(monkeypatch, manager=False) as around, serving(Lab("lab")) as agent:
        async with agent.lease("whisper", 10, wait_s=0.0, pinned=True, config="int8"):
            pass
        (asked,) = around.supervisor.asked
        assert asked.unload is None
        assert (asked.pinned, asked.config, asked.in_use) == (True, "int8", True)


async def test_a_lease_is_acquired_at_its_first_use_and_idle_between_uses(monkeypatch: pytest.MonkeyPatch) -> None:
    async with fabric(monkeypatch, manager=False) as around:
        keeper = around.supervisor
        async with serving(Speech("speech")) as agent:
            assert keeper.held == {}
            assert (await call(agent, "hear"))["status"] == "success"
            await until(lambda: not keeper.in_use("lease-1"))
            assert (await call(agent, "hear_aside"))["result"] is True
            await until(lambda: len(keeper.marks) == 3)
            assert [mark.in_use for mark in keeper.marks] == [False, True, False]
            assert list(keeper.held) == ["lease-1"]
        assert keeper.held == {}, "an agent that ends gives its leases back"


async def test_uses_that_overlap_are_one_to_the_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    async with fabric(monkeypatch, manager=False) as around, serving(Speech("speech")) as agent:
        assert isinstance(agent, Speech)
        async with agent.held.busy(), agent.held.busy():
            pass
        await until(lambda: len(around.supervisor.marks) == 1)
        assert len(around.supervisor.asked) == 1


async def test_an_eviction_is_heard_at_once_and_the_next_use_leases_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    async with fabric(monkeypatch, manager=False) as around, serving(Speech("speech")) as agent:
        assert isinstance(agent, Speech)
        await call(agent, "hear")
        await until(lambda: bool(around.supervisor.marks))
        around.supervisor.held.clear()
        await call(agent, "unload_model", model="whisper", lease_id="lease-1")
        async with asyncio.timeout(60):
            await agent.held.lost.wait()
        assert agent.asked == [("unload", "whisper")]
        with pytest.raises(LeaseLost):
            agent.held.check()
        with pytest.raises(LeaseLost):
            await agent.held.mark_in_use()
        await call(agent, "hear")
        assert list(around.supervisor.held) == ["lease-2"]
        first, second = around.supervisor.asked
        assert first.idempotency_key != second.idempotency_key
        assert not agent.held.lost.is_set()


async def test_whoever_asks_an_agent_for_memory_without_need_takes_no_lease_from_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with fabric(monkeypatch, manager=False) as around, serving(Speech("speech")) as agent:
        assert isinstance(agent, Speech)
        await call(agent, "hear")
        renewed = around.supervisor.renewals
        await call(agent, "sleep_model", lease_id="lease-1")
        await until(lambda: around.supervisor.renewals > renewed)
        assert agent.asked == [("sleep",)]
        agent.held.check()
        await call(agent, "unload_model", lease_id="another")
        agent.held.check()


async def test_a_lease_that_expires_under_a_use_that_begins_is_had_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    async with fabric(monkeypatch, manager=False) as around, serving(Speech("speech")) as agent:
        await call(agent, "hear")
        await until(lambda: bool(around.supervisor.marks))
        around.supervisor.held["lease-1"] = 8
        await call(agent, "hear")
        assert around.supervisor.held == {"lease-1": 8, "lease-2": 7}


async def test_an_agent_gives_memory_back_while_its_worker_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    async with fabric(monkeypatch, manager=False), serving(Speech("speech")) as agent:
        assert isinstance(agent, Speech)
        waiting = asyncio.create_task(call(agent, "wait_aside"))
        assert (await call(agent, "unload_model", model="whisper"))["status"] == "success"
        agent.go.set()
        assert (await waiting)["status"] == "success"


async def test_a_use_finds_no_room(monkeypatch: pytest.MonkeyPatch) -> None:
    async with fabric(monkeypatch, manager=False) as around, serving(Speech("speech")) as agent:
        around.supervisor.full = True
        assert (await call(agent, "hear"))["code"] == "no_capacity"
        around.supervisor.full = False
        assert (await call(agent, "hear"))["status"] == "success"


async def test_that_a_lease_is_idle_is_told_until_it_was_heard(monkeypatch: pytest.MonkeyPatch) -> None:
    async with fabric(monkeypatch, manager=False) as around, serving(Lab("lab")) as agent:
        held = agent.lease("whisper", 10, ttl_s=0.3, wait_s=0.0)
        async with held.busy():
            around.supervisor.unwell = True
        await until(lambda: around.supervisor.renewals >= 2)
        assert around.supervisor.in_use("lease-1")
        around.supervisor.unwell = False
        await until(lambda: not around.supervisor.in_use("lease-1"))
        async with held.busy():
            around.supervisor.held.clear()
        await until(held.lost.is_set)
        await held.release()
        await held.release()


async def test_a_holder_says_what_its_lease_is(monkeypatch: pytest.MonkeyPatch) -> None:
    async with (
        fabric(monkeypatch, manager=False) as around,
        serving(Lab("lab")) as agent,
        agent.lease("whisper", 10, wait_s=0.0) as held,
    ):
        await held.mark_loaded()
        await held.mark_idle()
        await held.mark_in_use()
        said = [(mark.in_use, mark.loaded) for mark in around.supervisor.marks]
        assert said == [(None, True), (False, None), (True, None)]


async def test_a_verb_on_the_worker_takes_a_lease_plainly_and_one_on_the_loop_may_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with fabric(monkeypatch, manager=False) as around, serving(Speech("speech")) as agent:
        assert (await call(agent, "hear_once"))["result"] == "lease-1"
        assert around.supervisor.held == {}
        assert isinstance(agent, Speech)
        with pytest.raises(RuntimeError, match="async with"), agent.held.busy():
            raise AssertionError


async def test_an_agent_that_ends_lets_nobody_wait_for_a_lease(monkeypatch: pytest.MonkeyPatch) -> None:
    async with fabric(monkeypatch, manager=False), serving(Speech("speech")) as agent:
        assert isinstance(agent, Speech)
        with monkeypatch.context() as patched:
            patched.setattr(agent._leases.client, "call", hang_call)
            ended = asyncio.get_running_loop().run_in_executor(None, agent.stuck)
            await until(lambda: bool(agent._leases._waiting))
            await agent._leases.close()
            with pytest.raises((concurrent.futures.CancelledError, asyncio.CancelledError)):
                await ended


async def hang_call(*_: Any, **__: Any) -> Any:
    await asyncio.Event().wait()
