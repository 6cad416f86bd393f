"""What the service makes of its neighbours: supervisors that come and go, their processes, and the twin."""

from __future__ import annotations

import asyncio

import pytest

from common.api.gpus import CARDS_SAMPLED, Card, CardsSampled
from common.api.leases import LEASE_CHANGED, LeaseChanged
from common.api.supervisor import VITALS_SAMPLED, Vitals
from common.errors import StorageUnavailable
from common.service.call import Call
from common.store.memory import MemoryStore
from main_pc.core_orchestrator import watching
from tests.lab.service_process import ask, until
from tests.main_pc.core_orchestrator.fabric import Core, Dict, FakeSupervisor, core, fake_supervisor, native_agent

PC2 = "Supervisor/pc2"


async def shout(request: Dict, _call: Call) -> Dict:
    return {"result": request["data"].upper()}


async def hears(hub: Core) -> None:
    """Wait until the supervisor of pc2 was listed."""
    await until(
        lambda: hub.call("get_twin", part="services"), lambda twin: f"{PC2}/health" in twin["parts"]["services"]
    )
    await until(lambda: hub.call("health_check"), lambda health: not any(PC2 in lack for lack in health["lacks"]))


async def until_fact(hub: Core, part: str, key: str) -> Dict:
    twin = await until(lambda: hub.call("get_twin", part=part), lambda twin: key in twin["parts"][part])
    fact: Dict = twin["parts"][part][key]
    return fact


def vitals() -> Vitals:
    return Vitals(
        host="pc2", cpu_pct=5.0, load_1m=0.5, cores=8, memory_total_bytes=2, memory_used_bytes=1, swap_used_bytes=0,
        disk_total_bytes=2, disk_free_bytes=1, uptime_s=9.0, processes=3,
    )  # fmt: skip


def cards() -> CardsSampled:
    card = Card(
        host="pc2", card=0, card_uuid="GPU-1", name="sim", total_bytes=12, free_bytes=12, leased_bytes=0, used_bytes=0,
        grantable_bytes=12, simulated=True,
    )  # fmt: skip
    return CardsSampled(host="pc2", cards=[card])


async def test_a_service_that_is_away_is_lacked_and_keeps_nobody_from_being_ready() -> None:
    async with core() as hub:
        health = await until(lambda: hub.call("health_check"), lambda health: len(health["lacks"]) == 3)
        assert (health["ready"], health["status"]) == (True, "ok")
        assert sorted(lack.partition(":")[0] for lack in health["lacks"]) == [
            "ResourceManager",
            "Supervisor/mainpc",
            PC2,
        ]


async def test_a_supervisors_lists_and_events_go_into_the_twin() -> None:
    async with fake_supervisor("pc2") as pc2, core(Supervisor__pc2=pc2.ports) as hub:
        pc2.knows("reader", "ready", "vision")
        await hears(hub)
        assert (await until_fact(hub, "agents", "reader/process"))["source"] == PC2
        publish = pc2.shell.publisher.publish
        for _ in range(2):
            publish(VITALS_SAMPLED, "pc2", vitals())
        publish(CARDS_SAMPLED, "pc2", cards())
        publish(LEASE_CHANGED, "lease-1", LeaseChanged(change="granted", lease=pc2.grants("lease-1")))
        assert (await until_fact(hub, "hosts", "pc2/vitals"))["value"]["cores"] == 8
        assert (await until_fact(hub, "cards", "GPU-1/sample"))["value"]["total_bytes"] == 12
        assert (await until_fact(hub, "leases", "lease-1/lease"))["value"]["host"] == "pc2"
        metrics = (await hub.call("get_metrics", prefix="hosts.pc2."))["metrics"]
        assert metrics["hosts.pc2.cpu_pct"]["value"] == 5.0


async def test_leases_that_were_there_before_are_listed() -> None:
    async with fake_supervisor("pc2") as pc2, core(Supervisor__pc2=pc2.ports) as hub:
        pc2.grants("lease-7")
        assert (await until_fact(hub, "leases", "lease-7/lease"))["source"] == PC2


async def test_an_event_that_cannot_be_read_is_passed_over() -> None:
    async with fake_supervisor("pc2") as pc2, core(Supervisor__pc2=pc2.ports) as hub:
        await hears(hub)
        pc2.shell.publisher.publish(VITALS_SAMPLED, "pc2", cards())
        pc2.shell.publisher.publish(CARDS_SAMPLED, "pc2", cards())
        await until_fact(hub, "cards", "GPU-1/sample")
        assert "pc2/vitals" not in (await hub.call("get_twin", part="hosts"))["parts"]["hosts"]


async def test_a_request_waits_for_an_agent_that_is_starting_and_for_no_other() -> None:
    async with fake_supervisor("pc2") as pc2, core(Supervisor__pc2=pc2.ports) as hub:
        pc2.knows("reader", "starting", "vision")
        pc2.knows("loser", "crash-looping", "audio")
        await hears(hub)
        await until_fact(hub, "agents", "reader/process")
        waiting = await hub.submit("vision", data="x", wait=False)
        assert (waiting["state"], waiting["reason"]) == ("queued", "its agent is starting")
        assert (await hub.client.call("CoreOrchestrator", "get_twin"))["parts"]["agents"]["loser/process"]
        refused = await ask(hub.shell.port, "submit_request", capability="audio")
        assert refused["code"] == "no_provider"
        async with native_agent("reader", vision=shout) as reader:
            await hub.register("reader", reader.port, "vision", dress="native", location="pc2")
            done = await hub.until_state(waiting["request_id"], "done")
            assert (done["result"], done["agent_name"]) == ("X", "reader")


async def test_a_process_that_its_supervisor_saw_end_is_expired_and_ready_again_revives_it() -> None:
    async with fake_supervisor("pc2") as pc2, core(Supervisor__pc2=pc2.ports) as hub:
        await hears(hub)
        for name, location, pid in (("reader", "pc2", 7), ("other", "mainpc", 8)):
            await hub.register(name, 9, "vision", location=location, pid=pid)

        async def liveness() -> Dict:
            agents = (await hub.call("list_agents"))["agents"]
            return {agent["agent_name"]: agent["liveness"] for agent in agents}

        pc2.tells("reader", "starting", "vision", pid=7)
        pc2.tells("other", "stopped", "vision")
        pc2.tells("unknown", "stopped", "vision")
        await until_fact(hub, "agents", "unknown/process")
        assert await liveness() == {"reader": "unpromised", "other": "unpromised"}
        pc2.tells("reader", "draining", "vision")
        pc2.tells("reader", "starting", "vision")
        await until(liveness, lambda seen: seen["reader"] == "expired")
        assert (await liveness())["other"] == "unpromised"
        pc2.tells("reader", "ready", "vision", pid=9)
        await until(liveness, lambda seen: seen["reader"] == "unpromised")


async def test_what_a_dead_agent_worked_on_is_given_to_another_at_once() -> None:
    started = asyncio.Event()

    async def hang(_request: Dict, _call: Call) -> Dict:
        started.set()
        await asyncio.Event().wait()
        return {}

    async with fake_supervisor("pc2") as pc2, core(Supervisor__pc2=pc2.ports) as hub:
        await hears(hub)
        async with native_agent("a", work=hang) as hung, native_agent("b", work=shout) as other:
            await hub.register("a", hung.port, "work", idempotent=["work"], dress="native", location="pc2")
            request = await hub.submit("work", data="x", wait=False)
            await started.wait()
            await hub.register("b", other.port, "work", idempotent=["work"], dress="native")
            pc2.tells("a", "starting", "work")
            assert (await hub.until_state(request["request_id"], "done"))["agent_name"] == "b"


async def test_a_supervisor_that_began_a_new_life_is_listed_anew_and_one_that_left_shows_by_age() -> None:
    async with fake_supervisor("pc2") as pc2, core(Supervisor__pc2=pc2.ports) as hub:
        pc2.knows("reader", "ready", "vision")
        await until_fact(hub, "agents", "reader/process")
        ports = pc2.ports
        await pc2.shell.close(drain_s=0)
        await until(lambda: hub.call("health_check"), lambda health: any(PC2 in lack for lack in health["lacks"]))
        assert (await until_fact(hub, "agents", "reader/process"))["age_s"] > 0
        following = FakeSupervisor("pc2", *ports)
        following.knows("writer", "ready", "text")
        await following.shell.open()
        await until_fact(hub, "agents", "writer/process")
        twin = await hub.call("get_twin", part="agents")
        assert "reader/process" not in twin["parts"]["agents"]
        await following.shell.close(drain_s=0)


async def test_a_bug_in_what_is_made_of_a_neighbour_ends_neither_looking_nor_following(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(watching, "LOOK_S", 0.05)
    monkeypatch.setattr(watching, "FOLLOW_AGAIN_S", 0.05)
    async with fake_supervisor("pc2") as pc2, core(Supervisor__pc2=pc2.ports) as hub:
        await hears(hub)
        twin, observe, fold = hub.service._twin, hub.service._twin.observe, hub.service._twin.fold

        def buggy(*_: object) -> bool:
            raise ZeroDivisionError

        monkeypatch.setattr(twin, "observe", buggy)
        monkeypatch.setattr(twin, "fold", buggy)
        pc2.tells("reader", "ready", "vision")
        await until(lambda: hub.call("health_check"), lambda health: "ZeroDivisionError" in str(health["lacks"]))
        monkeypatch.setattr(twin, "observe", observe)
        monkeypatch.setattr(twin, "fold", fold)
        await hears(hub)
        await until_fact(hub, "agents", "reader/process")
        pc2.tells("writer", "ready", "text")
        await until_fact(hub, "agents", "writer/process")


async def test_deaths_that_were_told_are_remembered_when_memory_is_rebuilt() -> None:
    store = MemoryStore()
    async with fake_supervisor("pc2") as pc2, core(store, Supervisor__pc2=pc2.ports) as hub:
        await hears(hub)
        await hub.register("reader", 9, "vision", location="pc2")

        async def liveness() -> str:
            return str((await hub.call("list_agents"))["agents"][0]["liveness"])

        pc2.tells("reader", "stopped", "vision")
        await until(liveness, lambda seen: seen == "expired")
        store.failure = StorageUnavailable("memory: is full")
        failed = await ask(hub.shell.port, "register_agent", agent_name="x", host="h", port=1, capabilities=["text"])
        assert failed["code"] == "storage_unavailable"
        store.failure = None
        await until(lambda: hub.call("health_check"), lambda health: health["status"] == "ok")
        await until(liveness, lambda seen: seen == "expired")
