"""What the facts about tasks add up to, and which of them cannot be."""

from __future__ import annotations

from typing import Any

import pytest

from common.errors import Internal, NotFound
from pc2.resource_manager.tasks import view
from pc2.resource_manager.tasks.limits import Limits
from pc2.resource_manager.tasks.task import Ended, Forgotten, Moment, Started
from tests.pc2.resource_manager.tasks.bench import EPOCH, Bench, provider


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
    assert bench.book.active.oldest_s(EPOCH + 5.0) == 5.0
    assert bench.book.active.oldest_s(EPOCH + 5.0, "dance") == 0.0


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
