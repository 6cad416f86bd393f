from __future__ import annotations

from collections import defaultdict, deque

from hypothesis import given
from hypothesis import strategies as st

from common.resilience.fairness import FairQueue


def test_a_backlog_delays_only_its_owner() -> None:
    queue: FairQueue[str] = FairQueue(1500)
    for n in range(1500):
        assert queue.push("flood", f"flood-{n}")
    assert queue.push("polite", "polite-0")
    assert [queue.pop(), queue.pop()] == ["flood-0", "polite-0"]


def test_one_identity_has_a_bound_and_others_do_not_feel_it() -> None:
    queue: FairQueue[int] = FairQueue(2)
    assert queue.push("a", 1)
    assert queue.push("a", 2)
    assert not queue.push("a", 3)
    assert queue.push("b", 4)
    assert len(queue) == 3


def test_an_empty_queue_has_nothing_next() -> None:
    assert FairQueue[int](1).pop() is None


@given(st.lists(st.sampled_from(["a", "b", "c", "pop"]), max_size=200))
def test_each_identitys_order_holds_and_none_waits_for_anothers_second_turn(steps: list[str]) -> None:
    queue: FairQueue[tuple[str, int]] = FairQueue(5)
    model: dict[str, deque[int]] = defaultdict(deque)
    passed_over: dict[str, list[str]] = {}
    for number, step in enumerate(steps):
        if step != "pop":
            assert queue.push(step, (step, number)) == (len(model[step]) < 5)
            if len(model[step]) < 5:
                model[step].append(number)
                passed_over.setdefault(step, [])
            continue
        item = queue.pop()
        assert (item is None) == (not passed_over)
        if item is None:
            continue
        owner, its_number = item
        assert model[owner].popleft() == its_number
        for waiting, passed in passed_over.items():
            if waiting != owner:
                passed.append(owner)
                assert len(set(passed)) == len(passed)
        passed_over[owner] = []
        if not model[owner]:
            del passed_over[owner]
        assert len(queue) == sum(map(len, model.values()))
