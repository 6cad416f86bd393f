"""What the planner decides while everybody answers: where a lease goes, who waits, and what each is told."""

from __future__ import annotations

import msgspec
import pytest

from common.api.decisions import PlanLease
from common.api.gpus import CardsSampled
from common.api.leases import AcquireLease
from common.errors import (
    BadRequest,
    NoCapacity,
    NotFound,
    Overloaded,
    TandemError,
    TooLarge,
    Unavailable,
)
from common.vram.amount import GIB
from pc2.resource_manager import intents
from pc2.resource_manager.events import (
    Asked,
    CardsSeen,
    HostBack,
    HostLost,
    LeaseSeen,
)
from pc2.resource_manager.instructions import AskSupervisor, Progress, Reply, ReplyError
from pc2.resource_manager.planner import Planner
from pc2.resource_manager.steps import PlannerPolicy
from tests.pc2.resource_manager.bench import AT, EMPTY, Bench


def test_the_tightest_fits_supervisor_is_asked_and_its_lease_is_the_answer() -> None:
    bench = Bench()
    bench.ask("c1", 10)
    ask = bench.one(AskSupervisor)
    assert (ask.host, ask.attempt, ask.request.card_uuid) == ("pc2", 1, "GPU-pc2")
    assert bench.kept() == [ask.request.lease_id]
    granted = bench.admit(ask)
    assert bench.one(Reply) == Reply("c1", granted)
    assert bench.receipts() == ["granted"]
    assert bench.kept() == []


def test_the_intent_is_a_fact_of_the_decision_that_asks() -> None:
    bench = Bench()
    bench.ask("c1")
    (fact,) = bench.last.facts
    assert isinstance(fact, intents.IntentRecorded)
    assert fact.intent.host == "pc2"


def test_grants_in_flight_are_not_planned_twice() -> None:
    bench = Bench()
    bench.ask("c1", 10)
    bench.ask("c2", 10)
    assert bench.one(AskSupervisor).host == "mainpc"
    bench.ask("c3", 11)
    assert bench.error(NoCapacity).details["free_bytes"] == 10 * GIB


def test_without_waiting_a_request_that_does_not_fit_is_refused_at_once() -> None:
    bench = Bench()
    bench.ask("c1", 22)
    error = bench.error(NoCapacity)
    assert error.message == "whisper needs 22.0 GiB; 20.0 GiB free on mainpc:0"
    assert (error.retry_after_ms, error.details["position"]) == (1_000, 1)
    assert bench.receipts() == ["refused"]


def test_what_no_card_could_ever_hold_is_refused_even_with_patience() -> None:
    bench = Bench()
    bench.ask("c1", 30, wait=60)
    bench.error(TooLarge)
    bench.ask("c2", 1, wait=60, host="pc9")
    bench.error(NotFound)


def test_a_waiting_request_is_told_its_place_and_starts_when_bytes_come_free() -> None:
    bench = Bench()
    bench.ask("c1", 22, wait=60)
    progress = bench.one(Progress)
    assert (progress.call, progress.progress.position) == ("c1", 1)
    assert bench.receipts() == ["queued"]
    bench.cards("mainpc", 20)
    assert bench.all(Progress) == []
    bench.now = 3.0
    bench.cards("mainpc", 23)
    bench.admit(bench.one(AskSupervisor))
    assert bench.one(Reply).call == "c1"


def test_one_that_cannot_start_holds_up_nobody() -> None:
    bench = Bench()
    bench.ask("big", 22, wait=60)
    bench.ask("small", 5, wait=60)
    assert bench.one(AskSupervisor).host == "pc2"


def test_a_queued_request_is_refused_by_its_deadline_with_its_place() -> None:
    bench = Bench()
    bench.ask("c1", 22, wait=4)
    bench.wait(3.9)
    assert bench.all(ReplyError) == []
    bench.wait(0.2)
    error = bench.error(NoCapacity)
    assert (error.details["position"], error.details["waited_s"]) == (1, 4.1)
    bench.wait(10)
    assert bench.last.instructions == ()


def test_a_request_whose_deadline_finds_room_starts_instead() -> None:
    bench = Bench()
    bench.ask("c1", 10, host="pc2")
    bench.refuse(bench.one(AskSupervisor), Overloaded("busy"))
    bench.error(NoCapacity)
    bench.wait(1.0)
    bench.ask("c2", 10, wait=1, host="pc2")
    bench.refuse(bench.one(AskSupervisor), Overloaded("busy"))
    bench.wait(1.0)
    assert bench.one(AskSupervisor).host == "pc2"


def test_a_supervisors_refusal_sends_the_request_to_another_card() -> None:
    bench = Bench()
    bench.ask("c1", 10)
    first = bench.one(AskSupervisor)
    bench.refuse(first, NoCapacity("full"))
    second = bench.one(AskSupervisor)
    assert (second.host, second.attempt, second.request.lease_id) == ("mainpc", 2, first.request.lease_id)
    assert len(bench.kept()) == 1


def test_a_refusal_with_patience_puts_the_request_back_in_the_queue() -> None:
    bench = Bench()
    bench.ask("c1", 10, wait=60, host="pc2")
    bench.refuse(bench.one(AskSupervisor), NoCapacity("full"))
    assert bench.all(AskSupervisor) == []
    assert bench.one(Progress).progress.position == 1
    assert bench.kept() == []
    bench.cards("pc2", 11)
    assert bench.one(AskSupervisor).attempt == 2


def test_a_card_that_its_host_calls_too_small_is_never_asked_for_that_much_again() -> None:
    bench = Bench()
    bench.ask("c1", 10, wait=60, host="pc2")
    bench.refuse(bench.one(AskSupervisor), TooLarge("never"))
    bench.error(TooLarge)


def test_a_host_that_could_not_take_a_request_rests_for_a_moment() -> None:
    bench = Bench()
    bench.ask("c1", 10)
    bench.refuse(bench.one(AskSupervisor), Unavailable("draining"))
    assert bench.one(AskSupervisor).host == "mainpc"


def test_a_refusal_that_no_other_card_can_mend_is_the_answer() -> None:
    bench = Bench()
    bench.ask("c1", 10, wait=60, key="k")
    bench.refuse(bench.one(AskSupervisor), BadRequest("no"))
    bench.error(BadRequest)
    assert bench.kept() == []


def test_errors_and_progress_need_no_commit() -> None:
    bench = Bench()
    bench.ask("c1", 22, wait=4)
    bench.wait(4)
    refused = bench.last
    bench.last = bench.planner.undo(refused, bench.now, AT)
    bench.error(NoCapacity)


def test_a_missing_host_makes_a_request_wait_and_says_why() -> None:
    bench = Bench()
    bench.feed(HostLost("mainpc", "link down"))
    bench.ask("c1", 22, wait=60)
    assert bench.one(Progress).progress.reason.endswith("0.0 GiB free on mainpc:0 (link down)")
    bench.feed(HostLost("mainpc", "link cut"))
    assert "link cut" in bench.one(Progress).progress.reason


def test_a_request_that_can_never_fit_any_more_is_refused_while_it_waits() -> None:
    bench = Bench()
    bench.planner = Planner(["mainpc"], bench.rng)
    bench.ask("c1", 22, wait=60)
    assert bench.one(Progress).progress.reason == "whisper needs 22.0 GiB; mainpc: has not been heard from yet"
    bench.feed(HostBack("mainpc", EMPTY))
    bench.feed(CardsSeen("mainpc", CardsSampled(host="mainpc", cards=[])))
    bench.error(NotFound)


def test_a_plan_changes_nothing() -> None:
    bench = Bench()
    plan = bench.planner.plan(PlanLease(model="whisper", bytes=10 * GIB), bench.now)
    assert (plan.outcome, plan.host) == ("grant", "pc2")
    bench.ask("c1", 10)
    assert bench.one(AskSupervisor).host == "pc2"


def test_a_delivered_key_is_forgotten_in_time() -> None:
    bench = Bench(PlannerPolicy(remembered_s=100.0, remembered=1))
    for call in ("c1", "c2"):
        bench.ask(call, 5, key=call)
        bench.admit(bench.one(AskSupervisor))
    bench.ask("c3", 1, key="open")
    open_id = bench.one(AskSupervisor).request.lease_id
    second = bench.kept()[1]
    assert len(bench.kept()) == 3
    bench.wait(1.0)
    assert len(bench.kept()) == 1
    assert second not in bench.kept()
    assert bench.kept() == [open_id]
    bench.wait(100.0)
    assert bench.kept() == [open_id]


def test_a_head_that_has_waited_long_keeps_a_card_from_newcomers() -> None:
    bench = Bench()
    bench.ask("big", 22, wait=600)
    bench.now = 60.0
    bench.cards("mainpc", 20)
    bench.cards("pc2", 2)
    bench.ask("small", 5, wait=5)
    assert bench.all(AskSupervisor) == []
    told = {each.call: each.progress.reason for each in bench.all(Progress)}
    assert "kept for a request that has waited longer" in told["small"]
    bench.ask("urgent", 5, priority=100)
    assert bench.one(AskSupervisor).host == "mainpc"


def test_a_lease_that_ended_starts_who_waits_before_any_look_at_the_cards() -> None:
    bench = Bench()
    bench.ask("c1", 20, host="mainpc")
    granted = bench.admit(bench.one(AskSupervisor))
    bench.ask("c2", 20, wait=60, host="mainpc")
    bench.feed(LeaseSeen("mainpc", bench.change("granted", granted)))
    assert bench.all(AskSupervisor) == []
    bench.feed(LeaseSeen("mainpc", bench.change("released", granted)))
    assert bench.one(AskSupervisor).host == "mainpc"


def test_a_request_whose_process_is_gone_is_refused_and_no_other_card_is_tried() -> None:
    bench = Bench()
    bench.ask("c1", 10, wait=60)
    bench.refuse(bench.one(AskSupervisor), NotFound("process 7 does not run on pc2", pid=7, host="pc2"))
    bench.error(NotFound)
    assert bench.all(AskSupervisor) == []
    assert bench.kept() == []


@pytest.mark.parametrize("wait", [0.0, 60.0])
@pytest.mark.parametrize("error", [NoCapacity("too little RAM", retry_after_ms=1_000), TooLarge("one is too small")])
def test_a_refusal_of_several_cards_is_believed(error: TandemError, wait: float) -> None:
    bench = Bench()
    card = bench.planner.fleet.cards("mainpc")[0]
    pair = [card, msgspec.structs.replace(card, card=1, card_uuid="GPU-mainpc-1")]
    bench.feed(CardsSeen("mainpc", CardsSampled(host="mainpc", cards=pair)))
    request = AcquireLease(model="whisper", bytes=5 * GIB, wait_s=wait, cards=2)
    bench.feed(Asked("c1", request, "anna"))
    bench.refuse(bench.one(AskSupervisor), error)
    assert bench.all(AskSupervisor) == []
    assert len(bench.all(ReplyError)) == (wait == 0.0 or not error.retryable)
    bench.feed(CardsSeen("mainpc", CardsSampled(host="mainpc", cards=pair)))
    assert len(bench.all(AskSupervisor)) == (wait > 0.0 and error.retryable)


def test_who_waits_is_asked_for_no_more_where_the_files_are_lacking() -> None:
    bench = Bench()
    bench.cards("mainpc", 2)
    request = AcquireLease(model="whisper", bytes=5 * GIB, wait_s=60, files=["/m.gguf"])
    bench.feed(Asked("c1", request, "anna"))
    bench.refuse(bench.one(AskSupervisor), NotFound("lacks", cards=[], barred={"pc2": "it lacks /m.gguf"}))
    assert bench.all(AskSupervisor) == []
    bench.wait(1.0)
    bench.cards("pc2", 10)
    assert bench.all(AskSupervisor) == []
    bench.now = 59.5
    bench.cards("mainpc", 2)
    bench.cards("pc2", 10)
    bench.wait(0.5)
    assert "it lacks /m.gguf" in [each["reason"] for each in bench.error(NoCapacity).details["cards"]]
