from __future__ import annotations

import asyncio
import os
import signal

import pytest

from common.api.leases import Owner
from common.api.supervisor import AdmitLease
from common.errors import NotFound, Unavailable
from common.gpu import process_identity
from common.supervisor.leasing.owners import LEASES, OwnerWatch, pinned, process_of
from common.vram.cards import ProcessId
from tests.common.service.lab import until
from tests.common.supervisor.leasing.lab import program


def asked(owner: Owner | None) -> AdmitLease:
    return AdmitLease(lease_id="lease-1", model="llm", bytes=1, owner=owner)


def test_an_owner_of_this_host_is_pinned_and_others_are_left_as_they_are() -> None:
    me = process_identity.this_process()
    for owner in (None, Owner(agent_name="a"), Owner(pid=me.pid, host="pc2", start_time=3)):
        assert pinned(asked(owner), "mainpc").owner == owner
        assert process_of(asked(owner), "mainpc") is None
    request = pinned(asked(Owner(agent_name="a", pid=me.pid)), "mainpc")
    assert request.owner == Owner(agent_name="a", host="mainpc", pid=me.pid, start_time=me.start_time)
    assert process_of(request, "mainpc") == me
    assert pinned(request, "mainpc") == request


def test_a_process_that_is_not_there_owns_nothing() -> None:
    me = process_identity.this_process()
    with pytest.raises(NotFound, match="does not run on mainpc"):
        pinned(asked(Owner(pid=2**22 + 1)), "mainpc")
    with pytest.raises(NotFound, match=r"\(started at tick 1\)"):
        pinned(asked(Owner(pid=me.pid, start_time=1)), "mainpc")


async def test_a_death_is_told_until_nobody_hangs_on_the_process() -> None:
    told: list[ProcessId] = []
    watch = OwnerWatch(asyncio.get_running_loop(), told.append)
    with program() as process:
        watch.hold(process, LEASES)
        watch.hold(process, "lease-2")
        os.kill(process.pid, signal.SIGKILL)
        await until(lambda: told == [process])
    watch.check()
    watch.hold(process, "lease-3")
    assert told == [process, process]
    for holder in (LEASES, "lease-2", "lease-3", "nobody"):
        watch.drop(process, holder)
    watch.check()
    assert told == [process, process]


async def test_only_those_with_leases_are_followed() -> None:
    told: list[ProcessId] = []
    watch = OwnerWatch(asyncio.get_running_loop(), told.append)
    with program() as one, program() as two, program() as three:
        watch.follow([one, two])
        watch.hold(three, "lease-3")
        watch.follow([two])
        for process in (one, two, three):
            os.kill(process.pid, signal.SIGKILL)
        await until(lambda: set(told) == {two, three})
    watch.close()
    watch.check()
    assert sorted(told) == sorted([two, three])


async def test_a_process_that_cannot_be_watched_is_looked_after(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise Unavailable("too many open files")

    monkeypatch.setattr(process_identity, "watch_exit", refuse)
    told: list[ProcessId] = []
    watch = OwnerWatch(asyncio.get_running_loop(), told.append)
    with program() as process:
        watch.hold(process, LEASES)
        watch.check()
        assert told == []
    watch.check()
    assert process in told
    watch.close()


async def test_more_processes_than_there_are_descriptors_for_are_looked_after(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("common.supervisor.leasing.owners.MAX_DESCRIPTORS", 1)
    told: list[ProcessId] = []
    watch = OwnerWatch(asyncio.get_running_loop(), told.append)
    with program() as first, program() as second:
        before = len(os.listdir("/proc/self/fd"))
        watch.hold(first, LEASES)
        watch.hold(second, LEASES)
        assert len(os.listdir("/proc/self/fd")) == before + 1
        watch.check()
        assert told == []
    watch.check()
    assert second in told
    watch.close()


def test_a_process_of_a_host_on_this_machine_is_pinned_here_and_one_that_cannot_be_seen_stays_with_its_host() -> None:
    me = process_identity.this_process()
    near = pinned(asked(Owner(agent_name="a", host="pc2", pid=me.pid)), "mainpc", {"pc2"})
    assert near.owner == Owner(agent_name="a", host="mainpc", pid=me.pid, start_time=me.start_time)
    unseen = asked(Owner(host="pc2", pid=2**22 + 1))
    assert pinned(unseen, "mainpc", {"pc2"}) == unseen
