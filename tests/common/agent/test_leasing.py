from __future__ import annotations

import asyncio
import logging
import os

import pytest

from common.errors import NoCapacity
from tests.common.agent.lab import fabric, serving
from tests.common.agent.test_agent import Lab
from tests.common.service.lab import until


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
