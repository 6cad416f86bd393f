"""The decisions of the task queue, on manual clocks."""

from __future__ import annotations

from typing import Any

import pytest

from common.errors import (
    Cancelled,
    Conflict,
    DeadlineExceeded,
    IdempotencyMismatch,
    Internal,
    NotFound,
    Overloaded,
    TooLarge,
    Unavailable,
)
from pc2.resource_manager.tasks import view
from pc2.resource_manager.tasks.limits import Limits
from pc2.resource_manager.tasks.queue import fields_for
from pc2.resource_manager.tasks.task import Ended, Forgotten, Moment, Started, Task, Withdraw
from tests.pc2.resource_manager.tasks.bench import EPOCH, Bench, provider


def test_the_more_urgent_goes_first_and_waiting_makes_urgent() -> None:
    bench = Bench(Limits(ageing_s=10.0), say=[provider(concurrency=1)])
    low = bench.submit(priority=10)
    bench.advance(30.0)
    middle = bench.submit(priority=12)
    high = bench.submit(priority=90)
    order = []
    for _ in range(3):
        (send,) = bench.dispatch()
        order.append(send.task_id)
        bench.answer(send)
        bench.wake()
    assert order == [high, low, middle]


def test_of_several_capabilities_the_most_urgent_task_goes_first() -> None:
    shared = provider(concurrency=1)
    bench = Bench(say=[shared], sing=[shared])
    bench.submit("say", priority=10)
    urgent = bench.submit("sing", priority=90)
    assert [send.task_id for send in bench.dispatch()] == [urgent]


def test_where_nobody_waits_there_is_nothing_to_give_away() -> None:
    bench = Bench(say=[provider()])
    assert not bench.tasks.dispatch(bench.moment, bench.offers).facts


def test_a_line_that_waits_holds_up_no_other() -> None:
    bench = Bench(sing=[provider()])
    bench.submit("say", priority=90)
    song = bench.submit("sing", priority=10)
    assert [send.task_id for send in bench.dispatch()] == [song]
    assert bench.book.lines.stalls == {"say": "no agent offers it; it waits for one"}


def test_why_a_task_waits_is_told() -> None:
    bench = Bench(say=[provider()])
    bench.submit()
    waiting = bench.submit()
    bench.dispatch()
    assert bench.status(waiting).reason == "every agent is at its limit (1 at 1 in flight)"


def test_a_send_ends_with_the_attempts_time_or_the_tasks() -> None:
    bench = Bench(say=[provider(concurrency=9)])
    bench.submit(timeout_s=5.0)
    bench.submit(timeout_s=5.0, deadline_s=2.0)
    first, second = bench.dispatch()
    assert (first.deadline, second.deadline) == (bench.now + 5.0, bench.now + 2.0)


@pytest.mark.parametrize(
    ("payload", "expected"),
    [
        ({"text": "hi"}, {"text": "hi"}),
        ({"request_id": "mine"}, {"request_id": "mine"}),
        ("hi", {"data": "hi"}),
        (None, {}),
    ],
)
def test_an_agent_gets_the_payloads_fields_and_what_tells_the_task(payload: Any, expected: dict[str, Any]) -> None:
    bench = Bench(say=[provider()])
    task_id = bench.submit(payload=payload)
    (send,) = bench.dispatch()
    assert send.fields == {"request_id": task_id} | expected | {"task_id": task_id, "attempt": 1}


def test_an_attempt_that_failed_goes_to_another_agent() -> None:
    bench = Bench(Limits(backoff_s=0.001), say=[provider("a"), provider("b")])
    bench.submit()
    (send,) = bench.dispatch()
    assert send.agent_name == "a"
    bench.fail(send, Internal("no"))
    bench.advance(1.0)
    assert [each.agent_name for each in bench.dispatch()] == ["b"]


def test_an_agent_that_refuses_twice_is_remembered_once() -> None:
    bench = Bench(Limits(backoff_s=0.001), say=[provider("a")])
    task_id = bench.submit()
    for _ in range(2):
        (send,) = bench.dispatch()
        bench.fail(send, Unavailable("busy"))
        bench.advance(20.0)
    task = bench.book.entry(task_id).task
    assert (task.tried, task.attempts, task.runs) == (("a",), 0, 2)


def test_a_failed_call_after_the_deadline_is_an_expiry() -> None:
    bench = Bench(say=[provider()])
    task_id = bench.submit(deadline_s=1.0)
    (send,) = bench.dispatch()
    bench.now += 2.0
    bench.fail(send, DeadlineExceeded("late"))
    assert bench.status(task_id).error == "not done within 1 s; it was running"


def test_a_task_whose_deadline_passed_in_line_is_given_to_nobody() -> None:
    bench = Bench(say=[provider()])
    late, timely = bench.submit(deadline_s=1.0), bench.submit()
    bench.now += 2.0
    assert [send.task_id for send in bench.dispatch()] == [timely]
    assert bench.state(late) == "expired"


def test_what_comes_after_the_end_changes_nothing_but_the_agents_place() -> None:
    bench = Bench(say=[provider()])
    task_id = bench.submit()
    (send,) = bench.dispatch()
    bench.cancel(task_id)
    assert bench.withdrawn == [Withdraw(task_id, 1)]
    assert bench.book.load.in_flight("a") == 1
    bench.fail(send, Cancelled("withdrawn"))
    assert bench.book.load.in_flight("a") == 0
    assert bench.answer(send).facts == ()
    assert bench.state(task_id) == "cancelled"


def test_an_answer_to_a_run_that_was_given_up_is_not_the_tasks() -> None:
    bench = Bench(Limits(backoff_s=0.001), say=[provider()])
    task_id = bench.submit()
    (old,) = bench.dispatch()
    bench.lose("a")
    bench.advance(1.0)
    (new,) = bench.dispatch()
    assert (old.run, new.run) == (1, 2)
    bench.answer(old, "stale")
    assert bench.state(task_id) == "running"
    bench.answer(new, "fresh")
    assert bench.status(task_id).result == "fresh"


def test_an_answer_after_the_task_was_cancelled_frees_the_agent_alone() -> None:
    bench = Bench(say=[provider()])
    task_id = bench.submit()
    (send,) = bench.dispatch()
    bench.cancel(task_id)
    bench.answer(send)
    assert bench.state(task_id) == "cancelled"
    assert not bench.book.load.calls


def test_losing_an_agent_settles_the_calls_of_tasks_that_are_over() -> None:
    bench = Bench(say=[provider()])
    task_id = bench.submit()
    bench.dispatch()
    bench.cancel(task_id)
    bench.lose("a")
    assert not bench.book.load.calls
    assert bench.state(task_id) == "cancelled"


def test_a_result_beyond_its_bytes_fails_the_task() -> None:
    bench = Bench(Limits(result_bytes=1_024), say=[provider()])
    task_id = bench.submit()
    (send,) = bench.dispatch()
    bench.answer(send, "x" * 2_000)
    assert (bench.state(task_id), bench.status(task_id).code) == ("failed", "too_large")


def test_only_what_ended_undone_is_replayed() -> None:
    bench = Bench(say=[provider()])
    task_id = bench.submit(max_attempts=1, deadline_s=9.0)
    with pytest.raises(Conflict, match="is queued"):
        bench.replay(task_id)
    (send,) = bench.dispatch()
    bench.fail(send, Internal("no"))
    bench.advance(20.0)
    bench.replay(task_id)
    status = bench.status(task_id)
    assert (status.state, status.attempts, status.replays) == ("queued", 0, 1)
    assert status.reason == "replayed; before that: 1 attempts came to nothing; the last: no"
    assert (status.started_at, status.ended_at) == ("", "")
    (send,) = bench.dispatch()
    assert (send.run, send.fields["attempt"], send.deadline) == (2, 1, bench.now + 9.0)
    bench.answer(send)
    with pytest.raises(Conflict, match="is done"):
        bench.replay(task_id)


def test_a_replay_finds_the_queue_full_as_a_new_task_does() -> None:
    bench = Bench(Limits(queued=1))
    first = bench.submit()
    bench.cancel(first)
    bench.submit()
    with pytest.raises(Overloaded):
        bench.replay(first)


def test_the_queue_is_bounded_for_each_capability_in_all_and_in_bytes() -> None:
    bench = Bench(Limits(queued=2, active=3, active_bytes=1_024, payload_bytes=1_024, retry_after_ms=5))
    bench.submit()
    bench.submit()
    with pytest.raises(Overloaded, match="2 tasks wait for 'say'; 2 are allowed") as refused:
        bench.submit()
    assert refused.value.retry_after_ms == 5
    with pytest.raises(TooLarge):
        bench.submit("sing", "x" * 1_100)
    with pytest.raises(Overloaded, match="1024 are allowed"):
        bench.submit("sing", "x" * 1_020)
    bench.submit("sing")
    with pytest.raises(Overloaded, match="3 tasks wait or run; 3 are allowed"):
        bench.submit("dance")


def test_one_identity_leaves_room_for_others_in_the_line_in_all_and_in_bytes() -> None:
    bench = Bench(Limits(queued=8, active=16, active_bytes=4_096), say=[provider(concurrency=2)])
    mine = [bench.submit() for _ in range(6)]
    with pytest.raises(
        Overloaded, match="me has 6 of the 6 tasks that wait for 'say'; what is left of 8 is for others"
    ):
        bench.submit()
    bench.restart()
    with pytest.raises(Overloaded, match="me has 6 of the 6"):
        bench.submit()
    bench.submit(identity="you")
    bench.dispatch()
    assert bench.submit()
    for _ in range(5):
        bench.submit("sing")
    with pytest.raises(
        Overloaded, match="me has 12 of the 13 tasks that wait or run; what is left of 16 is for others"
    ):
        bench.submit("sing")
    for task_id in mine:
        bench.cancel(task_id)
    bench.submit("dance", "x" * 3_000)
    with pytest.raises(Overloaded, match="bytes of tasks that wait or run; what is left of 4096 is for others"):
        bench.submit("dance", "x" * 400)
    bench.submit("dance", "x" * 400, identity="you")
    bench.check()


def test_metadata_is_for_small_things() -> None:
    bench = Bench(Limits(metadata_bytes=32))
    bench.submit(metadata={"k": 1})
    with pytest.raises(TooLarge, match="the metadata has 45 bytes; 32 are allowed"):
        bench.submit(metadata={"k": "x" * 40})


def test_metadata_counts_where_bytes_are_bounded() -> None:
    bench = Bench(Limits(active_bytes=1_024, kept_bytes=600), say=[provider(concurrency=9)])
    for _ in range(2):
        bench.submit(metadata={"k": "x" * 500})
    bench.check()
    with pytest.raises(Overloaded, match="1024 are allowed"):
        bench.submit(metadata={"k": "x" * 500})
    for send in bench.dispatch():
        bench.answer(send)
    bench.advance(1.0)
    assert len(bench.book.kept) == 1
    bench.check()


def test_tasks_wait_for_so_many_capabilities_and_a_new_one_finds_room_when_one_is_done() -> None:
    bench = Bench(Limits(capabilities=2))
    first = bench.submit("say")
    bench.submit("sing")
    bench.submit("say")
    with pytest.raises(Overloaded, match="tasks wait or run for 2 capabilities; 2 are allowed"):
        bench.submit("dance")
    bench.cancel(first)
    with pytest.raises(Overloaded):
        bench.submit("dance")
    bench.cancel("task-3")
    bench.submit("dance")


def test_a_refused_task_leaves_its_key_free() -> None:
    bench = Bench(Limits(queued=1))
    first = bench.submit()
    with pytest.raises(Overloaded):
        bench.submit(idempotency_key="k")
    bench.cancel(first)
    task_id = bench.submit(idempotency_key="k")
    assert bench.submit(idempotency_key="k") == task_id
    assert bench.submit(identity="somebody else", capability="sing", idempotency_key="k") != task_id
    with pytest.raises(IdempotencyMismatch):
        bench.submit(payload="another", idempotency_key="k")
    bench.restart()
    assert bench.submit(idempotency_key="k") == task_id


def test_a_bound_holds_tasks_back_and_letting_go_wakes_them() -> None:
    bench = Bench(say=[provider(concurrency=9)])
    bench.limit("say", 1)
    bench.submit()
    bench.submit()
    (first,) = bench.dispatch()
    assert bench.book.lines.stalls == {"say": "1 run; 1 may run at a time"}
    bench.answer(first)
    (second,) = bench.dispatch()
    bench.answer(second)
    bench.limit("say", 0)
    bench.submit()
    assert bench.dispatch() == []
    bench.restart()
    assert bench.dispatch() == []
    bench.limit("say", None)
    assert len(bench.dispatch()) == 1


def test_ended_tasks_are_kept_for_their_time_and_undone_ones_for_longer() -> None:
    bench = Bench(Limits(undone_s=100.0), say=[provider(concurrency=9)])
    done, dead, long = bench.submit(retain_s=10.0), bench.submit(retain_s=10.0, max_attempts=1), bench.submit()
    for send in bench.dispatch():
        if send.task_id == dead:
            bench.fail(send, Internal("no"))
        else:
            bench.answer(send)
    bench.advance(11.0)
    assert set(bench.book.entries) == {dead, long}
    assert bench.forgotten == {done}
    bench.restart(away_s=100.0)
    bench.advance(99.0)
    assert set(bench.book.entries) == {dead, long}
    bench.advance(2.0)
    assert set(bench.book.entries) == {long}


def test_beyond_their_number_done_tasks_go_before_those_that_ended_undone() -> None:
    bench = Bench(Limits(kept=2), say=[provider(concurrency=9)])
    for number in range(4):
        task_id = bench.submit(max_attempts=1)
        (send,) = bench.dispatch()
        if number == 0:
            bench.fail(send, Internal("no"))
        else:
            bench.answer(send)
        bench.advance(1.0)
        assert bench.state("task-1") == "dead"
    assert set(bench.book.entries) == {"task-1", task_id}


def test_beyond_their_bytes_results_go_first_and_then_tasks() -> None:
    bench = Bench(Limits(kept_bytes=100), say=[provider(concurrency=9)])
    first, second = bench.submit(), bench.submit()
    for send in bench.dispatch():
        bench.answer(send, "x" * 70)
    bench.advance(1.0)
    assert bench.status(first).error == "done, but its result is no longer kept"
    assert bench.status(second).result == "x" * 70
    third = bench.submit(payload="y" * 90)
    bench.cancel(third)
    bench.advance(1.0)
    assert bench.status(second).result is None
    fourth = bench.submit(payload="y" * 90)
    bench.cancel(fourth)
    bench.advance(1.0)
    assert set(bench.book.entries) == {fourth}
    bench.restart()
    assert bench.state(fourth) == "cancelled"


def test_a_task_is_put_off_by_less_than_a_second_too() -> None:
    bench = Bench(say=[provider()])
    delayed = bench.submit(delay_s=0.5)
    assert bench.dispatch() == []
    bench.advance(0.6)
    assert [send.task_id for send in bench.dispatch()] == [delayed]


def test_a_restart_keeps_what_is_left_of_delays_and_deadlines() -> None:
    bench = Bench(say=[provider(concurrency=9)])
    delayed = bench.submit(delay_s=10.0)
    timed = bench.submit("sing", deadline_s=10.0)
    bench.restart(away_s=6.0)
    bench.advance(3.0)
    assert bench.dispatch() == []
    bench.advance(1.5)
    assert [send.task_id for send in bench.dispatch()] == [delayed]
    assert bench.state(timed) == "expired"


def test_a_clock_that_was_set_back_makes_nothing_wait_longer_than_asked_for() -> None:
    bench = Bench(say=[provider(concurrency=9)])
    bench.submit(delay_s=10.0)
    timed = bench.submit("sing", deadline_s=10.0)
    bench.restart(clock_step_s=-86_400.0)
    bench.advance(10.0)
    assert len(bench.dispatch()) == 1
    assert bench.state(timed) == "expired"


def test_what_ran_when_it_was_killed_runs_again_while_attempts_are_left() -> None:
    bench = Bench(Limits(backoff_s=0.001), say=[provider(concurrency=9)])
    again, last = bench.submit(), bench.submit(max_attempts=1)
    bench.dispatch()
    bench.restart()
    assert (bench.state(again), bench.state(last)) == ("queued", "dead")
    assert bench.status(again).reason.startswith("attempt 1 at a: ResourceManager restarted while this was running")
    bench.advance(1.0)
    (send,) = bench.dispatch()
    assert (send.run, send.fields["attempt"]) == (2, 2)


def test_a_key_is_free_again_after_its_day_and_only_its_last_use_is_stored() -> None:
    bench = Bench()
    first = bench.submit(idempotency_key="k")
    bench.submit(idempotency_key="other")
    bench.advance(86_401.0)
    second = bench.submit(idempotency_key="k")
    assert second != first
    assert len(bench.store.tables["task_keys"]) == 1
    bench.restart()
    assert bench.submit(idempotency_key="k") == second


def test_the_lines_are_shown_with_what_holds_them_up() -> None:
    bench = Bench(say=[provider()])
    bench.limit("sing", 3)
    bench.submit()
    bench.submit(delay_s=9.0)
    bench.submit()
    bench.dispatch()
    bench.advance(2.0)
    bench.dispatch()
    say, sing = view.queues(bench.book, {"say": 1}, bench.wall)
    assert (say.queued, say.delayed, say.running, say.agents, say.oldest_s) == (2, 1, 1, 1, 2.0)
    assert (say.limit, say.reason) == (None, "every agent is at its limit (1 at 1 in flight)")
    assert (sing.queued, sing.oldest_s, sing.limit) == (0, 0.0, 3)


def test_a_task_that_joins_a_line_that_waits_wakes_nobody() -> None:
    bench = Bench()
    bench.submit()
    bench.dispatch()
    bench.submit()
    assert not bench.book.lines.awake


def test_a_restart_keeps_the_order_of_the_line() -> None:
    bench = Bench()
    ids = [bench.submit(priority=priority) for priority in (10, 90, 50)]
    bench.restart()
    bench.agents = {"say": [provider(concurrency=9)]}
    bench.wake()
    assert [send.task_id for send in bench.dispatch()] == [ids[1], ids[2], ids[0]]


def test_after_a_failed_commit_the_calls_that_are_still_heard_go_on() -> None:
    bench = Bench(say=[provider(concurrency=2)])
    bench.submit()
    bench.submit()
    first, second = bench.dispatch()
    decision = bench.tasks.resume({(first.task_id, first.run)})
    assert [fact.task_id for fact in decision.facts if isinstance(fact, Ended | Started)] == []
    bench.perform(decision)
    assert (bench.state(first.task_id), bench.state(second.task_id)) == ("running", "queued")


def test_listing_shows_what_changed_last_first() -> None:
    bench = Bench(say=[provider()], sing=[provider("b")])
    one, two, three = bench.submit(), bench.submit("sing"), bench.submit()
    bench.dispatch()

    def shown(state: Any = None, capability: str = "", limit: int = 10) -> list[str]:
        return [entry.task.task_id for entry in bench.book.latest(state, capability, limit)]

    assert shown("queued") == [three]
    assert shown("running") == [two, one]
    assert shown(capability="say") == [one, three]
    assert shown(limit=1) == [two]
    assert bench.book.oldest_s(EPOCH + 5.0) == 5.0
    assert bench.book.oldest_s(EPOCH + 5.0, "dance") == 0.0


def test_what_cannot_be_is_refused_with_the_tasks_story() -> None:
    bench = Bench(say=[provider()])
    task_id = bench.submit()
    moment = Moment(bench.now, bench.wall)
    with pytest.raises(Internal, match="cannot finish: it is queued; say, priority 50, from me, attempt 0 of 3, run 0"):
        bench.book.apply(Ended(task_id, "done"), moment)
    with pytest.raises(Internal, match="cannot start: it never was, or is forgotten"):
        bench.book.apply(Started("task-0", "a"), moment)
    with pytest.raises(Internal, match="cannot be forgotten"):
        bench.book.apply(Forgotten(task_id, 1), moment)
    with pytest.raises(NotFound):
        bench.cancel("task-0")


def test_a_task_is_accepted_once() -> None:
    bench = Bench()
    bench.submit()
    bench.names = 0
    with pytest.raises(Internal, match="accepted before"):
        bench.submit()


def test_progress_is_the_last_part_that_is_not_too_large_and_of_this_run() -> None:
    bench = Bench(Limits(progress_bytes=10, backoff_s=0.001), say=[provider()])
    task_id = bench.submit()
    (send,) = bench.dispatch()
    bench.book.hear(task_id, 5)
    bench.book.hear(task_id, "x" * 20)
    assert (bench.status(task_id).progress, bench.status(task_id).parts) == (5, 2)
    bench.fail(send, Internal("no"))
    bench.advance(1.0)
    bench.dispatch()
    assert (bench.status(task_id).progress, bench.status(task_id).parts) == (None, 0)


def test_fields_are_made_without_a_queue() -> None:
    task = Task(
        task_id="t", seq=1, capability="say", priority=50, max_attempts=1, timeout_s=1.0, retain_s=1.0, queued_at=0.0, run_at=0.0
    )  # fmt: skip
    assert fields_for(task, b"\xc0") == {"request_id": "t", "task_id": "t", "attempt": 1}
