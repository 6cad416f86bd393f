"""Who gets a task, with which fields, and why it waits."""

from __future__ import annotations

from typing import Any

import pytest

from common.errors import Internal
from pc2.resource_manager.tasks.giving import fields_for
from pc2.resource_manager.tasks.limits import Limits
from pc2.resource_manager.tasks.task import Task
from tests.pc2.resource_manager.tasks.bench import Bench, provider


def test_why_a_task_waits_is_told() -> None:
    bench = Bench(say=[provider()])
    bench.submit()
    waiting = bench.submit()
    bench.dispatch()
    assert bench.status(waiting).reason == "every agent is at its limit (1 at 1 in flight)"


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


def test_fields_are_made_without_a_queue() -> None:
    task = Task(
        task_id="t", seq=1, capability="say", priority=50, max_attempts=1, timeout_s=1.0, retain_s=1.0, queued_at=0.0, run_at=0.0
    )  # fmt: skip
    assert fields_for(task, b"\xc0") == {"request_id": "t", "task_id": "t", "attempt": 1}


def test_an_attempt_that_failed_goes_to_another_agent() -> None:
    bench = Bench(Limits(backoff_s=0.001), say=[provider("a"), provider("b")])
    bench.submit()
    (send,) = bench.dispatch()
    assert send.agent_name == "a"
    bench.fail(send, Internal("no"))
    bench.advance(1.0)
    assert [each.agent_name for each in bench.dispatch()] == ["b"]
