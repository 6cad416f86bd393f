from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from common.api.decisions import PlanLease
from common.api.leases import Lease, LeaseChanged, Owner
from common.api.supervisor import AdmitLease, MakeRoom
from common.errors import StorageUnavailable
from common.gpu.simulated import GIB, SimulatedCards, ensure_cards, use_bytes
from common.store.open import open_store
from common.supervisor.leasing.footprints import ENGINES, PATIENCE_S, SETTLED_S, Learning
from common.vram.demand import ModelKey
from common.vram.footprint import DEFAULT, FOOTPRINTS, FootprintPolicy, Footprints
from tests.common.supervisor.leasing.lab import Host, card_folder, host, owner, program

QUICK = FootprintPolicy(warm_up_s=0.0, least_looks=3)
KEY = ModelKey("qwen")


def lease(**fields: Any) -> Lease:
    told: dict[str, Any] = {
        "lease_id": "lease-1",
        "model": "qwen",
        "bytes": 10 * GIB,
        "measured_bytes": 0,
        "verified": True,
        "priority": 50,
        "host": "mainpc",
        "card": 0,
        "card_uuid": "GPU-a",
        "card_uuids": ["GPU-a"],
        "fencing_token": 1,
        "owner": Owner(pid=7, start_time=7),
        "identity": "",
        "ttl_s": 60.0,
        "expires_in_s": 60.0,
        "granted_at": "",
        "declared_bytes": 10 * GIB,
    }
    return Lease(**told | fields)


class Desk:
    """Learning, told of leases by hand at times by hand."""

    def __init__(self, policy: FootprintPolicy = DEFAULT) -> None:
        self.now = 1_000.0
        self.there: list[Lease] = []
        self.marked: list[str] = []
        self.written: list[Any] = []
        self.held: list[Callable[[object], None]] = []
        self.capacity = 24 * GIB
        self.storing = True
        self.known = Footprints("mainpc", policy)
        self.listeners: list[Callable[[LeaseChanged], None]] = []
        journal = SimpleNamespace(write=self.written.extend, hold=self.held.append)
        shell = SimpleNamespace(clock=SimpleNamespace(monotonic=lambda: self.now), journal=journal)
        table = SimpleNamespace(leases=lambda _: self.there, candidates=self._candidates, loaded=self._loaded)
        writer = SimpleNamespace(
            listeners=self.listeners, table=table, make_sound=self._make_sound, record=lambda decision: decision
        )
        self.learning = Learning(cast("Any", shell), "mainpc", cast("Any", writer), self.known)

    def _make_sound(self) -> None:
        if not self.storing:
            raise StorageUnavailable("the disk is full")

    def _candidates(self, _: float) -> list[Any]:
        return [SimpleNamespace(capacity_bytes=self.capacity)]

    def _loaded(self, lease_ids: list[str], _: float) -> None:
        self.marked += lease_ids

    def heard(self, change: Any, **fields: Any) -> None:
        for listener in self.listeners:
            listener(LeaseChanged(change=change, lease=lease(**fields)))

    def look(self, gib: float, seconds: float = 0.5, looks: int = 1, **fields: Any) -> None:
        """Looks, so many seconds apart, that show the one lease to hold so much."""
        for _ in range(looks):
            self.now += seconds
            self.there = [lease(measured_bytes=int(gib * GIB), **fields)]
            self.learning.looked()

    def load_s(self) -> dict[Any, float]:
        return self.known.get(KEY).load_s


def test_a_load_is_timed_from_the_grant_until_most_of_the_lease_is_seen_to_be_held() -> None:
    desk = Desk()
    desk.heard("granted")
    desk.look(1.0, 2.0, 3)
    assert desk.load_s() == {}
    desk.look(9.5, 2.0)
    assert desk.load_s() == {"cold": 8.0}
    assert desk.marked == ["lease-1"], "others learn that it has loaded"
    assert (desk.learning.figures.loads["cold"], desk.learning.figures.seconds["cold"]) == (1, 8.0)
    desk.look(9.5, 2.0, 5)
    assert desk.marked == ["lease-1"]


def test_looks_that_follow_closely_while_others_go_say_no_more_of_a_model_than_one_does() -> None:
    desk = Desk()
    desk.heard("granted", loaded=True)
    desk.look(10.0, 31.0, loaded=True)
    desk.look(10.0, 31.0, loaded=True)
    desk.look(4.0, 0.002, 100, loaded=True)
    assert desk.known.get(KEY).measured_bytes == 0, "it was idle for a fifth of a second"
    desk.look(9.0, 0.5, 30, loaded=True)
    assert desk.known.get(KEY).measured_bytes > 8 * GIB


def test_a_load_that_its_holder_tells_of_is_timed_to_that_moment() -> None:
    desk = Desk()
    desk.heard("granted")
    desk.look(1.0, 2.0)
    desk.now += 0.25
    desk.heard("marked", loaded=True)
    desk.heard("marked", loaded=True)
    assert desk.load_s() == {"cold": 2.25}
    desk.look(1.0, 2.0, loaded=True)
    assert desk.marked == []


def test_the_tier_of_a_load_is_where_its_weights_were() -> None:
    desk = Desk()
    desk.heard("granted")
    desk.look(1.0, 4.0)
    desk.look(9.5, 4.0)
    desk.heard("parked", state="parked")
    desk.look(0.5, 1.0, state="parked")
    desk.heard("granted")
    desk.look(1.0)
    desk.look(9.5)
    desk.heard("released")
    desk.there = []
    desk.learning.looked()
    desk.heard("granted")
    desk.look(1.0, 2.0)
    desk.look(9.5, 2.0)
    assert desk.load_s() == {"cold": 8.0, "parked": 1.0, "cached": 4.0}


def test_what_was_loaded_before_anybody_looked_is_not_timed() -> None:
    desk = Desk()
    desk.heard("granted")
    desk.look(9.5)
    assert (desk.load_s(), desk.marked) == ({}, ["lease-1"])
    restarted = Desk()
    restarted.look(1.0)
    restarted.look(9.5)
    assert (restarted.load_s(), restarted.marked) == ({}, ["lease-1"])
    told = Desk()
    told.look(9.5, loaded=True)
    told.look(9.5, 31.0, looks=1, loaded=True)
    assert (told.load_s(), told.known.get(KEY).looks) == ({}, 1)


def test_who_holds_much_less_than_its_lease_has_loaded_when_it_grows_no_more() -> None:
    desk = Desk()
    desk.heard("granted")
    desk.look(2.0)
    desk.look(4.0, 1.0)
    desk.look(4.0, SETTLED_S - 1)
    assert desk.marked == []
    desk.look(4.0, 1.0)
    assert (desk.marked, desk.load_s()) == (["lease-1"], {}), "when it had loaded nobody saw"


def test_bytes_are_learned_of_a_warm_model_alone_with_its_process() -> None:
    desk = Desk(QUICK)
    desk.heard("granted")
    desk.look(13.0, looks=5)
    need = desk.known.get(KEY).need_bytes
    assert 13 * GIB < need < 13.6 * GIB
    hidden = Desk(QUICK)
    hidden.look(13.0, looks=5, verified=False)
    assert (hidden.known.get(KEY).looks, hidden.marked) == (0, [])
    two = Desk(QUICK)
    for _ in range(5):
        two.now += 1.0
        two.there = [lease(measured_bytes=13 * GIB), lease(lease_id="lease-2", measured_bytes=13 * GIB)]
        two.learning.looked()
    assert two.known.get(KEY).looks == 0, "whose bytes they are is not told"


def test_a_share_is_no_lease_of_its_own_and_engines_of_the_host_are_left_to_whoever_runs_them() -> None:
    desk = Desk(QUICK)
    desk.heard("granted", shares="lease-0")
    desk.look(13.0, looks=5, shares="lease-0")
    desk.heard("granted", identity=ENGINES.format("mainpc"))
    desk.look(13.0, looks=5, identity=ENGINES.format("mainpc"))
    desk.heard("marked", identity=ENGINES.format("mainpc"), loaded=True)
    assert (desk.known.get(KEY).looks, desk.load_s(), desk.marked) == (0, {}, [])


def test_a_request_is_planned_with_what_was_learned_and_never_with_more_than_a_card_holds() -> None:
    desk = Desk(QUICK)
    desk.known.declared(KEY, 10 * GIB)
    asked = AdmitLease(lease_id="lease-9", model="qwen", bytes=10 * GIB)
    assert desk.learning.planned(asked) is asked
    assert desk.learning.room(room := _room(10)) is room
    for _ in range(5):
        desk.known.looked(KEY, 13 * GIB, 60.0)
    planned = desk.learning.planned(asked)
    assert (planned.bytes > 13 * GIB, planned.declared_bytes) == (True, 10 * GIB)
    assert desk.learning.room(_room(10)).bytes == planned.bytes
    plan, load_s = desk.learning.plan(PlanLease(model="qwen", bytes=10 * GIB))
    assert (plan.bytes, load_s > 13) == (planned.bytes, True)
    assert desk.learning.plan(PlanLease(model="flux", bytes=0))[1] == 0.0
    desk.capacity = int(13.1 * GIB)
    assert desk.learning.planned(asked).bytes == int(13.1 * GIB), "what fitted has to fit again, growth or not"
    desk.learning.granted(planned)
    desk.learning.granted(AdmitLease(lease_id="lease-8", model="qwen", bytes=GIB, share=True))
    assert desk.known.get(KEY).declared_bytes == 10 * GIB
    other = AdmitLease(lease_id="lease-7", model="qwen", bytes=20 * GIB)
    assert desk.learning.planned(other) is other, "another size is another load"
    desk.learning.granted(other)
    assert desk.known.get(KEY).need_bytes == 0


def _room(gib: int) -> MakeRoom:
    return MakeRoom(lease_id="lease-9", model="qwen", bytes=gib * GIB, priority=50, card_uuid="GPU-a")


def test_seconds_of_loading_queue_by_card_until_the_load_is_over_or_given_up() -> None:
    desk = Desk()
    desk.heard("granted", load_s=8.0)
    desk.heard("granted", lease_id="lease-2", load_s=4.0, card_uuids=["GPU-a", "GPU-b"])
    desk.heard("granted", lease_id="lease-3")
    assert desk.learning.queued() == {"GPU-a": 12.0, "GPU-b": 4.0}
    desk.now += 6.0
    assert desk.learning.queued() == {"GPU-a": 3.0, "GPU-b": 1.0}
    desk.heard("marked", loaded=True)
    assert desk.learning.queued() == {"GPU-a": 1.0, "GPU-b": 1.0}
    desk.now += PATIENCE_S + 3 * 4.0
    assert desk.learning.queued() == {}


def test_what_is_learned_is_stored_now_and_then_and_again_where_that_failed() -> None:
    desk = Desk()
    desk.known.declared(KEY, GIB)
    desk.learning.keep()
    assert [each.table for each in desk.written] == [FOOTPRINTS.table]
    desk.known.declared(ModelKey("flux"), GIB)
    desk.learning.keep()
    assert len(desk.written) == 1
    desk.now += 10.0
    desk.storing = False
    desk.learning.keep()
    desk.storing = True
    assert len(desk.written) == 1
    desk.held.pop()(StorageUnavailable("the disk is full"))
    desk.learning.keep()
    assert len(desk.written) == 3
    desk.held.pop()(None)
    desk.now += 10.0
    desk.learning.keep()
    assert len(desk.written) == 3


def test_a_store_that_takes_nothing_stops_no_learning() -> None:
    desk = Desk(QUICK)
    desk.storing = False
    desk.heard("granted")
    desk.look(1.0)
    desk.look(9.5, looks=6)
    assert desk.marked == []
    assert desk.known.get(KEY).measured_bytes > 9 * GIB


def test_so_many_models_are_remembered_as_warm_and_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("common.supervisor.leasing.footprints.MOST_WARM", 1)
    desk = Desk()
    for model in ("qwen", "flux"):
        desk.heard("granted", model=model)
        desk.heard("marked", model=model, loaded=True)
    assert desk.learning._warm == {ModelKey("flux")}


async def learned(mainpc: Host) -> None:
    async with asyncio.timeout(60):
        while not mainpc.leases.learning.known.get(KEY).need_bytes:
            await asyncio.sleep(0.05)


@pytest.mark.parametrize("declared", [10, 17])
async def test_an_estimate_wrong_by_30_per_cent_is_leased_as_measured_from_then_on_also_after_a_restart(
    tmp_path: Path, declared: int
) -> None:
    cards = tmp_path / "mainpc" / "cards"
    ensure_cards(cards, "mainpc", (24 * GIB,))
    with program() as holder, program() as other:
        async with host(
            SimulatedCards("mainpc", cards), open_store(tmp_path, "leases"), footprints=Footprints("mainpc", QUICK)
        ) as mainpc:
            first = await mainpc.granted(declared, model="qwen", owner=owner(holder), idempotency_key="once")
            use_bytes(card_folder(tmp_path), 13 * GIB, holder)
            await learned(mainpc)
            again = await mainpc.granted(declared, model="qwen", owner=owner(holder), idempotency_key="once")
            assert again["lease_id"] == first["lease_id"], "what was learned makes no other request of it"
            (shown,) = (await mainpc.ask("list_leases"))["leases"]
            assert (shown["declared_bytes"], shown["measured_bytes"]) == (declared * GIB, 13 * GIB)
            await mainpc.release(first)
            use_bytes(card_folder(tmp_path), 0, holder)
            use_bytes(card_folder(tmp_path), 10 * GIB, other)
            async with asyncio.timeout(60):
                while await mainpc.held() or (await mainpc.card())["free_bytes"] != 14 * GIB:
                    await asyncio.sleep(0.05)
        async with host(SimulatedCards("mainpc", cards), open_store(tmp_path, "leases")) as mainpc:
            granted = await mainpc.granted(declared, model="qwen")
            assert 13 * GIB < granted["bytes"] < 13.6 * GIB, "14 GiB are free"
            (shown,) = (await mainpc.ask("list_leases"))["leases"]
            assert shown["declared_bytes"] == declared * GIB
            (receipt,) = (await mainpc.ask("explain", subject=granted["lease_id"]))["receipts"]
            assert f"{declared}.0 GiB were declared, 13." in receipt["reason"]
            assert receipt["details"] == {"declared_bytes": declared * GIB}
