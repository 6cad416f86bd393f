"""What the planner decides when it is not known what became of an ask: cuts, repeated keys, crashes, a store that fails."""

from __future__ import annotations

import pytest

from common.errors import (
    Conflict,
    DeadlineExceeded,
    IdempotencyMismatch,
    Interrupted,
    NoCapacity,
    Overloaded,
    StaleFence,
    StorageUnavailable,
    TandemError,
    Unavailable,
)
from pc2.resource_manager.events import (
    HostBack,
    HostLost,
    OutOfTime,
    Returned,
    Withdrawn,
)
from pc2.resource_manager.instructions import AskSupervisor, Progress, Reply, ReplyError, ReturnLease
from pc2.resource_manager.planner import Planner
from tests.pc2.resource_manager.bench import AT, EMPTY, Bench


@pytest.mark.parametrize("error", [Interrupted("cut"), DeadlineExceeded("slow")])
def test_an_ask_that_died_midway_is_put_to_the_same_supervisor_again(error: TandemError) -> None:
    bench = Bench()
    bench.ask("c1", 10, wait=60)
    first = bench.one(AskSupervisor)
    bench.refuse(first, error)
    assert bench.all(AskSupervisor) == []
    bench.wait(0.9)
    assert bench.all(AskSupervisor) == []
    bench.wait(0.1)
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


def test_who_asks_under_the_key_of_a_lease_that_is_being_given_back_waits_for_that_and_has_a_new_one() -> None:
    bench, old = given_back()
    bench.ask("c2", 10, key="k")
    bench.ask("c3", 10, key="k")
    assert bench.last.instructions == ()
    bench.feed(Returned(old.request.lease_id))
    new = bench.one(AskSupervisor)
    assert new.request.lease_id != old.request.lease_id
    granted = bench.admit(new)
    assert bench.all(Reply) == [Reply("c2", granted), Reply("c3", granted)]
    assert bench.kept() == [new.request.lease_id]


def test_who_waits_for_a_lease_to_be_given_back_may_leave() -> None:
    bench, old = given_back()
    bench.ask("c2", 10, key="k")
    bench.feed(Withdrawn("c2"))
    bench.feed(Returned(old.request.lease_id))
    assert bench.receipts() == ["released"]
    assert bench.all(AskSupervisor) == []


def test_who_waits_for_a_lease_to_be_given_back_is_answered_though_its_supervisor_stays_silent() -> None:
    bench, _ = given_back()
    bench.ask("c2", 10, key="k")
    bench.wait(5.0)
    assert bench.error(Unavailable).details["behind"] == "pc2"


def test_a_new_lease_in_place_of_one_given_back_waits_in_the_queue_where_there_is_no_room() -> None:
    bench, old = given_back()
    bench.cards("pc2", 1)
    bench.cards("mainpc", 1)
    bench.ask("c2", 10, wait=20, key="k")
    bench.feed(Returned(old.request.lease_id))
    assert bench.one(Progress).progress.position == 1
    bench.cards("pc2", 11)
    assert bench.one(AskSupervisor).host == "pc2"


def given_back() -> tuple[Bench, AskSupervisor]:
    """A bench where the lease under the key `k` was granted when its caller had gone, and what was asked for it."""
    bench = Bench()
    bench.ask("c1", 10, key="k")
    ask = bench.one(AskSupervisor)
    bench.feed(Withdrawn("c1"))
    bench.admit(ask)
    bench.one(ReturnLease)
    return bench, ask


def test_a_caller_whose_time_ends_first_is_told_who_is_silent_and_what_was_granted_is_given_back() -> None:
    bench = Bench()
    bench.ask("c1", 10)
    ask = bench.one(AskSupervisor)
    bench.feed(OutOfTime("c1"))
    assert bench.error(Unavailable).details["behind"] == "pc2"
    bench.feed(OutOfTime("c1"))
    assert bench.last.instructions == ()
    bench.admit(ask)
    bench.one(ReturnLease)


def test_a_caller_whose_time_ends_in_the_queue_is_told_its_place_and_the_others_wait_on() -> None:
    bench = Bench()
    bench.ask("c1", 22, wait=60, key="k")
    bench.ask("c2", 22, wait=60, key="k")
    bench.feed(OutOfTime("c1"))
    assert bench.one(ReplyError).call == "c1"
    assert bench.error(NoCapacity).details["position"] == 1
    bench.cards("mainpc", 23)
    bench.admit(bench.one(AskSupervisor))
    assert bench.one(Reply).call == "c2"


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
