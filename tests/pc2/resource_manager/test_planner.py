from __future__ import annotations

import random
from typing import Literal, TypeVar

import pytest

from common.api.leases import (
    AcquireLease,
    Card,
    CardsSampled,
    Lease,
    LeaseChanged,
    LeaseGranted,
    Leases,
    Owner,
    PlanLease,
)
from common.api.words import Cursor
from common.errors import (
    BadRequest,
    Conflict,
    DeadlineExceeded,
    IdempotencyMismatch,
    Interrupted,
    NoCapacity,
    NotFound,
    Overloaded,
    StaleFence,
    StorageUnavailable,
    TandemError,
    TooLarge,
    Unavailable,
)
from common.store.memory import MemoryStore
from common.store.protocol import Durability
from common.vram.amount import GIB
from common.vram.lease_decision import Note
from pc2.resource_manager import intents
from pc2.resource_manager.events import (
    Admitted,
    Asked,
    CardsSeen,
    Event,
    HostBack,
    HostLost,
    LeaseSeen,
    Refused,
    Returned,
    Tick,
    Withdrawn,
)
from pc2.resource_manager.instructions import AskSupervisor, Decision, Progress, Reply, ReplyError, ReturnLease
from pc2.resource_manager.planner import Planner
from pc2.resource_manager.steps import PlannerPolicy

AT = "2025-01-01T00:00:00Z"
EMPTY = Leases(leases=[], as_of=Cursor(epoch=1, seq=0))
T = TypeVar("T")


class Bench:
    """A planner on a bench: events go in by hand, and the last decision lies open."""

    def __init__(self, policy: PlannerPolicy | None = None) -> None:
        self.now = 0.0
        self.policy = policy
        self.store = MemoryStore()
        self.rng = random.Random(1)
        self.start()
        for host, free in (("mainpc", 20), ("pc2", 11)):
            self.feed(HostBack(host, EMPTY))
            self.cards(host, free)

    def start(self) -> None:
        self.planner = Planner(["mainpc", "pc2"], self.rng, self.policy)
        self.planner.restore(intents.load(self.store), self.now)
        self.last = Decision()

    def feed(self, event: Event) -> None:
        self.last = self.planner.handle(event, self.now, f"{AT}{self.now:09.3f}")
        for fact in self.last.facts:
            self.store.commit(intents.rows(fact), Durability.NORMAL)

    def cards(self, host: str, free: float) -> None:
        total = 24 if host == "mainpc" else 12
        card = Card(
            host=host,
            card=0,
            card_uuid=f"GPU-{host}",
            name="card",
            total_bytes=total * GIB,
            free_bytes=0,
            leased_bytes=0,
            used_bytes=0,
            grantable_bytes=int(free * GIB),
            simulated=True,
        )
        self.feed(CardsSeen(host, CardsSampled(host=host, cards=[card])))

    def ask(
        self, call: str, need: float = 10, wait: float = 0.0, key: str = "", host: str = "", priority: int = 50
    ) -> None:
        request = AcquireLease(
            model="whisper", bytes=int(need * GIB), wait_s=wait, idempotency_key=key, host=host, priority=priority
        )
        self.feed(Asked(call, request, "anna"))

    def admit(self, ask: AskSupervisor, lease_id: str = "") -> LeaseGranted:
        granted = LeaseGranted(
            lease_id=lease_id or ask.request.lease_id,
            host=ask.host,
            card=0,
            card_uuid=ask.request.card_uuid,
            fencing_token=77,
            expires_in_s=60.0,
            bytes=ask.request.bytes,
        )
        self.feed(Admitted(ask.request.lease_id, granted))
        return granted

    def refuse(self, ask: AskSupervisor, error: TandemError) -> None:
        self.feed(Refused(ask.request.lease_id, ask.attempt, error))

    def change(self, change: Literal["granted", "released"], granted: LeaseGranted) -> LeaseChanged:
        lease = Lease(
            lease_id=granted.lease_id,
            model="whisper",
            bytes=granted.bytes,
            measured_bytes=0,
            verified=False,
            priority=50,
            host=granted.host,
            card=0,
            card_uuid=granted.card_uuid,
            fencing_token=granted.fencing_token,
            owner=Owner(),
            identity="anna",
            ttl_s=60.0,
            expires_in_s=60.0,
            granted_at=AT,
        )
        return LeaseChanged(change=change, lease=lease)

    def wait(self, seconds: float) -> None:
        self.now += seconds
        self.feed(Tick())

    def all(self, kind: type[T]) -> list[T]:
        return [each for each in self.last.instructions if isinstance(each, kind)]

    def one(self, kind: type[T]) -> T:
        (found,) = self.all(kind)
        return found

    def error(self, kind: type[TandemError]) -> TandemError:
        error = self.one(ReplyError).error
        assert isinstance(error, kind), error
        return error

    def receipts(self) -> list[str]:
        return [note.receipt.decision for note in self.all(Note)]

    def kept(self) -> list[str]:
        return [intent.lease_id for intent in intents.load(self.store)]


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


@pytest.mark.parametrize("error", [Interrupted("cut"), DeadlineExceeded("slow")])
def test_an_ask_that_died_midway_is_put_to_the_same_supervisor_again(error: TandemError) -> None:
    bench = Bench()
    bench.ask("c1", 10, wait=60)
    first = bench.one(AskSupervisor)
    bench.refuse(first, error)
    assert bench.all(AskSupervisor) == []
    bench.wait(1.0)
    second = bench.one(AskSupervisor)
    assert (second.host, second.attempt, second.request) == (first.host, 2, first.request)
    bench.refuse(first, NoCapacity("a late word"))
    assert bench.last.instructions == ()
    bench.admit(second)
    assert bench.one(Reply).call == "c1"


def test_a_lost_hosts_asks_wait_for_it_and_for_no_other() -> None:
    bench = Bench()
    bench.ask("c1", 10, wait=60)
    first = bench.one(AskSupervisor)
    bench.feed(HostLost("pc2", "link down"))
    bench.wait(2.0)
    assert bench.all(AskSupervisor) == []
    bench.refuse(first, Interrupted("cut"))
    assert bench.last.instructions == ()
    bench.feed(HostBack("pc2", EMPTY))
    assert bench.one(AskSupervisor).request == first.request


def test_an_answer_that_comes_after_the_host_was_lost_still_counts() -> None:
    bench = Bench()
    bench.ask("c1", 10)
    ask = bench.one(AskSupervisor)
    bench.feed(HostLost("pc2", "link down"))
    bench.admit(ask)
    assert bench.one(Reply).call == "c1"
    bench.admit(ask)
    assert bench.last.instructions == ()


def test_a_silent_supervisors_callers_are_answered_and_its_lease_is_given_back() -> None:
    bench = Bench()
    bench.ask("c1", 10)
    ask = bench.one(AskSupervisor)
    bench.wait(4.9)
    assert bench.all(ReplyError) == []
    bench.wait(0.1)
    bench.error(Unavailable)
    bench.admit(ask)
    returned = bench.one(ReturnLease)
    assert (returned.host, returned.request.fencing_token) == ("pc2", 77)
    bench.feed(Returned(ask.request.lease_id))
    assert bench.receipts() == ["released"]
    assert bench.kept() == []


def test_callers_of_a_silent_supervisor_are_answered_once() -> None:
    bench = Bench()
    bench.ask("c1", 10)
    bench.wait(5.0)
    bench.error(Unavailable)
    bench.wait(5.0)
    assert bench.last.instructions == ()


def test_a_lease_is_given_back_until_its_supervisor_confirms() -> None:
    bench = Bench()
    bench.ask("c1", 10)
    ask = bench.one(AskSupervisor)
    bench.feed(Withdrawn("c1"))
    bench.admit(ask)
    bench.feed(Returned(ask.request.lease_id, Interrupted("cut")))
    bench.wait(0.5)
    assert bench.all(ReturnLease) == []
    bench.wait(0.5)
    bench.one(ReturnLease)
    bench.feed(HostLost("pc2", "link down"))
    bench.wait(5.0)
    assert bench.all(ReturnLease) == []
    bench.feed(HostBack("pc2", EMPTY))
    bench.one(ReturnLease)
    bench.feed(Returned(ask.request.lease_id, StaleFence("it ended by itself")))
    bench.feed(Returned(ask.request.lease_id))
    bench.wait(60)
    assert bench.last.instructions == ()


def test_a_caller_that_withdrew_leaves_the_queue() -> None:
    bench = Bench()
    bench.ask("c1", 22, wait=60)
    bench.ask("c2", 22, wait=60)
    bench.feed(Withdrawn("c1"))
    assert bench.receipts() == ["withdrawn"]
    assert bench.one(Progress).progress.position == 1
    bench.feed(Withdrawn("c1"))
    assert bench.last.instructions == ()


def test_a_refused_request_without_callers_is_over() -> None:
    bench = Bench()
    bench.ask("c1", 10, wait=60)
    ask = bench.one(AskSupervisor)
    bench.feed(Withdrawn("c1"))
    bench.refuse(ask, NoCapacity("full"))
    assert bench.all(AskSupervisor) == []
    assert bench.kept() == []


def test_the_same_key_joins_the_same_request() -> None:
    bench = Bench()
    bench.ask("c1", 22, wait=5, key="k")
    bench.wait(4.0)
    bench.ask("c2", 22, wait=5, key="k")
    assert [each.call for each in bench.all(Progress)] == ["c1", "c2"]
    bench.wait(4.0)
    bench.cards("mainpc", 23)
    bench.feed(Withdrawn("c1"))
    bench.cards("mainpc", 23)
    bench.ask("c3", 22, wait=5, key="k")
    assert bench.last.instructions == ()


def test_all_who_joined_get_the_same_lease_and_a_later_retry_asks_the_same_supervisor() -> None:
    bench = Bench()
    bench.ask("c1", 10, key="k")
    ask = bench.one(AskSupervisor)
    bench.ask("c2", 10, key="k")
    granted = bench.admit(ask)
    assert bench.all(Reply) == [Reply("c1", granted), Reply("c2", granted)]
    assert bench.kept() == [ask.request.lease_id]
    bench.ask("c3", 10, key="k")
    again = bench.one(AskSupervisor)
    assert (again.host, again.request) == (ask.host, ask.request)
    bench.admit(again)
    assert bench.one(Reply) == Reply("c3", granted)


def test_a_delivered_lease_is_not_given_back_because_a_later_caller_under_its_key_left() -> None:
    bench = Bench()
    bench.ask("c1", 10, key="k")
    bench.admit(bench.one(AskSupervisor))
    bench.ask("c2", 10, key="k")
    again = bench.one(AskSupervisor)
    bench.feed(Withdrawn("c2"))
    granted = bench.admit(again)
    assert bench.last.instructions == ()
    bench.ask("c3", 10, key="k")
    bench.admit(bench.one(AskSupervisor))
    assert bench.one(Reply) == Reply("c3", granted)


def test_a_delivered_lease_is_not_given_back_because_its_host_was_away_when_it_was_asked_for_again() -> None:
    bench = Bench()
    bench.ask("c1", 10, key="k")
    bench.admit(bench.one(AskSupervisor))
    bench.feed(HostLost("pc2", "link down"))
    bench.ask("c2", 10, key="k")
    bench.wait(5.0)
    assert "stays with whoever holds it" in bench.error(Unavailable).message
    bench.feed(HostBack("pc2", EMPTY))
    bench.admit(bench.one(AskSupervisor))
    assert bench.last.instructions == ()


@pytest.mark.parametrize("busy", [Unavailable("shutting down"), StorageUnavailable("full"), Overloaded("busy")])
def test_a_lease_that_may_have_been_granted_is_asked_for_nowhere_else(busy: TandemError) -> None:
    bench = Bench()
    bench.ask("c1", 10, wait=20)
    ask = bench.one(AskSupervisor)
    bench.refuse(ask, Interrupted("cut"))
    bench.wait(1.0)
    bench.refuse(bench.one(AskSupervisor), busy)
    assert bench.last.instructions == ()
    bench.wait(1.0)
    again = bench.one(AskSupervisor)
    assert (again.host, again.request) == (ask.host, ask.request)
    bench.refuse(again, NoCapacity("it was never granted, and there is no room"))
    assert bench.one(AskSupervisor).host == "mainpc"


def test_a_key_means_one_request() -> None:
    bench = Bench()
    bench.ask("c1", 10, key="k")
    ask = bench.one(AskSupervisor)
    bench.ask("c2", 9, key="k")
    bench.error(IdempotencyMismatch)
    bench.admit(ask)
    bench.ask("c3", 10, key="k", host="pc2")
    bench.error(IdempotencyMismatch)


def test_a_key_whose_lease_has_ended_goes_on_meaning_it() -> None:
    bench = Bench()
    bench.ask("c1", 10, key="k")
    bench.admit(bench.one(AskSupervisor))
    bench.ask("c2", 10, key="k")
    bench.refuse(bench.one(AskSupervisor), Conflict("it ended"))
    bench.error(Conflict)
    bench.ask("c3", 10, key="k")
    assert bench.one(AskSupervisor).host == "pc2"


def test_a_key_whose_lease_is_being_given_back_is_a_conflict() -> None:
    bench = Bench()
    bench.ask("c1", 10, key="k")
    ask = bench.one(AskSupervisor)
    bench.feed(Withdrawn("c1"))
    bench.admit(ask)
    bench.ask("c2", 10, key="k")
    bench.error(Conflict)


def test_after_a_crash_the_same_key_asks_the_same_supervisor_about_the_same_lease() -> None:
    bench = Bench()
    bench.ask("c1", 10, key="k")
    ask = bench.one(AskSupervisor)
    bench.start()
    bench.ask("c2", 10, wait=20, key="k")
    assert bench.all(AskSupervisor) == []
    bench.feed(HostBack("pc2", EMPTY))
    assert bench.one(AskSupervisor).request == ask.request


def test_after_a_crash_a_host_that_stays_away_is_not_waited_for_without_end() -> None:
    bench = Bench()
    bench.ask("c1", 10, key="k")
    bench.start()
    bench.ask("c2", 10, key="k")
    bench.wait(5.0)
    bench.error(Unavailable)


def test_after_a_crash_what_nobody_can_come_for_is_given_back() -> None:
    bench = Bench()
    bench.ask("c1", 10)
    ask = bench.one(AskSupervisor)
    bench.start()
    bench.feed(HostBack("pc2", EMPTY))
    again = bench.one(AskSupervisor)
    assert again.request == ask.request
    bench.admit(again)
    bench.feed(Returned(bench.one(ReturnLease).request.lease_id))
    assert bench.kept() == []


def test_after_a_crash_the_older_of_two_intents_with_a_key_is_given_back() -> None:
    bench = Bench()
    bench.ask("c1", 10, key="k")
    old = bench.one(AskSupervisor).request.lease_id
    bench.planner = Planner(["mainpc", "pc2"], bench.rng)
    bench.now = 1.0
    bench.feed(HostBack("pc2", EMPTY))
    bench.cards("pc2", 11)
    bench.ask("c2", 10, key="k")
    new = bench.one(AskSupervisor).request.lease_id
    bench.start()
    bench.feed(HostBack("pc2", EMPTY))
    assert bench.one(AskSupervisor).request.lease_id == old
    bench.ask("c3", 10, key="k")
    assert bench.one(AskSupervisor).request.lease_id == new


def test_a_lease_found_under_its_key_from_elsewhere_is_not_given_back() -> None:
    bench = Bench()
    bench.ask("c1", 10, key="k")
    ask = bench.one(AskSupervisor)
    bench.feed(Withdrawn("c1"))
    bench.admit(ask, "lease-of-the-partition")
    assert bench.last.instructions == ()
    assert bench.kept() == []


def test_an_ask_that_could_not_be_recorded_was_never_made() -> None:
    bench = Bench()
    bench.ask("c1", 10, wait=60, key="k")
    bench.last = bench.planner.undo(bench.last, bench.now, AT)
    bench.error(StorageUnavailable)
    assert bench.last.facts == ()
    bench.ask("c2", 10, key="k")
    assert bench.one(AskSupervisor).attempt == 1


def test_a_second_undo_of_the_same_request_is_no_matter() -> None:
    bench = Bench()
    bench.ask("c1", 10)
    first = bench.last
    bench.planner.undo(first, bench.now, AT)
    assert bench.planner.undo(first, bench.now, AT).instructions == ()


def test_asking_again_that_was_held_up_by_the_store_is_tried_later() -> None:
    bench = Bench()
    bench.ask("c1", 10, wait=60)
    bench.refuse(bench.one(AskSupervisor), Interrupted("cut"))
    bench.wait(1.0)
    again = bench.last
    bench.last = bench.planner.undo(again, bench.now, AT)
    assert bench.last.instructions == ()
    bench.last = bench.planner.undo(again, bench.now, AT)
    bench.wait(1.0)
    assert bench.one(AskSupervisor).attempt == 3


def test_a_grant_whose_record_could_not_be_settled_is_given_back_and_its_caller_told() -> None:
    bench = Bench()
    bench.ask("c1", 10)
    bench.admit(bench.one(AskSupervisor))
    bench.last = bench.planner.undo(bench.last, bench.now, AT)
    bench.error(StorageUnavailable)
    bench.one(ReturnLease)


def test_a_grant_under_a_key_that_could_not_be_told_is_asked_for_again() -> None:
    bench = Bench()
    bench.ask("c1", 10, key="k")
    ask = bench.one(AskSupervisor)
    bench.admit(ask)
    bench.last = bench.planner.undo(bench.last, bench.now, AT)
    bench.error(StorageUnavailable)
    assert bench.all(ReturnLease) == []
    bench.ask("c2", 10, key="k")
    assert bench.one(AskSupervisor).request == ask.request


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
