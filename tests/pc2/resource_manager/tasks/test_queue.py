"""The decisions of the task queue, on manual clocks."""

from __future__ import annotations

import pytest

from common.errors import Cancelled, Conflict, DeadlineExceeded, IdempotencyMismatch, Internal, Overloaded, Unavailable
from pc2.resource_manager.tasks.limits import Limits
from pc2.resource_manager.tasks.task import Ended, Started, Withdraw
from tests.pc2.resource_manager.tasks.bench import Bench, provider


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
    assert bench.book.calls.load.in_flight("a") == 1
    bench.fail(send, Cancelled("withdrawn"))
    assert bench.book.calls.load.in_flight("a") == 0
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
    assert not bench.book.calls.load.calls


def test_losing_an_agent_settles_the_calls_of_tasks_that_are_over() -> None:
    bench = Bench(say=[provider()])
    task_id = bench.submit()
    bench.dispatch()
    bench.cancel(task_id)
    bench.lose("a")
    assert not bench.book.calls.load.calls
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
