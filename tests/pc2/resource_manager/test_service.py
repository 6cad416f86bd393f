"""ResourceManager's verbs over two hosts that are well."""

from __future__ import annotations

import asyncio
import os
from contextlib import suppress
from pathlib import Path

import msgspec
import pytest

from common.api import gpus
from common.api import leases as api
from common.api.leases import LeaseChanged, Owner
from common.client.following import Event
from common.errors import (
    DeadlineExceeded,
    IdempotencyMismatch,
    Interrupted,
    NoCapacity,
    NotFound,
    StaleFence,
    TooLarge,
    Unavailable,
)
from common.vram.amount import GIB
from tests.pc2.resource_manager.fabric import RM, Bare, Fabric, Wanting, fabric, manager, two_hosts, until

MAINPC, PC2 = "mainpc", "pc2"


async def test_a_lease_goes_where_it_fits_most_tightly(tmp_path: Path) -> None:
    async with fabric(tmp_path) as rm:
        small, large = await rm.acquire(4), await rm.acquire(16)
        assert (small.host, large.host) == (PC2, MAINPC)
        assert [lease.lease_id for lease in rm.hosts[PC2].live] == [small.lease_id]
        assert [lease.lease_id for lease in rm.hosts[MAINPC].live] == [large.lease_id]
        assert small.expires_in_s == 60
        assert small.bytes == 4 * GIB


async def test_a_request_may_name_its_host_or_its_card(tmp_path: Path) -> None:
    async with fabric(tmp_path, mainpc=(24, 24)) as rm:
        by_host = await rm.acquire(1, host=MAINPC)
        assert by_host.host == MAINPC
        uuid = next(card.card_uuid for card in (await cards(rm)) if (card.host, card.card) == (MAINPC, 1))
        assert (await rm.acquire(1, card_uuid=uuid)).card == 1
        with pytest.raises(NotFound):
            await rm.acquire(1, host="nowhere")


async def test_what_fits_nowhere_is_refused_for_good(tmp_path: Path) -> None:
    async with fabric(tmp_path) as rm:
        with pytest.raises(TooLarge, match="the largest card in question, mainpc:0"):
            await rm.acquire(40, wait_s=5.0)


async def test_no_capacity_says_need_free_and_place(tmp_path: Path) -> None:
    async with fabric(tmp_path) as rm:
        await rm.acquire(20)
        with pytest.raises(NoCapacity) as refused:
            await rm.acquire(20)
        details = refused.value.details
        assert details["need_bytes"] == 20 * GIB
        assert details["free_bytes"] < 4 * GIB
        assert details["position"] == 1
        assert {card["host"] for card in details["cards"]} == {MAINPC, PC2}
        assert refused.value.retry_after_ms


async def test_a_waiter_is_told_its_place_and_served_when_room_comes(tmp_path: Path) -> None:
    async with fabric(tmp_path) as rm:
        first = await rm.acquire(20)
        second, third = rm.begin(20), rm.begin(20)
        await until(lambda: second.told and third.told)
        assert [second.told[0].position, third.told[0].position] == [1, 2]
        assert second.told[0].need_bytes == 20 * GIB
        await rm.release(first)
        granted = await second.granted()
        await until(lambda: third.told[-1].position == 1)
        await rm.release(granted)
        assert (await third.granted()).host == MAINPC


async def test_a_supervisors_own_release_serves_a_waiter_at_once(tmp_path: Path) -> None:
    async with fabric(tmp_path) as rm:
        first = await rm.acquire(20)
        waiting = rm.begin(20)
        await until(lambda: waiting.told)
        held = api.ReleaseLease(lease_id=first.lease_id, fencing_token=first.fencing_token)
        await rm.client.call("Supervisor/mainpc", api.RELEASE_LEASE, held)
        assert (await waiting.granted()).host == MAINPC


async def test_what_was_just_given_back_can_be_had_again_at_once(tmp_path: Path) -> None:
    async with fabric(tmp_path) as rm:
        for _ in range(20):
            await rm.release(await rm.acquire(20))
        assert rm.live == []


async def test_a_wait_that_ends_says_so_in_its_time(tmp_path: Path) -> None:
    async with fabric(tmp_path) as rm:
        await rm.acquire(20)
        with pytest.raises(NoCapacity) as refused:
            await rm.begin(20, wait_s=0.3).granted()
        assert refused.value.details["waited_s"] >= 0.3
        assert refused.value.details["position"] == 1


async def test_a_wait_is_capped_by_the_callers_budget(tmp_path: Path) -> None:
    async with fabric(tmp_path) as rm:
        await rm.acquire(20)

        async def wait_long() -> None:
            while True:
                with suppress(DeadlineExceeded):  # a machine that stood still for a moment lost the answer
                    await rm.acquire(20, wait_s=3_600, timeout_s=1.0)

        with pytest.raises(NoCapacity):
            await wait_long()


async def test_a_caller_that_withdraws_leaves_the_queue(tmp_path: Path) -> None:
    async with fabric(tmp_path) as rm:
        first = await rm.acquire(20)
        gone, next_one = rm.begin(20), rm.begin(20)
        await until(lambda: gone.told and next_one.told)
        await gone.withdraw()
        await until(lambda: next_one.told[-1].position == 1)
        await rm.release(first)
        await next_one.granted()
        explained = await rm.call("explain", subject="m")
        assert "withdrawn" in [receipt["decision"] for receipt in explained["receipts"]]


async def test_a_caller_that_is_gone_without_a_word_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pc2.resource_manager.staying.REPEAT_S", 0.05)
    async with fabric(tmp_path) as rm:
        await rm.acquire(20)
        client = rm.another_client()
        waiting = Wanting(client, api.AcquireLease(model="m", bytes=20 * GIB, wait_s=60))
        await until(lambda: waiting.told)
        assert len(rm.service._staying) == 1
        await client.close()
        with pytest.raises(Interrupted):
            await waiting.granted()
        await until(lambda: len(rm.service._staying) == 0)


async def test_a_lease_is_renewed_and_released_at_its_host(tmp_path: Path) -> None:
    async with fabric(tmp_path) as rm:
        lease = await rm.acquire(4, ttl_s=30)
        held = {"lease_id": lease.lease_id, "fencing_token": lease.fencing_token}
        assert (await rm.call("renew_lease", **held))["expires_in_s"] == 30
        stale = {**held, "fencing_token": lease.fencing_token + 1}
        for verb in ("renew_lease", "release_lease"):
            with pytest.raises(StaleFence):
                await rm.call(verb, **stale)
        await rm.call("release_lease", **held)
        await rm.call("release_lease", **held)
        assert rm.live == []
        with pytest.raises(StaleFence, match="its holder gave it back"):
            await rm.call("renew_lease", **held)
        with pytest.raises(NotFound):
            await rm.call("renew_lease", lease_id="lease-never", fencing_token=1)


async def test_the_same_key_means_the_same_lease(tmp_path: Path) -> None:
    async with fabric(tmp_path) as rm:
        first = await rm.acquire(4, idempotency_key="k")
        again = await rm.acquire(4, idempotency_key="k")
        assert again.lease_id == first.lease_id
        assert len(rm.live) == 1
        with pytest.raises(IdempotencyMismatch):
            await rm.acquire(5, idempotency_key="k")


async def test_an_owner_without_a_host_is_one_of_this_host(tmp_path: Path) -> None:
    async with fabric(tmp_path) as rm:
        lease = await rm.acquire(4, owner=Owner(agent_name="a", pid=os.getpid()))
        (held,) = rm.hosts[lease.host].live
        assert held.owner.host == PC2
        assert held.owner.start_time > 0


async def test_a_lease_for_a_process_that_is_gone_is_refused_at_once(tmp_path: Path) -> None:
    async with fabric(tmp_path) as rm:
        process = await asyncio.create_subprocess_exec("true")
        await process.wait()
        with pytest.raises(NotFound, match=f"process {process.pid}"):
            await rm.acquire(4, wait_s=5.0, owner=Owner(pid=process.pid))
        assert rm.live == []


async def test_a_dead_owners_bytes_go_to_who_waits(tmp_path: Path) -> None:
    async with fabric(tmp_path) as rm:
        process = await asyncio.create_subprocess_exec("sleep", "60")
        await rm.acquire(8, host=PC2, owner=Owner(pid=process.pid))
        waiting = rm.begin(8, host=PC2)
        await until(lambda: waiting.told)
        process.kill()
        await process.wait()
        assert (await waiting.granted()).host == PC2


async def test_lists_show_both_hosts_live(tmp_path: Path) -> None:
    async with fabric(tmp_path) as rm:
        one, two = await rm.acquire(4), await rm.acquire(16)
        listed = await rm.call("list_leases")
        assert {lease["lease_id"] for lease in listed["leases"]} == {one.lease_id, two.lease_id}
        assert listed["missing"] == {}
        only = await rm.call("list_leases", host=PC2)
        assert [lease["lease_id"] for lease in only["leases"]] == [one.lease_id]
        found = {card.host: card for card in await cards(rm)}
        assert found[PC2].leased_bytes == 4 * GIB
        assert found[MAINPC].leased_bytes == 16 * GIB
        assert found[MAINPC].simulated
        for verb in ("list_leases", "get_gpus"):
            with pytest.raises(NotFound, match="there are mainpc, pc2"):
                await rm.call(verb, host="nowhere")


async def test_a_plan_changes_nothing(tmp_path: Path) -> None:
    async with fabric(tmp_path) as rm:
        plan = await rm.call("plan", model="m", bytes=16 * GIB)
        assert (plan["outcome"], plan["host"]) == ("grant", MAINPC)
        assert (await rm.call("plan", model="m", bytes=40 * GIB))["outcome"] == "never"
        assert rm.live == []


async def test_a_plan_weighs_what_each_host_has_beside_its_cards(tmp_path: Path) -> None:
    async with fabric(tmp_path) as rm:
        found = (await rm.call("get_gpus"))["hosts"]
        assert {host["host"] for host in found} == {MAINPC, PC2}
        most = min(host["ram_ceiling_bytes"] for host in found)
        plan = await rm.call("plan", model="m", bytes=GIB, ram_bytes=2**20, cpu_cores=0.1, disk_bytes=2**20)
        assert plan["outcome"] == "grant", plan
        more = await rm.call("plan", model="m", bytes=GIB, ram_bytes=2 * most)
        assert more["outcome"] == "never"
        assert more["reason"].count("of host RAM needed") == 2
        assert all("of host RAM needed" in card["reason"] for card in more["cards"])
        with pytest.raises(TooLarge, match="may be leased"):
            await rm.acquire(1, ram_bytes=2 * most)
        await rm.hosts[PC2].cable.cut()
        alone = await rm.call("plan", model="m", bytes=GIB, ram_bytes=2**20)
        assert (alone["outcome"], alone["host"]) == ("grant", MAINPC)


async def test_a_lease_is_explained_by_the_planner_and_by_its_host(tmp_path: Path) -> None:
    async with fabric(tmp_path) as rm:
        lease = await rm.acquire(4, "whisper")
        await rm.release(lease)
        told = (await rm.call("explain", subject=lease.lease_id))["receipts"]
        assert [receipt["decision"] for receipt in told] == ["released", "granted", "granted"]
        assert any("admitted by pc2" in receipt["reason"] for receipt in told)
        assert any("the tightest fit is pc2:0" in receipt["reason"] for receipt in told)
        assert len((await rm.call("explain", subject="whisper", limit=1))["receipts"]) == 1


async def test_what_happens_to_leases_is_published_once_for_all_hosts(tmp_path: Path) -> None:
    async with fabric(tmp_path) as rm:
        heard: list[tuple[str, str]] = []
        live = asyncio.Event()

        async def follow() -> None:
            async for notice in rm.client.events(RM, ["leases.changed"], live=live.set):
                if isinstance(notice, Event):
                    told = msgspec.json.decode(notice.body, type=LeaseChanged)
                    heard.append((told.change, told.lease.lease_id))

        following = asyncio.create_task(follow())
        await live.wait()
        one, two = await rm.acquire(4), await rm.acquire(16)
        await rm.release(one)
        expected = [("granted", one.lease_id), ("granted", two.lease_id), ("released", one.lease_id)]
        await until(lambda: len(heard) == 3)
        following.cancel()
        assert sorted(heard) == sorted(expected)
        assert (await rm.call("list_leases"))["as_of"]["seq"] == 3


async def test_leases_of_before_are_known_at_once_after_a_start(tmp_path: Path) -> None:
    async with two_hosts(tmp_path) as hosts:
        async with manager(hosts) as rm:
            lease = await rm.acquire(20)
        async with manager(hosts) as rm:
            assert [known.lease_id for known in rm.service._planner.fleet.leases()] == [lease.lease_id]
            with pytest.raises(NoCapacity):
                await rm.acquire(20)
            await rm.release(lease)
            await rm.acquire(20)


async def test_fifty_parallel_acquirers_never_exceed_a_card(tmp_path: Path) -> None:
    async with fabric(tmp_path) as rm:
        worst: dict[str, int] = {}

        async def hold(number: int) -> None:
            lease = await rm.begin(5, f"m{number}").granted()
            for host in rm.hosts.values():
                worst[host.name] = max(worst.get(host.name, 0), sum(each.bytes for each in host.live))
            await asyncio.sleep(0.01)
            await rm.release(lease)

        await asyncio.gather(*(hold(number) for number in range(50)))
        assert worst[MAINPC] == 20 * GIB  # four at a time, and never five
        assert worst[PC2] == 10 * GIB
        assert rm.live == []
        assert len(rm.hosts[MAINPC].granted) + len(rm.hosts[PC2].granted) == 50


async def test_a_bare_req_client_gets_right_answers(tmp_path: Path) -> None:
    async with fabric(tmp_path) as rm:
        bare = Bare(rm.shell.port)
        assert (await bare.ask("ping"))["service"] == RM
        assert (await bare.ask("health_check"))["status"] == "ok"
        verbs = {verb["name"] for verb in (await bare.ask("info"))["verbs"]}
        assert verbs >= {verb.name for verb in api.VERBS}
        lease = await bare.ask("acquire_lease", model="m", bytes=4 * GIB, wait_s=1)
        assert (lease["status"], lease["host"], lease["expires_in_s"]) == ("success", PC2, 60)
        held = {"lease_id": lease["lease_id"], "fencing_token": lease["fencing_token"]}
        assert (await bare.ask("renew_lease", **held))["expires_in_s"] == 60
        assert [each["lease_id"] for each in (await bare.ask("list_leases"))["leases"]] == [lease["lease_id"]]
        assert len((await bare.ask("get_gpus"))["cards"]) == 2
        assert (await bare.ask("plan", model="m", bytes=4 * GIB))["outcome"] == "grant"
        assert (await bare.ask("explain", subject="m"))["receipts"]
        refused = await bare.ask("acquire_lease", model="m", bytes=23 * GIB, host=PC2)
        assert (refused["status"], refused["code"]) == ("error", "too_large")
        assert (await bare.ask("release_lease", **held))["status"] == "success"
        assert (await bare.ask("acquire_lease", model="m"))["code"] == "bad_request"
        assert (await bare.ask("stats"))["status"] == "success"
        bare.close()


async def test_metrics_tell_what_was_granted_and_refused(tmp_path: Path) -> None:
    async with fabric(tmp_path) as rm:
        await rm.acquire(20)
        with pytest.raises(NoCapacity):
            await rm.acquire(20)
        waiting = rm.begin(20)
        await until(lambda: waiting.told)
        shown = rm.shell.metrics.exposition().decode()
        assert "tandem_vram_granted_total 1.0" in shown
        assert 'tandem_vram_refused_total{code="no_capacity"} 1.0' in shown
        assert "tandem_vram_waiting 1.0" in shown
        assert "tandem_vram_hosts_away 0.0" in shown
        await waiting.withdraw()


async def test_who_waits_is_sent_away_when_the_service_ends(tmp_path: Path) -> None:
    async with fabric(tmp_path) as rm:
        await rm.acquire(20)
        waiting = rm.begin(20)
        await until(lambda: waiting.told)
        async with asyncio.timeout(60):
            await rm.service.close()
        with pytest.raises(Unavailable, match="shutting down"):
            await waiting.granted()


async def test_a_caller_whose_budget_ends_first_is_told_which_host_is_silent(tmp_path: Path) -> None:
    async with fabric(tmp_path) as rm:
        rm.hosts[PC2].cable.mute = rm.hosts[MAINPC].cable.mute = True

        async def told() -> Unavailable:
            while True:
                try:
                    await rm.acquire(4, timeout_s=0.6)
                except DeadlineExceeded:  # a machine that stood still for a moment lost the answer
                    continue
                except Unavailable as silent:
                    return silent

        async with asyncio.timeout(60):
            assert (await told()).details["behind"] in (PC2, MAINPC)
        for host in rm.hosts.values():
            await host.cable.cut()
            await host.cable.open()
        await until(lambda: any(host.granted for host in rm.hosts.values()) and not rm.live)


async def cards(rm: Fabric) -> list[gpus.Card]:
    return (await rm.client.call(RM, gpus.GET_GPUS, gpus.GetGpus())).cards
