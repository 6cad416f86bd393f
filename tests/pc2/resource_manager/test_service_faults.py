"""ResourceManager when links, hosts, callers and its store are not well."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any, cast

import pytest

from common.api import leases as api
from common.api.basic import EventsSince
from common.api.gpus import CARDS_SAMPLED, CardsSampled, GetGpus
from common.api.leases import AcquireLease, Leases
from common.api.words import Cursor
from common.errors import (
    Cancelled,
    Conflict,
    Internal,
    NoCapacity,
    StorageUnavailable,
    TandemError,
    Unavailable,
)
from common.security import rights
from common.service.call import Call
from common.service.shell import ShellSettings
from common.store.memory import MemoryStore
from common.store.protocol import Durability
from common.store.sqlite import SqliteStore
from common.vram.amount import GIB
from pc2.resource_manager import intents
from pc2.resource_manager.instructions import Reply
from pc2.resource_manager.intents import Intent
from pc2.resource_manager.service import ResourceManager
from tests.lab.full_store import FullStore
from tests.lab.nowhere import nobody_but
from tests.pc2.resource_manager.fabric import (
    PLANNER,
    RM,
    fabric,
    manager,
    two_hosts,
    until,
)

MAINPC, PC2 = "mainpc", "pc2"


def stored(store: MemoryStore) -> list[Intent]:
    return intents.load(store)


# hosts that are away


async def test_a_request_goes_elsewhere_when_a_host_cannot_be_asked(tmp_path: Path) -> None:
    async with fabric(tmp_path) as rm:
        await rm.hosts[PC2].cable.cut()
        assert (await rm.acquire(4)).host == MAINPC


async def test_a_host_that_is_away_is_missing_with_its_last_known_part(tmp_path: Path) -> None:
    async with fabric(tmp_path) as rm:
        lease = await rm.acquire(4)
        assert lease.host == PC2
        await until(lambda: rm.service._planner.fleet.leases(PC2))
        await rm.hosts[PC2].cable.cut()
        listed = await rm.call("list_leases")
        assert [each["lease_id"] for each in listed["leases"]] == [lease.lease_id]
        assert "as last told" in listed["missing"][PC2]
        assert any(why in listed["missing"][PC2] for why in ("nobody listens", "was lost"))
        gpus = await rm.call("get_gpus")
        assert [(card["host"], card["schedulable"]) for card in gpus["cards"]] == [(MAINPC, True), (PC2, False)]
        assert set(gpus["missing"]) == {PC2}
        with pytest.raises(Unavailable):
            await rm.release(lease)


async def test_a_host_that_was_never_there_is_a_lack_and_no_reason_not_to_be_ready(tmp_path: Path) -> None:
    async with two_hosts(tmp_path) as hosts:
        await hosts[PC2].cable.cut()
        async with manager(hosts) as rm:
            health = rm.shell.report()
            assert (health.ready, health.status) == (True, "ok")
            assert list(rm.hosts_lacked) == ["Supervisor/pc2"]
            assert any(lack.startswith("pc2: its supervisor cannot be asked: nobody listens") for lack in health.lacks)
            assert (await rm.acquire(4)).host == MAINPC
            with pytest.raises(NoCapacity, match="pc2: its supervisor cannot be asked"):
                await rm.acquire(4, host=PC2)
            waiting = rm.begin(4, host=PC2)
            await until(lambda: waiting.told)
            await hosts[PC2].cable.open()
            assert (await waiting.granted()).host == PC2
            await until(lambda: not rm.hosts_lacked)


async def test_a_silent_host_is_asked_and_away_only_when_it_does_not_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("common.client.keeping_up.SILENT_S", 0.2)
    monkeypatch.setattr("pc2.resource_manager.watching.ASK_S", 0.5)
    async with fabric(tmp_path) as rm:  # beats come once a second: every host is silent between them
        lease = await rm.acquire(4)
        await until(lambda: rm.service._planner.fleet.host_of(lease.lease_id) == PC2)
        assert not rm.hosts_lacked
        rm.hosts[PC2].cable.mute = True
        await until(lambda: list(rm.hosts_lacked) == ["Supervisor/pc2"])
        assert "cannot be asked" in rm.shell.lacks["Supervisor/pc2"]
        rm.hosts[PC2].cable.mute = False
        await until(lambda: not rm.hosts_lacked)
        assert rm.service._planner.fleet.host_of(lease.lease_id) == PC2


async def test_what_changed_unheard_is_published_when_the_host_is_back(tmp_path: Path) -> None:
    async with two_hosts(tmp_path) as hosts, manager(hosts) as rm:
        kept, lost = await rm.acquire(2), await rm.acquire(2)
        fleet = rm.service._planner.fleet
        await until(lambda: len(fleet.leases()) == 2)
        watched = rm.service._watching.hosts[PC2]
        remaining = [lease for lease in hosts[PC2].live if lease.lease_id == kept.lease_id]
        before = rm.shell.publisher.cursor("leases.changed").seq
        watched.tell_differences(Leases(leases=remaining, as_of=Cursor(epoch=1, seq=1)))
        asked = rm.shell.publisher.cursor("leases.changed")
        since = EventsSince(topic="leases.changed", epoch=asked.epoch, seq=before)
        (told,) = rm.shell.publisher.since(since).events
        assert told.entity == lost.lease_id
        assert "was not heard" in told.event["reason"]


async def test_a_host_that_answers_for_another_is_away(tmp_path: Path) -> None:
    async with two_hosts(tmp_path) as hosts:
        crossed = f"Supervisor/mainpc={hosts[PC2].shell.port}:{hosts[PC2].shell.events_port}@127.0.0.1"
        places = nobody_but(hosts[PC2].place, crossed)
        service = ResourceManager(ShellSettings(RM, "pc2", 0), places, MemoryStore(), MemoryStore(), PLANNER)
        await service.open()
        try:
            assert "this is pc2's supervisor" in service.shell.report().lacks[0]
            assert [card.host for card in service._planner.fleet.cards()] == [PC2]
        finally:
            await service.close()


async def test_an_event_that_cannot_be_read_is_passed_over(tmp_path: Path) -> None:
    async with fabric(tmp_path) as rm:
        publisher = rm.hosts[PC2].shell.publisher
        publisher.publish(CARDS_SAMPLED, PC2, GetGpus())
        publisher.publish(api.LEASE_CHANGED, "x", GetGpus())
        assert (await rm.acquire(4)).host == PC2
        await until(lambda: rm.service._planner.fleet.leases(PC2))


async def test_a_supervisor_that_lost_its_memory_is_listed_anew(tmp_path: Path) -> None:
    async with fabric(tmp_path) as rm:
        await rm.acquire(4)
        fleet = rm.service._planner.fleet
        await until(lambda: fleet.leases(PC2))
        rm.hosts[PC2].shell.publisher._epoch += 1
        fleet.listed(PC2, Leases(leases=[], as_of=Cursor(epoch=1, seq=1)), 0.0)
        await until(lambda: fleet.leases(PC2))


# links that die midway


@pytest.mark.parametrize("key", ["", "k"])
async def test_a_grant_whose_reply_was_lost_is_found_again_and_never_doubled(tmp_path: Path, key: str) -> None:
    async with fabric(tmp_path) as rm:
        cable = rm.hosts[PC2].cable
        cable.mute = True
        asked = rm.begin(4, idempotency_key=key)
        await until(lambda: rm.hosts[PC2].live)
        assert not asked.done
        await cable.cut()
        await cable.open()
        lease = await asked.granted()
        assert [each.lease_id for each in rm.live] == [lease.lease_id]
        assert len(rm.hosts[PC2].granted) == 1
        assert rm.hosts[MAINPC].granted == []


async def test_an_unheard_grant_without_a_key_is_given_back_when_its_caller_is_gone(tmp_path: Path) -> None:
    store = MemoryStore()
    async with fabric(tmp_path, store=store) as rm:
        cable = rm.hosts[PC2].cable
        cable.mute = True
        asked = rm.begin(4)
        await until(lambda: rm.hosts[PC2].live)
        await asked.withdraw()
        await cable.cut()
        await cable.open()
        await until(lambda: not rm.live)
        await until(lambda: not stored(store))


async def test_a_caller_is_answered_when_a_host_stays_silent(tmp_path: Path) -> None:
    async with fabric(tmp_path) as rm:
        rm.hosts[PC2].cable.mute = True
        with pytest.raises(Unavailable, match="pc2 did not answer in time"):
            await rm.acquire(4)
        await rm.hosts[PC2].cable.cut()
        await rm.hosts[PC2].cable.open()
        await until(lambda: rm.hosts[PC2].granted and not rm.live)


async def test_a_keys_caller_finds_its_lease_after_a_silent_host_is_back(tmp_path: Path) -> None:
    async with fabric(tmp_path) as rm:
        rm.hosts[PC2].cable.mute = True
        with pytest.raises(TandemError):
            await rm.acquire(4, idempotency_key="k", timeout_s=0.5)
        await rm.hosts[PC2].cable.cut()
        await rm.hosts[PC2].cable.open()
        await until(lambda: not rm.hosts_lacked)
        deadline = asyncio.get_running_loop().time() + 60
        while True:
            try:
                lease = await rm.acquire(4, idempotency_key="k")
                break
            except (Conflict, Unavailable):  # it was given up meanwhile: a new key would do
                assert asyncio.get_running_loop().time() < deadline
                await asyncio.sleep(0.05)
        assert [each.lease_id for each in rm.live] == [lease.lease_id]


async def test_a_lease_that_could_not_be_given_back_is_tried_again(tmp_path: Path) -> None:
    async with fabric(tmp_path) as rm:
        pc2 = rm.hosts[PC2]
        pc2.cable.mute = True
        asked = rm.begin(4)
        await until(lambda: pc2.live)
        await asked.withdraw()
        refusals = 2
        route = pc2.shell.routes.get("release_lease")
        assert route is not None
        really = route.handler

        def release(request: api.ReleaseLease, call: Call) -> object:
            nonlocal refusals
            refusals -= 1
            if refusals >= 0:
                raise StorageUnavailable("as asked")
            return really(request, call)

        object.__setattr__(route, "handler", release)
        await pc2.cable.cut()
        await pc2.cable.open()
        await until(lambda: not pc2.live)
        assert refusals == -1


# callers whose answer was lost


class Peer:
    """Where the parts of an answer go; one that is gone takes none."""

    streams = True

    def __init__(self, gone: bool) -> None:
        self.gone = gone

    def part(self, _value: object) -> bool:
        return not self.gone


def a_call(gone: bool = False) -> Call:
    return Call(cast("Any", Peer(gone)), "acquire_lease", rights.local("pc2"), 0.0, None, None)


@pytest.mark.parametrize("key", ["", "k"])
async def test_a_caller_cancelled_at_the_very_grant_leaves_no_lease_that_nobody_can_claim(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, key: str
) -> None:
    async with fabric(tmp_path) as rm:
        staying = rm.service._staying
        really = staying.reply

        def reply(told: Reply) -> None:
            really(told)
            task.cancel()

        with monkeypatch.context() as patched:
            patched.setattr(staying, "reply", reply)
            asked = AcquireLease(model="m", bytes=4 * GIB, idempotency_key=key)
            task = asyncio.create_task(staying.acquire(asked, a_call()))
            with pytest.raises(asyncio.CancelledError):
                await task
        if key:
            lease = await rm.acquire(4, idempotency_key=key)
            assert [each.lease_id for each in rm.live] == [lease.lease_id]
        else:
            await until(lambda: rm.hosts[PC2].granted and not rm.live)


@pytest.mark.parametrize("key", ["", "k"])
async def test_a_caller_that_left_before_its_grant_was_durable_leaves_no_lease_that_nobody_can_claim(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, key: str
) -> None:
    async with fabric(tmp_path) as rm:
        staying = rm.service._staying
        really = staying.reply

        def reply(told: Reply) -> None:
            staying._here[told.call].end(Cancelled("gone"))
            really(told)

        with monkeypatch.context() as patched:
            patched.setattr(staying, "reply", reply)
            with pytest.raises(Cancelled):
                await rm.acquire(4, idempotency_key=key)
        if key:
            lease = await rm.acquire(4, idempotency_key=key)
            assert [each.lease_id for each in rm.live] == [lease.lease_id]
        else:
            await until(lambda: rm.hosts[PC2].granted and not rm.live)


async def test_a_caller_that_takes_no_progress_leaves_the_queue(tmp_path: Path) -> None:
    async with fabric(tmp_path) as rm:
        staying = rm.service._staying
        first = await rm.acquire(20)
        with pytest.raises(Cancelled):
            await staying.acquire(AcquireLease(model="m", bytes=20 * GIB, wait_s=5.0), a_call(gone=True))
        await rm.release(first)
        assert rm.live == []


async def test_an_answer_that_failed_with_its_group_leaves_no_lease_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = FullStore()
    async with fabric(tmp_path, store=store) as rm:
        staying, journal = rm.service._staying, rm.shell.journal
        really = staying.reply

        def reply(told: Reply) -> None:
            really(told)
            journal.write([intents.INTENTS.delete("another's")])  # somebody else's change joins the answer's group
            store.full = True

        monkeypatch.setattr(staying, "reply", reply)
        with pytest.raises(StorageUnavailable):
            await rm.acquire(4)
        store.full = False
        await until(lambda: rm.hosts[PC2].granted and not rm.live)


# the store


async def test_a_full_disk_refuses_and_recovers_and_nothing_acknowledged_is_lost(tmp_path: Path) -> None:
    store = FullStore()
    async with fabric(tmp_path, store=store) as rm:
        before = await rm.acquire(2, idempotency_key="before")
        store.full = True
        for _ in range(3):
            with pytest.raises(StorageUnavailable):
                await rm.acquire(2)
        assert rm.shell.report().status == "degraded"
        assert [each.lease_id for each in rm.live] == [before.lease_id]
        assert (await rm.acquire(2, idempotency_key="before")).lease_id == before.lease_id
        assert (await rm.call("get_gpus"))["missing"] == {}
        await until(lambda: "still full" in rm.shell.report().reasons[0])
        store.full = False
        await until(lambda: rm.shell.report().status == "ok")
        await rm.acquire(2)
        assert len(rm.live) == 2


async def test_a_grant_that_could_not_be_acknowledged_is_given_back(tmp_path: Path) -> None:
    store = FullStore()
    async with fabric(tmp_path, store=store) as rm:
        pc2 = rm.hosts[PC2]
        pc2.cable.mute = True
        asked = rm.begin(4)
        await until(lambda: pc2.live)
        store.full = True
        await pc2.cable.cut()
        await pc2.cable.open()
        with pytest.raises(StorageUnavailable):
            await asked.granted()
        await until(lambda: not rm.live)


async def test_intents_of_a_former_life_are_kept_in_its_file(tmp_path: Path) -> None:
    async with two_hosts(tmp_path) as hosts:
        file = tmp_path / "resource_manager.db"
        async with manager(hosts, SqliteStore(file, "resource_manager")) as rm:
            lease = await rm.acquire(4, idempotency_key="k")
            await rm.acquire(1)
        async with manager(hosts, SqliteStore(file, "resource_manager")) as rm:
            assert (await rm.acquire(4, idempotency_key="k")).lease_id == lease.lease_id
            assert len(rm.live) == 2


async def test_what_nobody_can_claim_after_a_restart_is_given_back(tmp_path: Path) -> None:
    async with two_hosts(tmp_path) as hosts:
        store = MemoryStore()
        asked = AcquireLease(model="m", bytes=4 * GIB)
        intent = Intent(lease_id="lease-1", host=PC2, card_uuid="", identity="i", request=asked, at="")
        store.commit([intents.INTENTS.put("lease-1", intent)], Durability.NORMAL)
        async with manager(hosts, store) as rm:
            await until(lambda: hosts[PC2].granted and not rm.live)
            await until(lambda: not stored(store))


async def test_a_port_that_is_taken_is_told_and_nothing_is_left_open(tmp_path: Path) -> None:
    async with fabric(tmp_path) as rm:
        settings = ShellSettings(RM, "pc2", rm.shell.port)
        second = ResourceManager(settings, rm.places, MemoryStore(), MemoryStore())
        with pytest.raises(Conflict):
            await second.open()
        assert second.shell.phase == "stopped"


# a bug on the way


async def test_a_bug_on_the_way_to_a_supervisor_is_an_internal_error_and_no_endless_wait(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with fabric(tmp_path) as rm:

        async def broken(*_: object, **__: object) -> object:
            raise ZeroDivisionError

        monkeypatch.setattr(rm.service._client, "call", broken)
        with pytest.raises(Internal, match="ZeroDivisionError"):
            await rm.acquire(4)


async def test_a_bug_while_following_a_host_ends_nothing_for_good(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with fabric(tmp_path) as rm:
        watched = rm.service._watching.hosts[PC2]

        def broken(*_: object) -> None:
            raise ZeroDivisionError

        with monkeypatch.context() as patched:
            patched.setattr(watched, "take", broken)
            rm.hosts[PC2].shell.publisher.publish(CARDS_SAMPLED, PC2, CardsSampled(host=PC2, cards=[]))
            await until(lambda: "ZeroDivisionError" in "".join(rm.shell.report().lacks))
        await until(lambda: not rm.hosts_lacked)
        assert (await rm.acquire(4)).host == PC2


# the end, and the way of a renewal


async def test_an_ask_under_way_at_the_end_is_waited_for_and_then_left_to_the_next_life(tmp_path: Path) -> None:
    async with two_hosts(tmp_path) as hosts:
        file = tmp_path / "resource_manager.db"
        async with manager(hosts, SqliteStore(file, "resource_manager")) as rm:
            hosts[PC2].cable.mute = True
            asked = rm.begin(4, idempotency_key="k")
            await until(lambda: hosts[PC2].live)
            await rm.service.close()
            with pytest.raises(Unavailable):
                await asked.granted()
        await hosts[PC2].cable.cut()
        await hosts[PC2].cable.open()
        async with manager(hosts, SqliteStore(file, "resource_manager")) as rm:
            lease = await rm.acquire(4, idempotency_key="k")
            assert [each.lease_id for each in rm.live] == [lease.lease_id]


async def test_a_lease_that_no_host_within_reach_knows_may_be_on_one_that_is_away(tmp_path: Path) -> None:
    async with two_hosts(tmp_path) as hosts:
        await hosts[PC2].cable.cut()
        async with manager(hosts) as rm:
            with pytest.raises(Unavailable):
                await rm.call("renew_lease", lease_id="lease-1", fencing_token=1)
            explained = await rm.call("explain", subject="lease-1")
            assert explained["receipts"] == []
