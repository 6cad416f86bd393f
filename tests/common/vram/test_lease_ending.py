"""What those are told whose lease has ended, was let go of or sleeps, and what is written down of it."""

from __future__ import annotations

import msgspec

from common.errors import StaleFence
from common.vram.amount import GIB
from tests.common.vram.table_lab import AT, SLEEPER, Bench, changes, receipts, refused


def test_the_receipt_of_each_end_says_why_also_that_of_a_share() -> None:
    bench = Bench(a=24)
    released, late = bench.grant("released", 2), bench.grant("late", 2, ttl_s=10.0, model="tts")
    bench.grant("owned", 2, 1, model="flux")
    bench.grant("share", 2, 2, model="flux", share=True)
    assert [each.reason for each in receipts(bench.release(released))] == ["its holder gave it back"]
    assert [each.reason for each in receipts(bench.wait(11.0))] == ["its TTL ran out without a renewal"]
    ended = "the process it hung on ended"
    assert [(each.lease_id, each.reason) for each in receipts(bench.end(1))] == [
        ("share", f"the lease owned that it shared has ended: {ended}"),
        ("owned", ended),
    ]
    error = refused(bench.renew(late), StaleFence)
    assert error.message == "lease late has ended: its TTL ran out without a renewal"


def test_who_was_evicted_is_told_for_whom() -> None:
    bench = Bench(a=24)
    old = bench.loaded("old", 20, 1)
    bench.promised("want", 12)
    bench.evicted("old", n=20)
    error = refused(bench.renew(old), StaleFence)
    assert error.message == "lease old has ended: evicted: 20.0 GiB came back by unload; makes room for llama"


def test_who_let_go_of_what_others_use_is_told_so() -> None:
    bench = Bench(a=24)
    parent = bench.grant("lease-1", 10)
    bench.grant("share", 10, 2, share=True)
    assert [each.reason for each in receipts(bench.release(parent))] == [
        "its holder gave it back, while 1 others use it"
    ]
    error = refused(bench.renew(parent), StaleFence)
    assert error.message == "lease lease-1 was let go of: its holder gave it back, while 1 others use it"


def test_a_lease_that_is_drained_keeps_the_reason_when_its_holder_lets_go_of_it() -> None:
    bench = Bench(a=24)
    parent = bench.grant("lease-1", 20, in_use=False)
    bench.grant("share", 20, 2, share=True)
    asked = bench.ask("want", 12, 3, model="llama")
    bench.commit(bench.table.evict_for(asked, bench.now, AT, draining=True))
    assert bench.lease("lease-1").state == "expiring"
    bench.release(parent)
    error = refused(bench.renew(parent), StaleFence)
    assert error.message == "lease lease-1 was let go of: makes room for llama"


def test_what_was_let_go_of_has_no_ttl_while_others_use_it() -> None:
    bench = Bench(a=24)
    bench.release(bench.grant("lease-1", 10, ttl_s=10.0))
    parent = bench.grant("lease-2", 10, ttl_s=10.0)
    bench.grant("share", 10, 2, share=True)
    assert not bench.lease("lease-2").given_back
    bench.release(parent)
    assert changes(bench.wait(50.0)) == []
    assert bench.held_ids() == ["lease-2", "share"]
    assert bench.lease("lease-2").given_back


def test_a_mark_does_not_put_off_the_end_of_a_lease() -> None:
    bench = Bench(a=24)
    granted = bench.grant("lease-1", 10, ttl_s=10.0)
    bench.wait(6.0)
    bench.mark(granted, in_use=False)
    assert changes(bench.wait(5.0)) == [("expired", "lease-1")]


def test_of_many_cards_those_are_weighed_that_have_leases_yet() -> None:
    bench = Bench(**{f"c{n:02}": 24.0 for n in range(18)})
    ended = bench.loaded("ended", 20, 90, "c00")
    for n in range(18):
        bench.loaded(f"lease-{n}", 1, n + 1, f"c{n:02}", model=f"model-{n}")
    bench.release(ended)
    bench.use("c00", 90, 0)
    bench.look()
    decision = bench.commit(bench.table.evict_for(bench.ask("want", 23.5), bench.now, AT))
    assert [change for change, _ in changes(decision)] == ["expiring"]


def test_a_lease_that_sleeps_is_renewed_under_no_token() -> None:
    bench = Bench(a=24).with_host()
    old = bench.loaded("lease-1", 10, 1, unload=SLEEPER)
    bench.promised("want", 20)
    bench.parked("lease-1", 0.5, 9.5)
    shown = bench.lease("lease-1")
    assert (shown.state, shown.bytes) == ("parked", GIB // 2)
    for token in {old.fencing_token, shown.fencing_token}:
        error = refused(bench.renew(msgspec.structs.replace(old, fencing_token=token)), StaleFence)
        assert error.message == "lease lease-1 is parked; its owner asks for it anew"
