"""Leases of no card: a host's RAM alone, whatever its cards are like."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from common.api.leases import LeaseGranted
from common.errors import NoCapacity, NotFound, StaleFence, TooLarge
from common.vram.amount import GIB
from common.vram.lease_decision import Decision
from tests.common.vram.table_lab import AT, TICK, Bench, changes, orders, receipts, refused


def leased(bench: Bench, lease_id: str = "engine", pid: int = 1, **more: Any) -> LeaseGranted:
    return bench.grant(lease_id, 0, pid, cards=0, model="piper", **more)


def without_cards() -> Bench:
    bench = Bench(a=24)
    bench.totals, bench.held, bench.nameless = {}, {}, {}
    bench.restart()
    return bench


@pytest.mark.parametrize("cards", ["none", "closed", "never looked at"])
def test_it_is_granted_whatever_the_cards_are_like(cards: str) -> None:
    bench = without_cards() if cards == "none" else Bench()
    if cards == "closed":
        bench.odd = {uuid: {"problem": "it fell off the bus", "lost": True} for uuid in bench.totals}
        bench.look()
    if cards == "never looked at":
        bench.look("the driver does not answer")
    granted = leased(bench)
    assert (granted.host, granted.card_uuid, granted.card_uuids, granted.bytes) == ("mainpc", "", [], 0)
    shown = bench.lease("engine")
    assert (shown.card_uuid, shown.card_uuids, shown.measured_bytes, shown.verified) == ("", [], 0, True)
    bench.wait(1_000)
    assert bench.held_ids() == ["engine"], "the loss of a card is nothing to it"


def test_it_is_on_no_card_and_goes_for_nobody_who_wants_one() -> None:
    bench = Bench(a=12)
    leased(bench, in_use=False)
    assert bench.table.residents("GPU-a", bench.now) == []
    assert bench.grant("alone", 4, 2, exclusive=True).card_uuid == "GPU-a"


def test_it_counts_the_hosts_ram_and_waits_or_is_refused_for_good_with_the_reason() -> None:
    bench = without_cards().with_host(ram=64)
    leased(bench, ram_bytes=40 * GIB)
    short = bench.admit("second", 0, 2, cards=0, model="whisper", ram_bytes=20 * GIB)
    error = refused(short, NoCapacity)
    assert "whisper needs no card, but mainpc has no room for it: 20.0 GiB of host RAM needed" in error.message
    assert "leased: piper 40.0 GiB" in error.message
    assert [each.decision for each in receipts(short)] == ["refused"]
    refused(bench.admit("third", 0, 3, cards=0, ram_bytes=60 * GIB), TooLarge)
    bench.end(1)
    assert bench.grant("fourth", 0, 4, cards=0, ram_bytes=20 * GIB).lease_id == "fourth"


def test_what_its_host_lacks_is_told() -> None:
    bench = without_cards()
    asked = bench.ask("engine", 0, 1, cards=0, model="piper")
    decision = bench.table.admit(asked, bench.now, AT, (), ["/voices/en.onnx"])
    assert "it lacks /voices/en.onnx" in refused(decision, NotFound).message


def test_its_shares_count_its_uses_and_it_goes_when_the_last_has_ended() -> None:
    bench = without_cards()
    engine = leased(bench, in_use=False)
    share = bench.grant("share", 0, share=True, model="piper")
    assert (share.shares, share.card_uuid) == ("engine", "")
    assert bench.lease("engine").in_use
    going = bench.commit(bench.table.evict(["engine"], "stopped", bench.now, AT))
    assert orders(going) == []
    last = bench.release(share)
    (order,) = orders(last)
    assert (order.lease_ids, order.card_uuid, order.card_uuids, order.expected_bytes) == (("engine",), "", (), 0)
    assert order.owner is not None
    over = bench.evicted("engine")
    assert ("evicted", "engine") in changes(over)
    assert bench.held_ids() == []
    refused(bench.renew(engine), StaleFence)


def test_it_ends_with_its_process_and_its_shares_with_it() -> None:
    bench = without_cards()
    leased(bench, in_use=False)
    bench.grant("share", 0, 2, share=True, model="piper")
    ended: Decision = bench.end(1)
    assert sorted(changes(ended)) == [("owner-died", "engine"), ("owner-died", "share")]


def test_it_is_there_again_after_a_restart() -> None:
    bench = without_cards()
    leased(bench)
    bench.restart()
    assert bench.held_ids() == ["engine"]
    owner = bench.lease("engine").owner
    assert msgspec.structs.astuple(owner)[2:4] == (1, TICK)
