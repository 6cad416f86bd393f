"""What may go with what, what stays for it, and what an eviction is expected to return."""

from __future__ import annotations

from typing import Any

import pytest

from common.api.decisions import RungName
from common.api.supervisor import RoomPromised
from common.errors import NoCapacity
from common.vram.amount import GIB, MIB
from common.vram.demand import START_HORIZON_S, UNKNOWN_GAP_S, want
from common.vram.rungs import DEFAULT as LADDER
from tests.common.vram.table_lab import SLEEPER, UNLOADER, Bench, orders, receipts, refused


@pytest.mark.parametrize(
    ("size", "wanted", "residual"), [(20.0, 18.0, 2 * GIB), (2.0, 22.5, 512 * MIB), (0.75, 23.2, 384 * MIB)]
)
def test_a_sleeper_may_keep_a_tenth_or_512_mib_and_half_at_most(size: float, wanted: float, residual: int) -> None:
    bench = Bench(a=24).with_host(ram=64)
    bench.loaded("old", size, 1, unload=SLEEPER)
    _, decision = bench.promised("want", wanted)
    (order,) = orders(decision)
    assert order.residual_bytes == residual


def test_who_only_unloads_keeps_nothing() -> None:
    bench = Bench(a=24).with_host(ram=64)
    bench.loaded("old", 20, 1, unload=UNLOADER)
    (order,) = orders(bench.room("want", 18))
    assert (order.residual_bytes, order.not_parked) == (0, "")


@pytest.mark.parametrize(("held", "expected"), [(8.0, 10 * GIB), (12.0, 12 * GIB)])
def test_a_receipt_expects_what_a_lease_was_promised_or_what_it_holds_beyond_that(held: float, expected: int) -> None:
    bench = Bench(a=24)
    bench.loaded("old", 10, 1)
    bench.use("a", 1, held)
    bench.look()
    _, decision = bench.promised("want", 20)
    assert [receipt.expected_bytes for receipt in receipts(decision)] == [expected]


def test_a_load_that_was_neither_seen_nor_told_is_taken_for_one_from_a_page_cache() -> None:
    bench = Bench(a=24)
    bench.grant("told", 2, in_use=False, load_s=9.0)
    bench.grant("untold", 10, model="tts", in_use=False)
    weighed = {each.lease_id: each.load_s for each in bench.table.residents("GPU-a", bench.now)}
    assert weighed == {"told": 9.0, "untold": pytest.approx(2.0 + 10 / 2.5)}


def test_a_receipt_says_how_many_seconds_of_loading_an_eviction_is_expected_to_cost() -> None:
    bench = Bench(a=24)
    bench.loaded("old", 20, 1, load_s=100.0)
    bench.wait(30.0)
    _, decision = bench.promised("want", 12)
    (receipt,) = receipts(decision)
    assert receipt.lost_s == pytest.approx(100.0 * want(UNKNOWN_GAP_S, 30.0, START_HORIZON_S))


def test_a_refusal_says_what_evictions_could_have_returned() -> None:
    bench = Bench(a=24)
    bench.loaded("old", 4, 1)
    bench.grant("used", 16, 2, model="tts")
    error = refused(bench.room("want", 20), NoCapacity)
    assert "16.2 GiB more needed; 4.0 GiB could be had by evictions" in error.message


@pytest.mark.parametrize(("priority", "gone"), [(60, []), (80, ["plain", "prized"])])
def test_who_is_ended_with_a_dearer_lease_of_its_process_goes_only_for_what_may_end_both(
    priority: int, gone: list[str]
) -> None:
    bench = Bench(a=24)
    bench.grant("plain", 8, 1, in_use=False)
    bench.grant("prized", 2, 1, model="tts", priority=80, in_use=False)
    bench.use("a", 1, 10)
    bench.look()
    decision = bench.room("want", 20, priority=priority)
    assert sorted(lease_id for order in orders(decision) for lease_id in order.lease_ids) == gone


def test_a_process_that_uses_anothers_lease_is_not_ended_for_its_own() -> None:
    bench = Bench(a=24)
    bench.grant("shared", 4, 1, model="tts", pinned=True, in_use=False)
    bench.grant("own", 8, 2, in_use=False)
    share = bench.grant("share", 4, 2, model="tts", share=True, in_use=False)
    assert orders(bench.room("want", 16)) == []
    bench.release(share)
    assert [order.lease_ids for order in orders(bench.room("want", 16))] == [("own",)]


def test_leases_of_no_process_go_each_by_itself_also_those_of_one_model() -> None:
    bench = Bench(a=24)
    for name in ("one", "two"):
        bench.grant(name, 8, in_use=False)
    assert sorted(order.lease_ids for order in orders(bench.room("want", 22))) == [("one",), ("two",)]


def test_a_process_is_spared_for_an_idle_lease_that_stays_and_for_none_that_goes_already() -> None:
    bench = Bench(a=24)
    bench.loaded("one", 8, 1, unload=UNLOADER, load_s=1.0)
    bench.grant("two", 8, 1, model="tts", card_uuid="GPU-a", in_use=False, unload=UNLOADER, load_s=99.0)
    bench.use("a", 1, 16)
    bench.look()
    (first,) = orders(bench.room("want", 12))
    assert (first.lease_ids, first.spared) == (("one",), "its process also serves tts (two)")
    (second,) = orders(bench.room("more", 6, model="other"))
    assert (second.lease_ids, second.spared) == (("two",), "")


@pytest.mark.parametrize(("ram", "parks"), [(64, True), (16, False)])
def test_leases_that_sleep_together_find_room_for_all_their_weights_or_do_not_sleep(ram: float, parks: bool) -> None:
    bench = Bench(a=24).with_host(ram=ram)
    for name in ("one", "two"):
        bench.grant(name, 8, 1, in_use=False, unload=SLEEPER)
    bench.use("a", 1, 16)
    bench.look()
    (order,) = orders(bench.room("want", 20))
    assert sorted(order.lease_ids) == ["one", "two"]
    assert (order.not_parked == "") is parks


@pytest.mark.parametrize(
    ("pid", "more", "beside", "rungs"),
    [
        (0, {}, False, ()),
        (1, {}, False, ("stop", "term", "kill")),
        (1, {"unload": UNLOADER}, False, ("unload", "stop", "term", "kill")),
        (1, {"unload": UNLOADER}, True, ("unload",)),
    ],
)
def test_room_is_promised_within_the_bounds_of_the_rungs_that_there_are(
    pid: int, more: dict[str, Any], beside: bool, rungs: tuple[RungName, ...]
) -> None:
    bench = Bench(a=24)
    bench.grant("old", 16, pid, in_use=False, **more)
    if beside:
        bench.grant("beside", 2, pid, model="tts")
    reply = bench.room("want", 20).reply
    assert isinstance(reply, RoomPromised)
    assert reply.within_s == LADDER.longest_s(rungs, UNLOADER.timeout_s)
