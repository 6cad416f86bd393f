from __future__ import annotations

from common.api.decisions import PlanLease
from common.api.leases import AcquireLease, LeaseGranted
from common.errors import NoCapacity
from common.vram.amount import GIB
from pc2.resource_manager.events import Admitted
from pc2.resource_manager.instructions import AskSupervisor, Reply
from pc2.resource_manager.needs import Needs
from tests.pc2.resource_manager.bench import Bench


def asked(gib: int, model: str = "qwen") -> AcquireLease:
    return AcquireLease(model=model, bytes=gib * GIB)


def test_what_a_host_leased_instead_is_planned_with_until_it_leases_what_is_declared() -> None:
    needs = Needs()
    assert needs.of(asked(10)) == 10 * GIB
    needs.learned(asked(10), 13 * GIB)
    assert needs.of(asked(10)) == needs.of(PlanLease(model="qwen", bytes=10 * GIB)) == 13 * GIB
    assert needs.of(asked(9)) == 9 * GIB, "another size is another load"
    needs.learned(asked(10), 10 * GIB)
    assert needs.of(asked(10)) == 10 * GIB


def test_so_many_sizes_are_remembered_and_the_oldest_forgotten() -> None:
    needs = Needs(limit=2)
    for model in ("a", "b", "a", "c"):
        needs.learned(asked(10, model), 13 * GIB)
    assert [needs.of(asked(10, model)) // GIB for model in "abc"] == [13, 10, 13]


def test_a_request_that_a_host_refuses_for_more_than_it_declares_is_planned_anew_with_that() -> None:
    bench = Bench()
    bench.ask("call", 10, wait=30)
    first = bench.one(AskSupervisor)
    assert first.host == "pc2", "the tightest fit for what is declared"
    bench.refuse(first, NoCapacity("whisper needs 13.0 GiB", need_bytes=13 * GIB))
    second = bench.one(AskSupervisor)
    assert (second.host, second.request.bytes) == ("mainpc", 10 * GIB), "what it declares stays as it was"
    bench.feed(Admitted(second.request.lease_id, granted(second, 13)))
    assert bench.one(Reply).granted.bytes == 13 * GIB
    again = bench.planner.plan(PlanLease(model="whisper", bytes=10 * GIB), bench.now)
    assert again.need_bytes == 13 * GIB, "what it needs is known by now"


def test_a_request_for_more_than_is_needed_waits_for_no_more_than_that() -> None:
    bench = Bench()
    bench.ask("call", 13)
    bench.feed(Admitted((ask := bench.one(AskSupervisor)).request.lease_id, granted(ask, 10)))
    bench.cards("mainpc", 5)
    plan = bench.planner.plan(PlanLease(model="whisper", bytes=13 * GIB), bench.now)
    assert (plan.outcome, plan.host, plan.need_bytes) == ("grant", "pc2", 10 * GIB)
    bench.ask("again", 13)
    assert bench.one(AskSupervisor).host == "pc2", "11 GiB are free there"


def granted(ask: AskSupervisor, gib: int) -> LeaseGranted:
    return LeaseGranted(
        lease_id=ask.request.lease_id,
        host=ask.host,
        card=0,
        card_uuid=ask.request.card_uuid,
        fencing_token=77,
        expires_in_s=60.0,
        bytes=gib * GIB,
    )
