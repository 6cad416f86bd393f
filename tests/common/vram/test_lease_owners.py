"""Owners that lease again while one of their leases has to go, and what goes for a request of their own."""

from __future__ import annotations

from common.errors import NoCapacity
from tests.common.vram.table_lab import UNLOADER, Bench, changes, orders, refused


def test_a_process_that_is_being_ended_for_a_lease_gets_no_other_one_until_that_has_gone() -> None:
    bench = Bench()
    bench.loaded("old", 6)
    bench.commit(bench.table.evict(["old"], "wanted elsewhere", bench.now, ""))
    for card in ("a", "b"):
        error = refused(bench.admit("new", 2, 1, card_uuid=f"GPU-{card}", model="flux"), NoCapacity)
        assert "its process is giving back whisper (old) first" in str(error.details["cards"])
    bench.grant("other", 2, 2, model="flux")
    bench.grant("nobodys", 2, model="flux")
    bench.evicted("old", n=6)
    bench.grant("new", 2, 1, model="flux")


def test_an_owner_with_a_verb_leases_elsewhere_while_it_gives_back_and_here_after() -> None:
    bench = Bench()
    bench.loaded("old", 6, unload=UNLOADER)
    decision = bench.commit(bench.table.evict(["old"], "wanted elsewhere", bench.now, ""))
    assert orders(decision)[0].keep_bytes == 0
    refused(bench.admit("here", 2, 1, card_uuid="GPU-a", model="flux"), NoCapacity)
    bench.grant("elsewhere", 2, 1, card_uuid="GPU-b", model="flux")
    bench.use("a", 1, 0)
    bench.evicted("old", n=6)
    bench.grant("here", 2, 1, card_uuid="GPU-a", model="flux")


def test_a_lease_that_is_drained_is_still_its_owners_who_may_lease_beside_it() -> None:
    bench = Bench()
    held = bench.grant("old", 6, 1, card_uuid="GPU-a")
    bench.commit(bench.table.evict(["old"], "wanted elsewhere", bench.now, ""))
    bench.grant("new", 2, 1, card_uuid="GPU-a", model="flux")
    (order,) = orders(bench.mark(held, in_use=False))
    assert order.spared == "its process also serves flux (new)"


def test_nobody_is_ended_to_make_room_for_a_request_of_its_own() -> None:
    bench = Bench(a=24.0)
    bench.loaded("mine", 10)
    bench.loaded("others", 10, 2, model="flux", load_s=500.0)
    asked = bench.ask("new", 12, 1, model="qwen")
    decision = bench.commit(bench.table.evict_for(asked, bench.now, ""))
    assert changes(decision) == [("expiring", "others")], "though its own would be cheaper"
    bench = Bench(a=24.0)
    bench.loaded("mine", 20)
    refused(bench.table.evict_for(bench.ask("new", 12, 1, model="qwen"), bench.now, ""), NoCapacity)
    bench = Bench(a=24.0)
    bench.loaded("mine", 20, unload=UNLOADER)
    decision = bench.commit(bench.table.evict_for(bench.ask("new", 12, 1, model="qwen"), bench.now, ""))
    assert changes(decision) == [("expiring", "mine")], "it has a verb, and lives on"
