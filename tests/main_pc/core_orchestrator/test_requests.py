from __future__ import annotations

from typing import Any

import pytest

from common.errors import (
    BadRequest,
    DeadlineExceeded,
    IdempotencyMismatch,
    Interrupted,
    NoProvider,
    NotFound,
    Overloaded,
    TandemError,
    Unavailable,
)
from main_pc.core_orchestrator.request_facts import RequestReturned
from main_pc.core_orchestrator.request_limits import Limits
from main_pc.core_orchestrator.requests import Caller
from tests.main_pc.core_orchestrator.desk import AT, Desk, provider


def one_agent(limits: Limits | None = None, **changes: Any) -> Desk:
    return Desk(limits, text=[provider("a", **changes)])


def test_a_request_is_queued_sent_and_done() -> None:
    desk = one_agent(verb="answer")
    request_id = desk.submit(data="hello", deadline_s=9.0)
    assert (desk.status(request_id).state, desk.status(request_id).position) == ("queued", 1)
    (send,) = desk.dispatch()
    assert (send.agent_name, send.verb, send.attempt, send.deadline) == ("a", "answer", 1, 9.0)
    assert send.payload == {"request_id": request_id, "data": "hello"}
    assert desk.book.in_flight("a") == 1
    desk.answer(send, {"label": "greeting", "bytes": b"\x00"})
    status = desk.status(request_id)
    assert (status.state, status.result, status.agent_name) == ("done", {"label": "greeting", "bytes": b"\x00"}, "a")
    assert [published.state for published in desk.published] == ["queued", "running", "done"]
    assert desk.published[-1].result is None
    assert (desk.book.in_flight("a"), desk.book.active_bytes) == (0, 0)


def test_a_bad_request_is_refused() -> None:
    with pytest.raises(BadRequest):
        one_agent().submit("")


def test_without_any_provider_it_is_refused_at_once_and_with_one_expected_it_waits() -> None:
    desk = Desk()
    with pytest.raises(NoProvider, match="'text'"):
        desk.submit()
    desk.expected.add("text")
    request_id = desk.submit()
    assert desk.dispatch() == []
    assert desk.status(request_id).reason == "its agent is starting"


@pytest.mark.parametrize(
    ("limits", "told"),
    [
        (Limits(queued=1), "1 requests wait for 'text'; 1 are allowed"),
        (Limits(active=1), "1 requests are under way; 1 are allowed"),
        (Limits(active_bytes=1024), "hold 1000 bytes and this one has 1000; 1024 are allowed"),
    ],
)
def test_what_is_too_much_is_overload_with_a_hint(limits: Limits, told: str) -> None:
    desk = one_agent(limits)
    desk.submit(data="x" * 1000)
    with pytest.raises(Overloaded, match=told) as refused:
        desk.submit(data="x" * 1000)
    assert refused.value.retry_after_ms == 1_000
    assert len(desk.book.active) == 1


def test_one_identity_leaves_room_for_others_in_the_queue_in_all_and_in_bytes() -> None:
    desk = Desk(Limits(queued=8, active=16, active_bytes=4_096), text=[provider("a", concurrency=2)])
    desk.expected |= {"audio", "vision"}
    you = Caller("you", "pc2")
    mine = [desk.submit(idempotency_key=f"k{number}") for number in range(6)]
    crowded = "me has 6 of the 6 requests that wait for 'text'; what is left of 8 is for others"
    with pytest.raises(Overloaded, match=crowded) as refused:
        desk.submit()
    assert (refused.value.retryable, refused.value.retry_after_ms) == (True, 1_000)
    desk.restart()
    with pytest.raises(Overloaded, match=crowded):
        desk.submit()
    assert desk.submit(idempotency_key="k0") == mine[0]
    desk.submit(caller=you)
    desk.dispatch()
    desk.submit()
    for _ in range(5):
        desk.submit("audio")
    with pytest.raises(Overloaded, match="me has 12 of the 13 requests under way; what is left of 16 is for others"):
        desk.submit("audio")
    for request_id in mine:
        desk.cancel(request_id)
    desk.submit("vision", data="x" * 3_000)
    with pytest.raises(Overloaded, match="me has 3000 of the 3000 bytes of requests under way; what is left of 4096"):
        desk.submit("vision", data="x" * 400)
    desk.submit("vision", caller=you, data="x" * 400)


def test_the_same_key_finds_the_same_request_through_its_whole_life() -> None:
    desk = one_agent()
    first = desk.submit(idempotency_key="k", params={"b": 1, "a": 2})
    assert desk.submit(idempotency_key="k", params={"a": 2, "b": 1}, wait=False) == first
    desk.restart()
    assert desk.submit(idempotency_key="k", params={"b": 1, "a": 2}) == first
    desk.answer(desk.dispatch()[0])
    desk.restart()
    assert desk.submit(idempotency_key="k", params={"b": 1, "a": 2}) == first
    assert desk.submit(idempotency_key="k", caller=Caller("you")) != first
    assert len(desk.book.ended) == 1


@pytest.mark.parametrize(
    "other", [{"data": "b"}, {"audio_data": memoryview(b"b")}, {"priority": 1}, {"deadline_s": 2.0}]
)
def test_the_same_key_with_another_body_is_a_mismatch(other: dict[str, Any]) -> None:
    desk = one_agent()
    desk.submit(idempotency_key="k")
    with pytest.raises(IdempotencyMismatch):
        desk.submit(idempotency_key="k", **other)


def test_nothing_done_is_tried_again_after_a_growing_pause_until_attempts_run_out() -> None:
    desk = one_agent(Limits(attempts=3), idempotent=False)
    request_id = desk.submit()
    pauses = []
    for _ in range(2):
        (send,) = desk.dispatch()
        desk.fail(send, Unavailable("connection refused"))
        assert desk.status(request_id).reason.endswith("at a: connection refused")
        pauses.append(desk.book.active[request_id].not_before - desk.now)
        assert desk.dispatch() == []
        desk.now += pauses[-1]
    assert pauses == [0.25, 0.5]
    desk.fail(desk.dispatch()[0], Unavailable("connection refused"))
    status = desk.status(request_id)
    assert (status.state, status.code, status.attempts) == ("failed", "unavailable", 3)
    assert status.error == "3 attempts came to nothing; the last: connection refused"


def test_an_overloaded_agent_says_when_to_come_back() -> None:
    desk = one_agent()
    request_id = desk.submit()
    desk.fail(desk.dispatch()[0], Overloaded("full", retry_after_ms=3_000))
    assert desk.book.active[request_id].not_before == 3.0
    desk.now = 3.0
    desk.fail(desk.dispatch()[0], Overloaded("full", retry_after_ms=3_600_000))
    assert desk.book.active[request_id].not_before == 11.0


def test_an_interrupted_run_is_sent_again_at_once_where_that_is_safe() -> None:
    desk = Desk(text=[provider("a"), provider("b")])
    request_id = desk.submit()
    (first,) = desk.dispatch()
    desk.fail(first, Interrupted("reset"))
    (second,) = desk.dispatch()
    assert (first.agent_name, second.agent_name, second.attempt) == ("a", "b", 2)
    desk.answer(second)
    assert desk.status(request_id).state == "done"


@pytest.mark.parametrize(
    ("error", "state", "code"),
    [
        (Interrupted("reset"), "failed", "interrupted"),
        (BadRequest("no"), "failed", "bad_request"),
        (TandemError("bug"), "failed", "internal"),
        (DeadlineExceeded("late"), "expired", "deadline_exceeded"),
    ],
)
def test_other_errors_end_it(error: TandemError, state: str, code: str) -> None:
    desk = one_agent(idempotent=False)
    request_id = desk.submit()
    desk.fail(desk.dispatch()[0], error)
    status = desk.status(request_id)
    assert (status.state, status.code, status.error) == (state, code, error.message)
    assert desk.book.in_flight("a") == 0


def test_a_lost_agents_work_moves_on_if_idempotent_and_fails_as_interrupted_if_not() -> None:
    desk = Desk(text=[provider("a", idempotent=False, concurrency=2)], audio=[provider("a", concurrency=2)])
    careful, carefree = desk.submit("text"), desk.submit("audio")
    assert len(desk.dispatch()) == 2
    desk.lose("a")
    assert (desk.status(careful).state, desk.status(careful).code) == ("failed", "interrupted")
    assert desk.status(carefree).state == "queued"
    assert desk.status(carefree).reason == "attempt 1 at a: a went away while it worked on this"
    assert desk.book.in_flight("a") == 0
    assert [send.request_id for send in desk.dispatch()] == [carefree]


def test_what_a_settled_call_says_later_is_ignored() -> None:
    desk = one_agent()
    request_id = desk.submit()
    (send,) = desk.dispatch()
    desk.lose("a")
    desk.answer(send, "too late")
    desk.fail(send, BadRequest("too late"))
    assert desk.status(request_id).state == "queued"


def test_a_queued_request_is_cancelled_and_leaves_the_queue() -> None:
    desk = one_agent()
    kept, gone = desk.submit(), desk.submit(priority=100)
    assert desk.status(kept).position == 2
    desk.cancel(gone)
    assert (desk.status(gone).state, desk.status(gone).code) == ("cancelled", "cancelled")
    assert desk.status(kept).position == 1
    assert desk.withdrawn == []


def test_cancelling_a_running_request_tells_the_agent_whose_place_is_taken_until_it_is_done() -> None:
    desk = one_agent()
    request_id = desk.submit()
    (send,) = desk.dispatch()
    desk.cancel(request_id)
    desk.cancel(request_id)
    assert [withdraw.agent_name for withdraw in desk.withdrawn] == ["a"]
    desk.submit()
    assert desk.dispatch() == []
    desk.answer(send, "late")
    assert (desk.status(request_id).state, desk.status(request_id).result) == ("cancelled", None)
    assert len(desk.dispatch()) == 1


def test_a_late_failure_and_a_lost_agent_leave_an_ended_request_alone() -> None:
    desk = one_agent()
    first = desk.submit()
    (send,) = desk.dispatch()
    desk.cancel(first)
    desk.fail(send, Interrupted("reset"))
    second = desk.submit()
    desk.dispatch()
    desk.cancel(second)
    desk.lose("a")
    assert {desk.status(first).state, desk.status(second).state} == {"cancelled"}
    assert desk.book.in_flight("a") == 0


def test_an_unknown_request_cannot_be_cancelled() -> None:
    with pytest.raises(NotFound, match="req-9"):
        Desk().cancel("req-9")


def test_deadlines_end_requests_in_every_state() -> None:
    desk = one_agent()
    running, waiting, patient = desk.submit(deadline_s=5.0), desk.submit(deadline_s=5.0), desk.submit()
    desk.dispatch()
    desk.now = 4.9
    desk.expire()
    assert desk.status(waiting).state == "queued"
    desk.now = 5.0
    desk.expire()
    assert (desk.status(running).state, desk.status(running).error) == (
        "expired",
        "not done within 5 s; it was running",
    )
    assert (desk.status(waiting).state, desk.status(waiting).code) == ("expired", "deadline_exceeded")
    assert [withdraw.request_id for withdraw in desk.withdrawn] == [running]
    desk.now = 600.0
    desk.expire()
    assert desk.status(patient).state == "expired"


def test_a_restart_keeps_what_was_queued_resends_the_idempotent_and_fails_the_rest() -> None:
    desk = Desk(text=[provider("a")], audio=[provider("b", idempotent=False)])
    again, broken = desk.submit("text"), desk.submit("audio")
    waiting = desk.submit("text", audio_data=memoryview(b"\x00\xff"), priority=70, deadline_s=30.0)
    first = desk.submit("text", priority=70)
    desk.perform(desk.requests.cancel(first, AT))
    desk.dispatch()
    assert desk.status(waiting).state == "running"
    desk.fail(desk.sent[0], Unavailable("starting"))
    desk.now = 10.0
    desk.dispatch()
    assert desk.status(waiting).state == "running"
    desk.restart()
    assert (desk.status(broken).state, desk.status(broken).code) == ("failed", "interrupted")
    assert desk.status(waiting).state == "queued"
    assert desk.status(again).state == "queued"
    assert desk.status(first).state == "cancelled"
    assert desk.book.active[waiting].deadline == 40.0
    assert desk.book.calls == {}
    assert desk.book.active[waiting].asked.audio_data == b"\x00\xff"
    assert (desk.status(waiting).position, desk.status(again).position) == (1, 2)
    send = desk.dispatch()[0]
    assert (send.request_id, send.attempt) == (waiting, 3)


def test_attempts_before_a_restart_count() -> None:
    desk = one_agent(Limits(attempts=2))
    request_id = desk.submit()
    desk.fail(desk.dispatch()[0], Unavailable("down"))
    desk.restart()
    desk.fail(desk.dispatch()[0], Unavailable("down"))
    assert desk.status(request_id).state == "failed"


def test_after_a_failed_commit_only_calls_that_are_no_longer_heard_are_interrupted() -> None:
    desk = one_agent(concurrency=2)
    heard, unheard = desk.submit(), desk.submit()
    one, _ = desk.dispatch()
    desk.restart(live=((heard, 1),))
    assert desk.status(unheard).state == "queued"
    desk.answer(one, 1)
    assert desk.status(heard).result == 1


def test_an_idempotent_return_is_a_fact_of_its_own() -> None:
    desk = one_agent()
    desk.submit()
    desk.dispatch()
    desk.lose("a")
    assert [fact.delay_s for fact, _ in desk.facts if isinstance(fact, RequestReturned)] == [0.0]


def test_a_request_that_runs_again_tells_why_the_last_run_came_to_nothing() -> None:
    desk = one_agent()
    request_id = desk.submit()
    (first,) = desk.dispatch()
    assert desk.status(request_id).reason == ""
    desk.fail(first, Unavailable("nobody listens at tcp://127.0.0.1:1"))
    desk.now += 5.0
    desk.dispatch()
    assert (desk.status(request_id).state, desk.status(request_id).attempts) == ("running", 2)
    assert "nobody listens at tcp://127.0.0.1:1" in desk.status(request_id).reason
