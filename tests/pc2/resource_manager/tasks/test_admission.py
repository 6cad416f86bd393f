"""Whether the queue has room for one more task."""

from __future__ import annotations

import pytest

from common.errors import Overloaded, TooLarge
from pc2.resource_manager.tasks.limits import Limits
from tests.pc2.resource_manager.tasks.bench import Bench, provider


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


def test_a_replay_finds_the_queue_full_as_a_new_task_does() -> None:
    bench = Bench(Limits(queued=1))
    first = bench.submit()
    bench.cancel(first)
    bench.submit()
    with pytest.raises(Overloaded):
        bench.replay(first)
