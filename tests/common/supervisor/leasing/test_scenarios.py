"""What has gone wrong wherever memory is taken from one program for another: a host's leases, on cards seen through NVML."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from common.errors import NoCapacity, StaleFence
from common.gpu.process_identity import identify, is_alive
from common.gpu.simulated import GIB
from common.vram.cards import ProcessId
from tests.common.service.lab import raises
from tests.common.supervisor.leasing.lab import owner, program, roomy
from tests.common.supervisor.leasing.manual_time import (
    CARD,
    STUBBORN,
    Timed,
    on_manual_time,
)

PARENT = "import subprocess; child = subprocess.Popen(['sleep', '1000']); print(child.pid, flush=True); child.wait()"


@pytest.fixture
def stubborn() -> Iterator[ProcessId]:
    """A program that only KILL ends."""
    with program(sys.executable, "-c", STUBBORN) as process:
        while not ignores_term(process):
            assert is_alive(*process)
        yield process


def ignores_term(process: ProcessId) -> bool:
    status = Path(f"/proc/{process.pid}/status").read_text()
    ignored = next(line.split()[1] for line in status.splitlines() if line.startswith("SigIgn"))
    return bool(int(ignored, 16) >> (signal.SIGTERM - 1) & 1)


@on_manual_time
async def test_an_eviction_target_that_gets_a_new_request_while_expiring_goes_all_the_same(
    at: Timed, stubborn: ProcessId
) -> None:
    unload = at.serves("forget", lambda: None) | {"unload": "forget"}
    old = await at.held(stubborn, 20, model="old", unload=unload)
    async with at.waiting(20) as asked:
        await at.passes(0.5)
        assert (await at.lease(old["lease_id"]))["state"] == "expiring"
        assert raises(StaleFence, await at.token("mark_lease", old, in_use=True))
        assert raises(StaleFence, await at.token("renew_lease", old))
        joined = await at.acquire(20, model="old", share=True, owner=owner(stubborn))
        assert raises(NoCapacity, joined), "nobody is let in to a lease that has to go"
        await at.passes(20)
        await at.dies(stubborn)
        await at.gone(old["lease_id"])
        assert (await at.flows(asked))["status"] == "success"
    assert (await at.decisions(old["lease_id"]))[-2:] == ["expiring", "evicted"]


@on_manual_time
async def test_a_victim_that_is_never_idle_is_drained_once_the_first_in_line_has_waited_long(
    at: Timed, sleeper: ProcessId
) -> None:
    busy = await at.held(sleeper, 20, model="busy")
    share = await at.granted(20, model="busy", share=True, ttl_s=3_600)
    async with at.waiting(20) as asked:
        for _ in range(5):
            await at.passes(10)
            another = await at.granted(20, model="busy", share=True, ttl_s=3_600)
            await at.token("release_lease", share)
            share = another
            assert (await at.lease(busy["lease_id"]))["state"] == "held"
        await at.passes(11.5)
        assert (await at.lease(busy["lease_id"]))["state"] == "expiring"
        assert is_alive(*sleeper), "its use has not ended"
        assert raises(NoCapacity, await at.acquire(20, model="busy", share=True)), "nobody new is let in"
        await at.token("release_lease", share)
        await at.dies(sleeper)
        assert (await at.flows(asked))["card_uuid"] == CARD


@on_manual_time
async def test_a_waiting_load_holds_up_nobody_for_whom_another_card_has_room(at: Timed, sleeper: ProcessId) -> None:
    await at.held(sleeper, 18, pinned=True)
    async with at.waiting(20) as first:
        assert (await at.granted(10))["card"] == 1
        assert not first.done()
    await at.passes(1)


@on_manual_time
async def test_an_owner_that_dies_by_itself_during_the_wait_for_its_memory_leaves_it_to_who_waits(
    at: Timed, stubborn: ProcessId
) -> None:
    asleep = asyncio.Event()
    unload = at.serves("forget", asleep.set) | {"unload": "forget"}
    old = await at.held(stubborn, 20, unload=unload)
    async with at.waiting(20) as asked:
        await at.until(asleep.is_set)
        os.kill(stubborn.pid, signal.SIGKILL)
        await at.dies(stubborn)
        await at.gone(old["lease_id"])
        assert (await at.flows(asked))["card_uuid"] == CARD
    told = await at.rungs(old["lease_id"])
    assert told == [("unload", "freed", 20, 0)]
    assert "kill" not in [rung for rung, *_ in told]


@pytest.mark.parametrize("hides", ["", "processes"])
@on_manual_time
async def test_free_memory_that_falls_while_we_wait_for_it_to_rise_is_no_success(
    at: Timed, stubborn: ProcessId, sleeper: ProcessId, hides: str
) -> None:
    at.changes(hides=hides)
    said: list[float] = []

    def keep() -> None:
        at.uses(sleeper, 3)
        said.append(at.clock.now)

    unload = at.serves("forget", keep) | {"unload": "forget"}
    old = await at.held(stubborn, 20, unload=unload)
    async with at.waiting(20) as asked:
        await at.until(lambda: bool(said))
        await at.passes(1)
        assert not asked.done()
        assert (await at.card())["free_bytes"] == GIB
        assert await at.grantable() == 0, "bytes never go below zero, nor wrap"
        await at.passes(20)
        await at.dies(stubborn)
        assert (await at.flows(asked))["card_uuid"] == CARD
    assert is_alive(*sleeper)
    unloaded, *_, last = await at.rungs(old["lease_id"], "quarantined" if hides else "evicted")
    assert unloaded == ("unload", "nothing", 20, 20)
    assert last == (("quarantine", "nothing", 3, 3) if hides else ("kill", "freed", 20, 0)), (
        "3 GiB less came back than went"
    )


@on_manual_time
async def test_two_runners_on_one_card_are_told_apart_and_only_one_goes(at: Timed, sleeper: ProcessId) -> None:
    with program() as other:
        one = await at.held(sleeper, 10, model="one")
        two = await at.held(other, 10, model="two", priority=90)
        assert (await at.lease(one["lease_id"]))["measured_bytes"] == 10 * GIB
        assert (await at.lease(two["lease_id"]))["measured_bytes"] == 10 * GIB
        async with at.waiting(12, card_uuid=CARD) as asked:
            await at.passes(0.2)
            await at.dies(sleeper)
            assert (await at.flows(asked))["status"] == "success"
        assert is_alive(*other), await at.receipts(two["lease_id"])
        assert (await at.lease(two["lease_id"]))["state"] == "held"


@on_manual_time
async def test_an_unload_that_says_done_while_its_bytes_stay_is_climbed_over_and_nothing_granted_before(
    at: Timed, stubborn: ProcessId
) -> None:
    said: list[float] = []
    unload = at.serves("forget", lambda: said.append(at.clock.now)) | {"unload": "forget"}
    liar = await at.held(stubborn, 20, model="liar", unload=unload)
    async with at.waiting(20) as asked:
        await at.until(lambda: bool(said))
        while is_alive(*stubborn) and at.clock.now < said[0] + 15:
            assert not asked.done()
            assert (await at.card())["free_bytes"] == 4 * GIB
            await at.passes(0.5)
        await at.passes(1)
        await at.dies(stubborn)
        assert (await at.flows(asked))["card_uuid"] == CARD
    assert await at.rungs(liar["lease_id"]) == [
        ("unload", "nothing", 20, 20),
        ("term", "nothing", 20, 20),
        ("kill", "freed", 20, 0),
    ]
    evicted = next(each for each in await at.receipts(liar["lease_id"]) if each["decision"] == "evicted")
    assert (evicted["expected_bytes"], evicted["returned_bytes"]) == (20 * GIB, 20 * GIB)
    assert evicted["rungs"][0]["claimed"] == "forget: done"
    granted = next(each for each in await at.receipts("llm") if each["decision"] == "granted")
    assert granted["at"] >= evicted["at"]


@on_manual_time
async def test_a_wake_that_fails_half_way_and_leaks_is_counted_and_never_read_as_free(
    at: Timed, sleeper: ProcessId, monkeypatch: pytest.MonkeyPatch
) -> None:
    roomy(at.host, monkeypatch)
    unload = at.serves("doze", lambda: at.uses(sleeper, 0.5)) | {"sleep": "doze"}
    fields = {"model": "old", "unload": unload, "owner": owner(sleeper), "card_uuid": CARD}
    old = await at.held(sleeper, 20, model="old", unload=unload)
    async with at.waiting(20) as asked:
        first = await at.flows(asked)
    assert (await at.lease(old["lease_id"]))["state"] == "parked"
    await at.token("release_lease", first)
    awake = await at.granted(20, **fields)
    assert awake["lease_id"] == old["lease_id"]
    at.uses(sleeper, 9)  # and there its load fails
    await at.looked()
    assert await at.grantable() == 4.0, "what is leased stays leased"
    await at.token("release_lease", awake)
    await at.looked()
    assert await at.grantable() == 15.0, "what leaked is held, by a process without a lease"
    assert [each["bytes"] for each in (await at.card())["strangers"]] == [9 * GIB]
    assert raises(NoCapacity, await at.acquire(20))


@on_manual_time
async def test_a_second_instance_that_frees_only_half_is_no_eviction(at: Timed) -> None:
    with program(sys.executable, "-c", PARENT) as parent:
        await at.until(lambda: bool(children(parent)))
        (second,) = children(parent)
        unload = at.serves("forget", lambda: at.uses(second, 0)) | {"unload": "forget"}
        at.uses(second, 10)
        both = await at.held(parent, 20, model="both", unload=unload)
        at.uses(parent, 10)
        await at.looked()
        async with at.waiting(20) as asked:
            await at.finds(lambda: half_is_back(at))
            assert await at.grantable() < 20
            assert not asked.done()
            await at.passes(5)
            await at.dies(parent)
            assert (await at.flows(asked))["card_uuid"] == CARD
        assert (await at.rungs(both["lease_id"]))[:2] == [("unload", "part", 20, 10), ("term", "freed", 10, 0)]
        assert not is_alive(*second)


def children(parent: ProcessId) -> list[ProcessId]:
    listed = Path(f"/proc/{parent.pid}/task/{parent.pid}/children").read_text().split()
    return [child for pid in listed if (child := identify(int(pid))) is not None]


async def half_is_back(at: Timed) -> bool:
    return bool((await at.card())["free_bytes"] == 14 * GIB)


@on_manual_time
async def test_client_a_that_releases_what_b_is_about_to_use_takes_nothing_from_b(
    at: Timed, sleeper: ProcessId
) -> None:
    a = await at.held(sleeper, 20, model="shared")
    b = await at.granted(20, model="shared", share=True, ttl_s=3_600)
    assert (b["shares"], b["bytes"]) == (a["lease_id"], 0)
    assert (await at.token("release_lease", a))["status"] == "success"
    await at.looked()
    assert raises(NoCapacity, await at.acquire(20)), "B uses it still"
    assert await at.grantable() == 4.0
    assert raises(StaleFence, await at.token("mark_lease", a, in_use=True)), "it is A's no more"
    at.uses(sleeper, 0)
    await at.token("release_lease", b)
    await at.looked()
    assert (await at.granted(20))["card_uuid"] == CARD


@on_manual_time
async def test_what_was_made_free_for_b_is_not_given_to_who_asks_meanwhile(at: Timed, stubborn: ProcessId) -> None:
    a = await at.held(stubborn, 20, model="a")
    async with at.waiting(20, model="b") as b:
        await at.passes(0.5)
        at.uses(stubborn, 0)
        assert (await at.token("release_lease", a))["status"] == "success", "A gives back what has to go"
        assert raises(NoCapacity, await at.acquire(20, model="c"))
        assert (await at.flows(b))["card_uuid"] == CARD


@on_manual_time
async def test_who_waits_for_a_sleepers_room_has_it_with_the_look_that_shows_the_room(
    at: Timed, sleeper: ProcessId, monkeypatch: pytest.MonkeyPatch
) -> None:
    roomy(at.host, monkeypatch)
    unload = at.serves("doze", lambda: at.uses(sleeper, 0.5)) | {"sleep": "doze"}
    old = await at.held(sleeper, 20, model="old", unload=unload)
    await at.passes(0.26 - at.clock.now % 0.25)  # past a tick, which would serve the line too
    began_at = at.clock.now
    async with at.waiting(20) as asked:
        while not asked.done():
            assert at.clock.now - began_at < 0.1
            at.clock.now += 0.001
            await at.settle()
            await at.until(lambda: bool(len(at.host.leases._line)) or asked.done())
        assert (await at.lease(old["lease_id"]))["state"] == "parked"


@on_manual_time
async def test_a_lease_that_becomes_idle_goes_for_who_waits_at_once(at: Timed, sleeper: ProcessId) -> None:
    old = await at.held(sleeper, 20, model="old", in_use=True)
    await at.passes(0.26 - at.clock.now % 0.25)  # past a tick
    async with at.waiting(20):
        await at.passes(0.05)
        assert (await at.lease(old["lease_id"]))["state"] == "held"
        began_at = at.clock.now
        assert (
            await at.host.ask("mark_lease", lease_id=old["lease_id"], fencing_token=old["fencing_token"], in_use=False)
        )["status"] == "success"
        await at.dies(sleeper)
        assert at.clock.now == began_at


@on_manual_time
async def test_a_lease_that_becomes_idle_just_after_way_was_sought_goes_a_moment_later(
    at: Timed, sleeper: ProcessId
) -> None:
    old = await at.held(sleeper, 20, model="old", in_use=True)
    await at.passes(0.26 - at.clock.now % 0.25)  # past a tick
    began_at = at.clock.now
    async with at.waiting(20):
        await at.until(lambda: bool(len(at.host.leases._line)))
        assert (await at.token("mark_lease", old, in_use=False))["status"] == "success"
        while (await at.lease(old["lease_id"]))["state"] == "held":
            assert at.clock.now - began_at < 0.1
            await at.passes(0.01)
