"""What a lease that wakes, and one that is shared, take over of the request; and who is its owner."""

from __future__ import annotations

from typing import Any

import pytest

from common.api.leases import Owner
from common.vram.amount import GIB
from common.vram.lease_facts import Unparked
from tests.common.vram.table_lab import SLEEPER, UNLOADER, Bench, receipts


def asleep(pid: int = 1, **more: Any) -> Bench:
    """A card of 24 GiB with one lease, which sleeps and keeps half a GiB."""
    bench = Bench(a=24).with_host()
    bench.loaded("lease-1", 10, pid, **more)
    bench.room("lease-2", 20)
    bench.parked("lease-1", 0.5, 9.5)
    bench.commit(bench.table.forget_room("lease-2"))
    bench.use("a", pid, 0.5)
    bench.look()
    assert bench.lease("lease-1").state == "parked"
    return bench


@pytest.mark.parametrize(("lease_id", "key"), [("lease-1", ""), ("lease-9", "k")])
def test_a_parked_lease_that_is_asked_for_as_it_was_is_awake_again(lease_id: str, key: str) -> None:
    bench = asleep(idempotency_key=key)
    slept = bench.lease("lease-1").fencing_token
    awake = bench.grant(lease_id, 10, 1, card_uuid="GPU-a", in_use=False, idempotency_key=key)
    assert (awake.lease_id, awake.bytes) == ("lease-1", 10 * GIB)
    assert awake.fencing_token > slept
    assert bench.lease("lease-1").state == "held"


def test_what_wakes_is_leased_as_it_is_asked_for_now() -> None:
    bench = asleep(disk_bytes=GIB, cpu_cores=0.0, priority=40)
    bench.with_host(cores=8.0)
    more: dict[str, Any] = {"ram_bytes": 2 * GIB, "disk_bytes": 3 * GIB, "cpu_cores": 2.0, "priority": 60}
    decision = bench.admit("lease-7", 11, 1, pinned=True, exclusive=True, ttl_s=99.0, **more)
    shown = bench.lease("lease-1")
    assert (shown.bytes, shown.ram_bytes, shown.disk_bytes, shown.cpu_cores) == (11 * GIB, 2 * GIB, 3 * GIB, 2.0)
    assert (shown.priority, shown.pinned, shown.exclusive, shown.ttl_s, shown.reason) == (60, True, True, 99.0, "")
    figures = bench.table.host_memory()
    assert (figures.ram_leased_bytes, figures.disk_leased_bytes) == (2 * GIB, 3 * GIB)
    assert [(each.decision, each.lease_id) for each in receipts(decision)] == [("unparked", "lease-1")]


def test_what_woke_is_found_under_the_key_that_woke_it() -> None:
    bench = asleep()
    awake = bench.grant("lease-7", 10, 1, idempotency_key="k")
    assert bench.grant("lease-8", 10, 1, idempotency_key="k") == awake


def test_the_id_that_woke_a_lease_stands_for_it_until_another_does_or_it_ends() -> None:
    bench = asleep()
    bench.grant("lease-7", 10, 1, in_use=False)
    bench.room("lease-2", 20)
    bench.parked("lease-1", 0.5, 9.5)
    bench.commit(bench.table.forget_room("lease-2"))
    awake = bench.grant("lease-8", 10, 1)
    assert awake.lease_id == "lease-1"
    assert bench.grant("lease-7", 1, model="tts").lease_id == "lease-7"
    bench.release(awake)
    assert bench.grant("lease-8", 1, model="tts").lease_id == "lease-8"


@pytest.mark.parametrize(("said", "load_s"), [(0.0, 30.0), (50.0, 50.0)])
def test_what_wakes_keeps_what_its_request_does_not_say(said: float, load_s: float) -> None:
    bench = asleep(load_s=30.0, unload=SLEEPER)
    decision = bench.admit("lease-7", 10, 1, load_s=said, unload=UNLOADER if said else None)
    (record,) = [fact.record for fact in decision.facts if isinstance(fact, Unparked)]
    assert record.load_s == load_s
    assert record.unload == (UNLOADER if said else SLEEPER)


def test_a_parked_lease_of_no_process_wakes_for_its_own_agent_alone() -> None:
    bench = Bench(a=24).with_host()
    bench.grant("lease-1", 2, owner=Owner(agent_name="one"), identity="anna", in_use=False)
    bench.promised("lease-2", 23)
    bench.parked("lease-1", 0.1, 1.9)
    bench.commit(bench.table.forget_room("lease-2"))
    bench.look()
    assert bench.grant("other", 2, owner=Owner(agent_name="two"), identity="anna").lease_id == "other"
    assert bench.grant("again", 2, owner=Owner(agent_name="one"), identity="anna").lease_id == "lease-1"


def test_a_share_is_on_all_the_cards_of_the_lease_it_shares() -> None:
    bench = Bench(a=24, b=24)
    whole = bench.grant("lease-1", 4, cards=2)
    assert bench.grant("lease-2", 4, share=True, cards=2).card_uuids == whole.card_uuids == ["GPU-a", "GPU-b"]


def test_a_share_takes_nothing_of_the_host_and_keeps_no_card() -> None:
    bench = Bench(a=24).with_host(cores=8.0)
    more: dict[str, Any] = {"ram_bytes": 2 * GIB, "disk_bytes": 3 * GIB, "cpu_cores": 2.0}
    bench.grant("lease-1", 4, **more)
    assert bench.grant("lease-2", 4, share=True, pinned=True, exclusive=True, **more).shares == "lease-1"
    own, share = bench.lease("lease-1"), bench.lease("lease-2")
    assert (own.ram_bytes, own.disk_bytes, own.cpu_cores) == (2 * GIB, 3 * GIB, 2.0)
    assert (share.bytes, share.declared_bytes, share.ram_bytes, share.disk_bytes, share.cpu_cores) == (0, 0, 0, 0, 0)
    assert (share.pinned, share.exclusive) == (False, False)
    figures = bench.table.host_memory()
    assert (figures.ram_leased_bytes, figures.disk_leased_bytes, figures.cpu_leased_cores) == (2 * GIB, 3 * GIB, 2.0)
