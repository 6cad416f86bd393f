from __future__ import annotations

from typing import Any

import msgspec

from common.api.leases import LeaseMarked, MarkLease, Owner
from common.api.words import Empty
from common.errors import NotFound, StaleFence
from common.vram.amount import GIB
from common.vram.cards import ProcessId
from common.vram.footprint import FootprintPolicy
from common.vram.lease_decision import Announce, Unwatch, Watch
from tests.common.vram.table_lab import AT, LEFT, TICK, Bench, changes, owner, receipts, refused


def test_marks_of_use_and_of_loading_are_kept() -> None:
    bench = Bench()
    granted = bench.grant("lease-1", 10, 1, load_s=20.0)
    assert bench.table.cards(bench.now)[1].loading == "whisper"
    decision = bench.mark(granted, loaded=True, in_use=False)
    assert decision.reply == LeaseMarked(state="held", in_use=False, loaded=True)
    assert changes(decision) == [("marked", "lease-1")]
    bench.restart()
    shown = bench.lease("lease-1")
    assert (shown.loaded, shown.in_use) == (True, False)
    assert bench.table.cards(bench.now)[1].loading == ""


def test_a_container_that_is_told_of_after_the_grant_is_its_owners_over_a_restart_too() -> None:
    bench, box = Bench(), "/system.slice/docker-4f2d9c.scope"
    granted = bench.grant("lease-1", 10, 1)
    decision = bench.commit(bench.table.mark(_mark("lease-1", granted.fencing_token, cgroup=box), bench.now, AT))
    assert decision.reply == LeaseMarked(state="held", in_use=True, loaded=False)
    assert changes(decision) == [("marked", "lease-1")]
    bench.restart()
    assert bench.lease("lease-1").owner == msgspec.structs.replace(owner(1), cgroup=box)
    assert bench.mark(granted, loaded=True).reply == LeaseMarked(state="held", in_use=True, loaded=True)
    assert bench.lease("lease-1").owner.cgroup == box
    bench.commit(bench.table.mark(_mark("lease-1", granted.fencing_token, cgroup=""), bench.now, AT))
    assert bench.lease("lease-1").owner == owner(1)
    assert bench.table.owners() == {ProcessId(1, TICK)}


def test_a_mark_that_changes_nothing_leaves_nothing_but_each_use_counts() -> None:
    bench = Bench()
    granted = bench.grant("lease-1", 10, 1)
    unchanged = bench.mark(granted)
    assert (unchanged.facts, unchanged.reply) == ((), LeaseMarked(state="held", in_use=True, loaded=False))
    bench.now += 100.0
    again = bench.mark(granted, in_use=True)
    assert (changes(again), len(again.facts)) == ([], 1)
    assert bench.lease("lease-1").gap_s == 100.0


def test_a_lease_is_idle_since_the_end_of_its_last_use() -> None:
    bench = Bench()
    granted = bench.grant("lease-1", 10, 1)
    bench.now += 50.0
    assert bench.lease("lease-1").idle_s == 0.0
    bench.mark(granted, in_use=False)
    bench.now += 5.0
    assert bench.lease("lease-1").idle_s == 5.0
    share = bench.table.admit(bench.ask("share", 10, share=True), bench.now, AT)
    bench.commit(share)
    bench.now += 7.0
    assert bench.lease("lease-1").idle_s == 0.0


def test_a_mark_with_another_token_or_after_the_ttl_is_stale() -> None:
    bench = Bench()
    first = bench.grant("lease-1", 2, ttl_s=5.0)
    second = bench.grant("lease-2", 2)
    refused(bench.table.mark(_mark("lease-1", second.fencing_token), bench.now, AT), StaleFence)
    refused(bench.table.mark(_mark("nobody", 1), bench.now, AT), NotFound)
    bench.now += 6.0
    refused(bench.mark(first, in_use=True), StaleFence)
    assert bench.held_ids() == ["lease-1", "lease-2"]


def test_a_lease_hangs_on_the_engine_that_was_started_for_it() -> None:
    bench = Bench()
    bench.grant("lease-1", 10, ttl_s=60.0)
    decision = bench.commit(bench.table.rebind("lease-1", owner(7), bench.now, AT))
    assert decision.reply == Empty()
    assert Watch(ProcessId(7, TICK)) in decision.instructions
    assert bench.commit(bench.table.rebind("lease-1", owner(7), bench.now, AT)).facts == ()
    bench.use("b", 7, 9)
    assert bench.wait(1_000.0).facts == ()
    assert bench.lease("lease-1").measured_bytes == 9 * GIB
    bench.grant("lease-2", 1, 8)
    decision = bench.commit(bench.table.rebind("lease-1", owner(8), bench.now, AT))
    assert [type(each) for each in decision.instructions] == [Unwatch, Announce]
    bench.restart()
    assert bench.end(7).facts == ()
    assert len(changes(bench.end(8))) == 2


def test_a_lease_whose_process_is_not_known_any_more_falls_back_to_its_ttl() -> None:
    bench = Bench()
    bench.grant("lease-1", 10, 1, ttl_s=60.0)
    bench.commit(bench.table.rebind("lease-1", Owner(agent_name="x", host="pc2", pid=1), bench.now, AT))
    assert changes(bench.wait(61.0)) == [("expired", "lease-1")]


def test_what_has_to_go_or_is_unknown_is_not_bound_anew() -> None:
    bench = Bench(a=24)
    refused(bench.table.rebind("nobody", owner(1), bench.now, AT), NotFound)
    bench.loaded("old", 20, 1)
    bench.promised("want", 20)
    refused(bench.table.rebind("old", owner(2), bench.now, AT), StaleFence)


def test_who_holds_more_than_leased_in_two_looks_is_corrected_for_and_told_of() -> None:
    bench = Bench(a=24)
    bench.loaded("lease-1", 10, 1)
    bench.use("a", 1, 13)
    bench.wait(1.0)
    assert bench.table.corrections(bench.now, AT).facts == ()
    bench.wait(1.0)
    decision = bench.commit(bench.table.corrections(bench.now, AT))
    assert changes(decision) == [("corrected", "lease-1")]
    (receipt,) = receipts(decision)
    assert (receipt.decision, receipt.need_bytes, receipt.details) == ("corrected", 13 * GIB, {"was_bytes": 10 * GIB})
    shown = bench.lease("lease-1")
    assert (shown.bytes, shown.declared_bytes) == (13 * GIB, 10 * GIB)
    assert "3.0 GiB more than it leased" in shown.reason
    assert bench.commit(bench.table.corrections(bench.now, AT)).facts == ()
    assert bench.free() == 11 * GIB - LEFT
    bench.restart()
    assert bench.lease("lease-1").bytes == 13 * GIB


def test_an_owner_within_the_tolerance_is_not_corrected_for() -> None:
    bench = Bench(a=24)
    bench.loaded("lease-1", 10, 1)
    bench.use("a", 1, 10.4)
    for _ in range(3):
        bench.wait(1.0)
    assert bench.table.corrections(bench.now, AT).facts == ()
    strict = bench.table.corrections(bench.now, AT, FootprintPolicy(tolerance_fraction=0.01))
    assert changes(strict) == [("corrected", "lease-1")]


def test_two_leases_of_one_owner_are_corrected_together_on_the_last_of_them() -> None:
    bench = Bench(a=24)
    bench.grant("first", 4, 1, card_uuid="GPU-a")
    bench.loaded("last", 4, 1, model="tts")
    bench.use("a", 1, 8)
    bench.wait(1.0)
    bench.wait(1.0)
    assert bench.table.corrections(bench.now, AT).facts == ()
    bench.use("a", 1, 10)
    bench.wait(1.0)
    bench.wait(1.0)
    bench.commit(bench.table.corrections(bench.now, AT))
    assert [(each.lease_id, each.bytes) for each in bench.table.leases(bench.now)] == [
        ("first", 4 * GIB),
        ("last", 6 * GIB),
    ]


def test_a_lease_on_several_cards_counts_the_most_that_it_holds_on_any() -> None:
    bench = Bench(a=24, b=24)
    bench.grant("lease-1", 10, 1, cards=2)
    bench.use("a", 1, 12)
    bench.use("b", 1, 14)
    for _ in range(3):
        bench.wait(1.0)
    decision = bench.commit(bench.table.corrections(bench.now, AT))
    assert changes(decision) == [("corrected", "lease-1")]
    assert bench.lease("lease-1").bytes == 14 * GIB


def test_what_has_to_go_is_not_corrected_for() -> None:
    bench = Bench(a=24)
    bench.loaded("old", 10, 1)
    bench.promised("want", 20)
    bench.use("a", 1, 13)
    for _ in range(3):
        bench.wait(1.0)
    assert bench.table.corrections(bench.now, AT).facts == ()


def test_a_look_that_failed_corrects_nothing() -> None:
    bench = Bench(a=24)
    bench.loaded("lease-1", 10, 1)
    bench.use("a", 1, 13)
    bench.wait(1.0)
    bench.look("NVML is gone")
    assert bench.table.corrections(bench.now, AT).facts == ()


def _mark(lease_id: str, token: int, **marks: Any) -> MarkLease:
    return MarkLease(lease_id=lease_id, fencing_token=token, **(marks or {"in_use": True}))
