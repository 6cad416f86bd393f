"""What the lease table makes of footprints: requests planned with what was learned, evictions weighed by loads that were seen."""

from __future__ import annotations

import msgspec

from common.vram.amount import GIB
from common.vram.demand import ModelKey
from common.vram.footprint import Footprints
from common.vram.lease_table import LeaseTable
from tests.common.vram.table_lab import SLEEPER, Bench, changes, receipts

KEY = ModelKey("whisper")


class Learned(Bench):
    """A host whose table is shown what is known of models."""

    def restart(self) -> None:
        self.footprints = Footprints("mainpc")
        self.table = LeaseTable.restored("mainpc", self.store, self.now, footprints=self.footprints)
        self.watched = set(self.table.owners())
        self.commit(self.table.open_epoch())
        self.look()


def test_a_request_planned_with_what_was_learned_says_so_and_is_the_same_under_its_key() -> None:
    bench = Bench()
    asked = bench.ask("one", 13, declared_bytes=10 * GIB, idempotency_key="once")
    decision = bench.commit(bench.table.admit(asked, bench.now, ""))
    (receipt,) = receipts(decision)
    assert receipt.details == {"declared_bytes": 10 * GIB}
    assert receipt.reason.endswith("10.0 GiB were declared, 13.0 GiB were learned of it here")
    shown = bench.lease("one")
    assert (shown.bytes, shown.declared_bytes) == (13 * GIB, 10 * GIB)
    again = msgspec.structs.replace(asked, lease_id="two", bytes=14 * GIB)
    assert bench.table.admit(again, bench.now, "").reply == decision.reply
    share = bench.grant("three", 13, declared_bytes=10 * GIB, share=True)
    assert (share.shares, bench.lease("three").declared_bytes) == ("one", 0)


def test_who_wakes_with_what_was_learned_keeps_what_it_declared() -> None:
    bench = Bench().with_host()
    bench.loaded("one", 10, unload=SLEEPER)
    bench.commit(bench.table.evict(["one"], "night", bench.now, ""))
    bench.parked("one")
    bench.grant("two", 13, 1, declared_bytes=10 * GIB)
    shown = bench.lease("one")
    assert (shown.state, shown.bytes, shown.declared_bytes) == ("held", 13 * GIB, 10 * GIB)


def test_a_load_that_was_seen_is_what_an_eviction_weighs_and_lists_show() -> None:
    bench = Learned()
    bench.with_host()
    bench.loaded("one", 10, load_s=3.0, unload=SLEEPER)
    bench.loaded("two", 5, 2, model="flux", load_s=4.0)
    assert [each.load_s for each in bench.table.residents("GPU-a", bench.now)] == [3.0, 4.0]
    bench.footprints.loaded(KEY, "cold", 30.0, 10 * GIB)
    bench.footprints.loaded(ModelKey("flux"), "cold", 20.0, 5 * GIB)
    bench.footprints.loaded(ModelKey("flux"), "cached", 10.0, 5 * GIB)
    assert [each.load_s for each in bench.table.residents("GPU-a", bench.now)] == [3.0, 10.0], "one would sleep"
    bench.footprints.loaded(KEY, "parked", 1.5, 10 * GIB)
    assert [each.load_s for each in bench.table.residents("GPU-a", bench.now)] == [1.5, 10.0]
    assert [bench.lease(each).load_s for each in ("one", "two")] == [30.0, 10.0]


def test_leases_that_are_seen_to_be_loaded_are_marked_once() -> None:
    bench = Bench()
    bench.loaded("one", 10)
    bench.loaded("two", 5, 2)
    bench.commit(bench.table.evict(["two"], "night", bench.now, ""))
    decision = bench.commit(bench.table.loaded(["one", "two", "none"], bench.now))
    assert changes(decision) == [("marked", "one")]
    assert bench.lease("one").loaded
    assert not bench.lease("one").in_use
    assert bench.table.loaded(["one"], bench.now).facts == ()
