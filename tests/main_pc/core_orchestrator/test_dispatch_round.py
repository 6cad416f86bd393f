from __future__ import annotations

from common.errors import Unavailable
from common.resilience.breaker import State as Breaker
from main_pc.core_orchestrator.dispatch_round import MOST_SENDS
from main_pc.core_orchestrator.request_limits import Limits
from tests.main_pc.core_orchestrator.desk import AT, Desk, provider


def test_the_most_urgent_goes_first_whatever_it_asks_for() -> None:
    both = provider("a", concurrency=1)
    desk = Desk(text=[both], audio=[both])
    desk.submit("text")
    urgent = desk.submit("audio", priority=90)
    assert [send.request_id for send in desk.dispatch()] == [urgent]


def test_waiting_long_enough_beats_a_higher_priority() -> None:
    desk = Desk(Limits(ageing_s=2.0), text=[provider("a")])
    old = desk.submit(priority=10)
    desk.now = 20.5
    desk.submit(priority=20)
    assert [send.request_id for send in desk.dispatch()] == [old]


def test_one_round_fills_every_place_once_and_takes_turns() -> None:
    desk = Desk(text=[provider("a", concurrency=3), provider("b", concurrency=3)])
    for _ in range(8):
        desk.submit()
    assert [send.agent_name for send in desk.dispatch()] == ["a", "b"] * 3
    assert desk.dispatch() == []
    waiting = desk.book.queues["text"][0][2]
    assert desk.status(waiting).reason == "every agent is at its limit (6 at 2 in flight)"


def test_an_agent_of_two_capabilities_has_one_load() -> None:
    both = provider("a", concurrency=2)
    desk = Desk(text=[both], audio=[both])
    for capability in ("text", "audio", "text", "audio"):
        desk.submit(capability)
    assert len(desk.dispatch()) == 2


def test_thousands_that_find_agents_free_are_given_in_several_rounds() -> None:
    desk = Desk(text=[provider("a", concurrency=1_000)])
    ids = [desk.submit() for _ in range(MOST_SENDS + 1)]
    first = desk.requests.dispatch(desk.now, AT, desk.offers)
    assert first.more
    desk.perform(first)
    second = desk.requests.dispatch(desk.now, AT, desk.offers)
    assert not second.more
    desk.perform(second)
    assert [send.request_id for send in desk.sent] == ids


def test_a_queue_that_waits_holds_up_no_other() -> None:
    desk = Desk(text=[provider("a", breaker=Breaker.OPEN, retry_at=9.0)], audio=[provider("b")])
    desk.submit("text", priority=100)
    desk.submit("audio")
    assert [send.agent_name for send in desk.dispatch()] == ["b"]
    assert [stall.reason for stall in desk.book.stalls.values()] == ["the breaker is open for a"]


def test_a_reason_is_told_once_and_gone_with_the_queue() -> None:
    desk = Desk(text=[provider("a", liveness="expired")])
    request_id = desk.submit()
    desk.dispatch()
    told = len(desk.facts)
    desk.dispatch()
    assert len(desk.facts) == told
    desk.cancel(request_id)
    assert desk.book.stalls == {}


def test_a_pause_is_passed_over_and_so_is_what_is_overdue() -> None:
    desk = Desk(text=[provider("a"), provider("b")])
    paused = desk.submit(priority=99)
    desk.fail(desk.dispatch()[0], Unavailable("down"))
    overdue, due = desk.submit(deadline_s=0.1, priority=98), desk.submit()
    desk.now = 0.1
    assert [send.request_id for send in desk.dispatch()] == [due]
    assert {desk.status(paused).state, desk.status(overdue).state} == {"queued"}


def test_a_queue_whose_last_provider_left_waits_a_while_and_then_fails() -> None:
    desk = Desk(Limits(nobody_s=30.0), text=[provider("a")])
    first, second = desk.submit(), desk.submit()
    desk.agents.clear()
    desk.dispatch()
    assert desk.status(first).reason == "no agent offers it any more"
    desk.now = 29.0
    desk.dispatch()
    assert desk.status(first).state == "queued"
    desk.now = 30.0
    desk.dispatch()
    for request_id in (first, second):
        assert (desk.status(request_id).state, desk.status(request_id).code) == ("failed", "no_provider")


def test_a_provider_that_is_expected_stops_that_clock() -> None:
    desk = Desk(text=[provider("a")])
    request_id = desk.submit()
    desk.agents.clear()
    desk.dispatch()
    desk.expected.add("text")
    desk.now = 20.0
    desk.dispatch()
    desk.expected.clear()
    desk.now = 40.0
    desk.dispatch()
    desk.now = 60.0
    desk.dispatch()
    assert desk.status(request_id).state == "queued"


def test_a_half_open_breaker_gets_one_probe() -> None:
    desk = Desk(text=[provider("a", concurrency=4, breaker=Breaker.HALF_OPEN)])
    desk.submit()
    desk.submit()
    assert len(desk.dispatch()) == 1
