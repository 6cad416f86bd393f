"""What has gone wrong wherever free memory is believed: strangers, lost cards, doubt and two writers, seen through NVML."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator

import msgspec
import pytest
import zmq

from common.errors import NoCapacity, StaleFence
from common.gpu.process_identity import is_alive
from common.gpu.simulated import GIB
from common.vram.cards import CardSample, ProcessId
from common.vram.lease_facts import Granted
from tests.common.service.lab import PATIENCE_S, peer, raises
from tests.common.supervisor.leasing.lab import program
from tests.common.supervisor.leasing.manual_time import (
    CARD,
    OTHER_CARD,
    STUBBORN,
    Timed,
    on_manual_time,
    timed,
)
from tests.common.vram.table_lab import AT, Bench

TTL_S = 30.0


@pytest.fixture
def game() -> Iterator[ProcessId]:
    """A program without a lease, which TERM would end."""
    with program() as process:
        yield process


@on_manual_time
async def test_a_stranger_that_takes_memory_between_plan_and_load_is_seen_and_named(at: Timed, game: ProcessId) -> None:
    planned = await at.ask("plan", model="llm", bytes=20 * GIB, card_uuid=CARD)
    assert planned["outcome"] == "grant"
    at.uses(game, 14)
    await at.looked()
    refused = await at.acquire(20, card_uuid=CARD)
    assert raises(NoCapacity, refused)
    assert refused["details"]["free_bytes"] <= 10 * GIB
    assert [(each["pid"], each["bytes"]) for each in (await at.card())["strangers"]] == [(game.pid, 14 * GIB)]
    assert is_alive(*game)


@on_manual_time
async def test_a_stranger_that_frees_memory_while_we_wait_lets_the_first_in_line_go(at: Timed, game: ProcessId) -> None:
    at.uses(game, 14)
    await at.looked()
    async with at.waiting(20) as asked:
        await at.passes(5)
        assert not asked.done()
        at.uses(game, 0)
        assert (await at.flows(asked))["card_uuid"] == CARD
    assert is_alive(*game)


@pytest.mark.parametrize("wrong", [0.7, 1.3])
@on_manual_time
async def test_an_estimate_that_is_wrong_by_30_percent_counts_at_the_larger_figure(
    at: Timed, sleeper: ProcessId, wrong: float
) -> None:
    held = await at.held(sleeper, 10, model="guessed")
    at.uses(sleeper, 10 * wrong)
    await at.looked()
    shown = await at.lease(held["lease_id"])
    assert shown["measured_bytes"] == int(10 * wrong * GIB)
    assert shown["declared_bytes"] == 10 * GIB
    assert shown["bytes"] == max(10 * GIB, int(10 * wrong * GIB))
    assert await at.grantable() == 24 - max(10, 10 * wrong)
    assert ("corrected" in await at.decisions(held["lease_id"])) == (wrong > 1)


@on_manual_time
async def test_a_card_that_falls_off_the_bus_keeps_its_leases_for_a_grace_and_then_ends_them(
    at: Timed, sleeper: ProcessId
) -> None:
    with program() as other:
        lost = await at.held(sleeper, 20, model="lost")
        well = await at.held(other, 5, card=1, model="well")
        at.changes(fault="lost")
        await at.looked()
        card = await at.card()
        assert (card["schedulable"], card["grantable_bytes"]) == (False, 0)
        assert "fallen off the bus" in card["reason"]
        await at.passes(20)
        assert (await at.lease(lost["lease_id"]))["state"] == "held"
        await at.gone(lost["lease_id"])
        assert (await at.decisions(lost["lease_id"]))[-1] == "card-lost"
        assert (await at.lease(well["lease_id"]))["state"] == "held"
        assert raises(NoCapacity, await at.acquire(2, card_uuid=CARD))
        assert is_alive(*sleeper), "a lost card is no reason to end anybody"


@pytest.mark.parametrize("hides", ["bytes", "processes"])
@on_manual_time
async def test_where_nvml_hides_processes_leases_are_unverified_and_the_cards_figures_count(
    at: Timed, sleeper: ProcessId, hides: str
) -> None:
    at.changes(hides=hides)
    held = await at.held(sleeper, 10, model="hidden")
    shown = await at.lease(held["lease_id"])
    assert (shown["verified"], shown["measured_bytes"]) == (False, 0)
    assert await at.grantable() == 14.0, "what the card lacks is what was leased, once"
    at.uses(sleeper, 16)
    await at.looked()
    await at.passes(10)
    assert await at.grantable() == 8.0
    at.uses(sleeper, 10)
    await at.looked()
    async with at.waiting(20) as asked:
        await at.passes(0.5)
        await at.dies(sleeper)
        assert (await at.flows(asked))["card_uuid"] == CARD
    *_, evicted = await at.receipts(held["lease_id"])
    assert evicted["decision"] == "evicted", evicted
    assert [rung["rung"] for rung in evicted["rungs"]] == ["term"]
    assert hides == "bytes" or not evicted["rungs"][0]["verified"], (
        "a process that is listed no more is seen to be gone"
    )
    assert evicted["returned_bytes"] == 10 * GIB, "as the card's free bytes rose"


@on_manual_time
async def test_both_hosts_asked_for_the_same_bytes_during_a_partition_grant_them_once(at: Timed) -> None:
    async with timed(at.folder, name="pc2") as pc2:
        here, there = [await each.acquire(20, card_uuid=CARD) for each in (at, pc2)]
        assert here["status"] == "success"
        assert raises(NoCapacity, there), "a card has one writer"
        assert "owned by mainpc" in str(there["details"]["cards"][0]["reason"])
        assert raises(NoCapacity, await pc2.acquire(1)), "and so has the other one"
        elsewhere = await pc2.acquire(1, host="mainpc")
        assert elsewhere["status"] == "error", "a grant for another host's card is not its to give"
        assert (await at.lease(here["lease_id"]))["state"] == "held"
        assert (await pc2.ask("list_leases"))["leases"] == []


@on_manual_time
async def test_concurrent_claims_against_one_stale_measurement_never_add_up_to_more_than_it(at: Timed) -> None:
    before = at.host.leases._cards._sampler
    assert before is not None
    looked_at = before.began_at
    async with peer(at.host.shell.port, zmq.DEALER) as caller:
        for number in range(6):
            asked = {"action": "acquire_lease", "model": f"m{number}", "bytes": 10 * GIB, "card_uuid": CARD}
            await caller.send(msgspec.json.encode(asked))
        replies = [msgspec.json.decode((await caller.receive())[0]) for _ in range(6)]
    assert before.began_at == looked_at, "nobody looked between them"
    assert [reply["status"] for reply in replies].count("success") == 2
    assert await at.grantable() == 4.0


@on_manual_time
async def test_a_renewal_that_would_revive_an_expired_lease_is_refused(at: Timed) -> None:
    late = await at.granted(20, ttl_s=TTL_S)
    at.clock.now += TTL_S
    renewed = await at.host.ask("renew_lease", lease_id=late["lease_id"], fencing_token=late["fencing_token"])
    assert raises(StaleFence, renewed)
    await at.looked()
    successor = await at.granted(20)
    assert raises(StaleFence, await at.token("renew_lease", late))
    assert raises(StaleFence, await at.token("release_lease", late)) or not await at.lease(late["lease_id"])
    assert (await at.lease(successor["lease_id"]))["state"] == "held"


@on_manual_time
async def test_a_failed_probe_is_not_read_as_free_memory_and_ends_no_eviction(at: Timed) -> None:
    with program(sys.executable, "-c", STUBBORN) as process:
        asked_to: list[float] = []
        unload = at.serves("forget", lambda: asked_to.append(at.clock.now)) | {"unload": "forget"}
        held = await at.held(process, 20, unload=unload)
        async with at.waiting(20) as asked:
            await at.until(lambda: bool(asked_to))
            at.changes(fault="memory_unreadable")
            await at.passes(4)
            card = await at.card()
            assert (card["schedulable"], card["grantable_bytes"]) == (False, 0)
            assert (await at.lease(held["lease_id"]))["state"] == "expiring", "no bytes were seen to go"
            assert not asked.done()
            at.changes(fault="")
            await at.passes(20)
            await at.dies(process)
            assert (await at.flows(asked))["card_uuid"] == CARD


@on_manual_time
async def test_a_heartbeat_without_a_sample_ages_no_lease_out(
    at: Timed, sleeper: ProcessId, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = await at.held(sleeper, 20)
    kept = await at.granted(2, ttl_s=TTL_S, card_uuid=OTHER_CARD)
    monkeypatch.setenv("TANDEM_NVML_WITHOUT", "driver")
    for _ in range(6):
        await at.passes(20)
        assert (await at.token("renew_lease", kept))["status"] == "success"
    assert {each["lease_id"] for each in (await at.ask("list_leases"))["leases"]} == {
        held["lease_id"],
        kept["lease_id"],
    }
    refused = await at.acquire(1)
    assert raises(NoCapacity, refused)
    assert "NVML does not answer" in str(refused["details"])
    monkeypatch.delenv("TANDEM_NVML_WITHOUT")
    await at.looked()
    assert (await at.granted(1))["status"] == "success"


@on_manual_time
async def test_a_load_that_was_measured_and_leased_counts_once(at: Timed, sleeper: ProcessId) -> None:
    await at.held(sleeper, 14, model="loading")
    assert await at.grantable() == 10.0
    assert (await at.granted(9.5, model="next", card_uuid=CARD))["card_uuid"] == CARD
    os.kill(sleeper.pid, signal.SIGKILL)
    await at.dies(sleeper)
    await at.looked()
    assert await at.grantable() == 14.5


@on_manual_time
async def test_whose_lease_ends_while_its_card_is_looked_at_is_no_stranger_to_yield_to(
    at: Timed, sleeper: ProcessId, game: ProcessId, monkeypatch: pytest.MonkeyPatch
) -> None:
    ending = await at.held(sleeper, 10, model="ending")
    idle = await at.held(game, 13, model="idle")
    sampler = at.host.leases._cards._sampler
    assert sampler is not None
    sample, seen, told = sampler._cards.sample, threading.Event(), threading.Event()

    def slowly(now: float) -> list[CardSample]:
        found = sample(now)
        seen.set()
        told.wait(PATIENCE_S)
        return found

    monkeypatch.setattr(sampler._cards, "sample", slowly)
    at.clock.now += 1.0
    sampler.look(at.host.leases._writer.table.owners())
    await at.until(seen.is_set)
    at.uses(sleeper, 0)
    released = {"lease_id": ending["lease_id"], "fencing_token": ending["fencing_token"]}
    assert (await at.host.ask("release_lease", **released))["status"] == "success"
    told.set()
    await at.passes(2)
    assert await at.decisions(idle["lease_id"]) == ["granted"]
    assert is_alive(*game)


@pytest.fixture(scope="module")
def crowded() -> tuple[Bench, Bench]:
    """1,000 cards with a lease each, and with ten each."""
    few, many = (Bench(**{f"c{number}": 24.0 for number in range(1_000)}) for _ in range(2))
    for bench, each in ((few, 1), (many, 10)):
        (first,) = bench.admit("lease-0", 1, card_uuid="GPU-c0").facts
        assert isinstance(first, Granted)
        for number in range(1, 1_000 * each):
            record = msgspec.structs.replace(
                first.record,
                lease_id=f"lease-{number}",
                fencing_token=first.record.fencing_token + number,
                card=number % 1_000,
                card_uuid=f"GPU-c{number % 1_000}",
            )
            bench.table.apply(Granted(record), bench.now)
        bench.look()
    return few, many


def calls_of(decide: Callable[[], object]) -> int:
    """How many functions a decision calls."""
    calls = 0

    def count(_frame: object, event: str, _argument: object) -> None:
        nonlocal calls
        calls += event == "call"

    sys.setprofile(count)
    try:
        decide()
    finally:
        sys.setprofile(None)
    return calls


def test_10_000_leases_on_1_000_cards_are_decided_about_in_microseconds(crowded: tuple[Bench, Bench]) -> None:
    many = crowded[1]
    assert len(many.table) == 10_000
    decided: dict[int, int] = {}
    for bench in crowded:
        bench.table.candidates(bench.now)

        def decide(bench: Bench = bench) -> object:
            return bench.table.admit(bench.ask("new", 1), bench.now, AT)

        decided[len(bench.table)] = calls_of(decide)
    assert decided[10_000] <= decided[1_000] * 1.1, "ten times the leases are not looked at"
    assert decided[10_000] <= 20 * 1_000, "and each card only at a glance"
    assert soonest_s(lambda: many.table.admit(many.ask("new", 1), many.now, AT)) < 0.05


def soonest_s(decide: Callable[[], object], times: int = 20) -> float:
    """The shortest of some times that the decision took."""
    took: list[float] = []
    for _ in range(times):
        began = time.perf_counter()
        decide()
        took.append(time.perf_counter() - began)
    return min(took)


@on_manual_time
async def test_memory_that_is_waited_for_is_looked_for_without_delay(at: Timed) -> None:
    watch = at.host.leases._cards
    await at.settle()
    sampler, began_at = watch._sampler, at.clock.now
    assert sampler is not None
    watch._look()
    await at.settle()
    at.clock.now += 0.005
    watch.look_soon()
    await at.settle()
    assert sampler.began_at == began_at
    watch.look_closely()
    await at.settle()
    assert sampler.began_at == began_at + 0.005
    await at.passes(0.05)
    assert sampler.began_at == began_at + 0.005, "one look has answered both"
