from __future__ import annotations

from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from common.vram.amount import GIB
from common.vram.demand import Demand, Horizon, ModelKey
from common.vram.loading import Load, LoadAsked, LoadQueue, Outlook
from common.vram.placement import Candidate, Wish
from common.vram.priced_cards import Tenant
from common.vram.residency import Residency

SIZES = {"a": 4, "b": 6, "c": 10}


def card(index: int, free_gib: float, capacity_gib: float = 24) -> Candidate:
    return Candidate("mainpc", index, f"GPU-{index}", int(free_gib * GIB), int(capacity_gib * GIB))


def residency(*free_gib: float) -> Residency:
    held = Residency(Demand(), Horizon())
    for index, free in enumerate(free_gib):
        held.see(card(index, free))
    return held


def asked(ticket: str, model: str, at: float, gib: float = 4.0, priority: int = 50, **wish: Any) -> LoadAsked:
    return LoadAsked(
        ticket=ticket,
        key=ModelKey(model),
        wish=Wish(model, int(gib * GIB), **wish),
        priority=priority,
        asked_at=at,
        deadline=at + 300,
        load_s=4.0,
    )


def queue(*waiting: LoadAsked) -> LoadQueue:
    line = LoadQueue()
    for each in waiting:
        line.ask(each)
    return line


def begun(line: LoadQueue, held: Residency, now: float) -> Load | None:
    """What starts now, if anything, carried out as a supervisor would."""
    load = line.next(held, now)
    if load is not None:
        for victim in load.victims:
            held.evict(load.card.uuid, victim, now)
        held.loading(load.card.uuid, now + load.first.load_s)
        line.started(load, now + load.first.load_s)
    return load


def order(line: LoadQueue, held: Residency, now: float) -> list[str]:
    """The models in the order in which one card loads them, when each makes way for the next."""
    models = []
    while (load := begun(line, held, now)) is not None:
        models.append(load.key.model)
        line.loaded(load.key, load.card.uuid)
        held.loading(load.card.uuid, 0.0)
    return models


def test_an_empty_queue_starts_nothing() -> None:
    assert LoadQueue().next(residency(8), 0.0) is None


def test_requests_for_one_model_are_served_by_one_load() -> None:
    line, held = queue(*(asked(f"t{n}", "ab"[n % 2], n * 0.1) for n in range(6))), residency(8)
    load = begun(line, held, 1.0)
    assert load is not None
    assert load.key == ModelKey("a")
    line.ask(asked("late", "a", 2.0))
    assert line.outlook("late", held, 2.0) == Outlook("loading", 0, 3.0)
    served = line.loaded(load.key, load.card.uuid)
    assert [each.ticket for each in served] == ["t0", "t2", "t4", "late"]
    assert len(line) == 3


def test_one_load_at_a_time_on_a_card_and_cards_side_by_side() -> None:
    line, held = queue(*(asked(name, name, n) for n, name in enumerate("abc"))), residency(20, 20)
    first, second = begun(line, held, 5.0), begun(line, held, 5.0)
    assert first is not None
    assert second is not None
    assert {first.card.index, second.card.index} == {0, 1}
    assert begun(line, held, 5.0) is None


def test_the_first_in_the_line_loads_first_and_priority_moves_ahead() -> None:
    assert order(queue(asked("x", "a", 0.0), asked("y", "b", 1.0)), residency(20), 2.0) == ["a", "b"]
    ahead = queue(asked("x", "a", 0.0), asked("y", "b", 1.0, priority=51))
    assert order(ahead, residency(20), 2.0) == ["b", "a"]


def test_many_who_wait_for_one_model_go_a_little_ahead_and_never_more() -> None:
    few = [asked(f"b{n}", "b", 14.0) for n in range(4)]
    assert order(queue(asked("x", "a", 0.0), *few), residency(20), 20.0) == ["b", "a"]
    as_many = [asked(f"b{n}", "b", 29.0) for n in range(99)]
    assert order(queue(asked("x", "a", 0.0), *as_many), residency(20), 40.0) == ["b", "a"]
    many = [asked(f"b{n}", "b", 31.0) for n in range(99)]
    assert order(queue(asked("x", "a", 0.0), *many), residency(20), 40.0) == ["a", "b"]


def test_a_batch_has_the_place_of_whichever_of_its_requests_is_first_in_the_line() -> None:
    late = asked("y", "b", 40.0), asked("z", "b", 41.0, priority=90)
    assert order(queue(asked("x", "a", 0.0), *late), residency(20), 50.0) == ["b", "a"]
    assert order(queue(asked("x", "a", 0.0), late[0]), residency(20), 50.0) == ["a", "b"]


def test_what_cannot_start_holds_nobody_up() -> None:
    line = queue(asked("huge", "huge", 0.0, 20), asked("small", "small", 1.0))
    held = residency(4)
    held.put("GPU-0", Tenant("used", ModelKey("used"), 20 * GIB, 50, 9.0, in_use=True))
    load = begun(line, held, 2.0)
    assert load is not None
    assert load.key == ModelKey("small")


def test_a_batch_that_is_better_off_waiting_for_a_loader_waits() -> None:
    line, held = queue(asked("x", "a", 0.0)), residency(8, 0)
    held.put("GPU-1", Tenant("dear", ModelKey("dear"), 20 * GIB, 50, 100.0))
    for at in (0.0, 1.0):
        held.used(ModelKey("dear"), at)
    held.loading("GPU-0", 2.0)
    assert line.next(held, 1.0) is None
    held.loading("GPU-0", 0.0)
    load = line.next(held, 2.0)
    assert load is not None
    assert load.card.index == 0


def test_an_idle_model_makes_way_at_once() -> None:
    line, held = queue(asked("x", "a", 0.0)), residency(0)
    held.put("GPU-0", Tenant("idle", ModelKey("idle"), 20 * GIB, 50, 9.0))
    load = begun(line, held, 0.0)
    assert load is not None
    assert (load.victims, load.draining) == (("idle",), False)


def test_who_has_waited_long_has_a_model_drained_that_is_never_idle() -> None:
    line, held = queue(asked("x", "a", 1_000.0)), residency(0, 0)
    held.put("GPU-0", Tenant("pinned", ModelKey("pinned"), 20 * GIB, 50, 9.0, pinned=True))
    held.put("GPU-1", Tenant("used", ModelKey("used"), 20 * GIB, 50, 9.0, in_use=True))
    assert begun(line, held, 1_059.9) is None
    held.loading("GPU-1", 1_070.0)
    assert begun(line, held, 1_060.0) is None
    held.loading("GPU-1", 0.0)
    load = begun(line, held, 1_070.0)
    assert load is not None
    assert (load.victims, load.draining, load.card.index) == (("used",), True, 1)
    assert begun(line, held, 1_071.0) is None


def test_a_request_for_one_host_does_not_join_a_load_on_another() -> None:
    line, held = queue(asked("x", "a", 0.0)), residency(8)
    held.see(Candidate("pc2", 0, "GPU-pc2", 4 * GIB, 12 * GIB))
    first = begun(line, held, 0.0)
    assert first is not None
    assert first.card.host == "pc2"
    line.ask(asked("y", "a", 1.0, host="mainpc"))
    line.ask(asked("z", "a", 1.0, host="pc2"))
    second = begun(line, held, 1.0)
    assert second is not None
    assert second.card.host == "mainpc"
    assert line.outlook("x", held, 2.0) == Outlook("loading", 0, 2.0), "whichever load is over first"
    assert line.outlook("y", held, 2.0) == Outlook("loading", 0, 3.0)
    assert [each.ticket for each in line.loaded(second.key, second.card.uuid)] == ["x", "y"]
    assert [each.ticket for each in line.loaded(first.key, first.card.uuid)] == ["z"]


def test_after_a_load_that_failed_its_batch_is_in_the_line_again() -> None:
    line, held = queue(asked("x", "a", 0.0)), residency(8)
    load = begun(line, held, 0.0)
    assert load is not None
    line.failed(load.key, load.card.uuid)
    held.loading(load.card.uuid, 0.0)
    assert begun(line, held, 1.0) is not None


def test_those_whom_a_load_serves_are_named_in_the_order_of_the_line_whoever_asked_first() -> None:
    line = queue(asked("plain", "a", 1.0), asked("early", "a", 0.0), asked("prized", "a", 2.0, priority=90))
    load = begun(line, residency(8), 3.0)
    assert load is not None
    assert [each.ticket for each in line.loaded(load.key, load.card.uuid)] == ["prized", "early", "plain"]


def test_whoever_joins_a_load_that_is_overdue_should_be_served_at_once() -> None:
    line, held = queue(asked("x", "a", 0.0)), residency(8)
    begun(line, held, 0.0)
    assert line.outlook("x", held, 60.0) == Outlook("loading", 0, 0.0)


def test_a_batch_has_waited_for_as_long_as_the_first_of_its_requests() -> None:
    line, held = queue(asked("early", "a", 0.0), asked("late", "a", 59.0)), residency(0)
    held.put("GPU-0", Tenant("used", ModelKey("used"), 20 * GIB, 50, 9.0, in_use=True))
    load = begun(line, held, 60.0)
    assert load is not None
    assert load.draining


def test_a_request_that_is_withdrawn_or_asked_anew_waits_no_longer_or_once() -> None:
    line = queue(asked("x", "a", 0.0), asked("x", "b", 0.0))
    assert (len(line), "x" in line) == (1, True)
    line.withdraw("x")
    line.withdraw("x")
    assert (len(line), "x" in line) == (0, False)


def test_a_request_that_is_asked_anew_for_another_model_loads_that_one_alone() -> None:
    assert order(queue(asked("x", "a", 0.0), asked("x", "b", 0.0)), residency(20), 1.0) == ["b"]


def test_requests_past_their_deadline_are_named() -> None:
    line = queue(asked("x", "a", 0.0), asked("y", "a", 10.0))
    assert [each.ticket for each in line.overdue(305.0)] == ["x"]


def test_a_request_knows_its_place_and_when_its_turn_should_come() -> None:
    line, held = queue(*(asked(name, name, n) for n, name in enumerate("abc"))), residency(20, 20)
    held.loading("GPU-0", 10.0)
    assert [line.outlook(ticket, held, 5.0) for ticket in "abc"] == [
        Outlook("queued", 1, 4.0),
        Outlook("queued", 2, 8.0),
        Outlook("queued", 3, 9.0),
    ]
    assert line.outlook("a", residency(), 5.0) == Outlook("queued", 1, 4.0)
    with pytest.raises(KeyError):
        line.outlook("nobody", held, 5.0)


class OneHost(RuleBasedStateMachine):
    """Three models on two cards: whoever waits is served in the end, and no card ever loads two models or holds too much."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.line = LoadQueue()
        self.free = [12, 6]
        self.held = residency(*self.free)
        self.loads: dict[int, Load] = {}
        self.waiting: dict[str, float] = {}
        self.count = 0

    def see(self, index: int) -> None:
        self.held.see(card(index, self.free[index], (12, 6)[index]))

    @rule(model=st.sampled_from("abc"), priority=st.sampled_from([50, 60]))
    def ask(self, model: str, priority: int) -> None:
        self.held.used(ModelKey(model), self.now)
        if not any(not each.expiring for _, each in self.held.homes(ModelKey(model))):
            self.count += 1
            ticket = f"t{self.count:04d}"
            self.line.ask(asked(ticket, model, self.now, SIZES[model], priority))
            self.waiting[ticket] = self.now

    @rule(seconds=st.floats(0.1, 30))
    def wait(self, seconds: float) -> None:
        self.now += seconds

    @rule()
    def start(self) -> None:
        load = begun(self.line, self.held, self.now)
        if load is None:
            return
        index = load.card.index
        assert index not in self.loads
        for victim in load.victims:
            self.held.drop(load.card.uuid, victim)
            self.free[index] += SIZES[victim.split("-")[0]]
        self.free[index] -= SIZES[load.key.model]
        assert self.free[index] >= 0
        self.see(index)
        self.loads[index] = load

    @precondition(lambda self: self.loads)
    @rule(good=st.booleans())
    def end(self, good: bool) -> None:
        index, load = self.loads.popitem()
        self.held.loading(load.card.uuid, 0.0)
        if not good:
            self.line.failed(load.key, load.card.uuid)
            self.free[index] += SIZES[load.key.model]
            self.see(index)
            return
        lease = f"{load.key.model}-{self.now}-{index}"
        self.held.put(load.card.uuid, Tenant(lease, load.key, SIZES[load.key.model] * GIB, 50, 4.0))
        for each in self.line.loaded(load.key, load.card.uuid):
            del self.waiting[each.ticket]

    @invariant()
    def who_waits_is_in_the_line_and_nobody_else(self) -> None:
        assert len(self.line) == len(self.waiting)
        assert all(ticket in self.line for ticket in self.waiting)

    def teardown(self) -> None:
        for _ in range(10):
            self.start()
            while self.loads:
                self.end(good=True)
        assert not self.waiting


TestOneHost = OneHost.TestCase
TestOneHost.settings = settings(max_examples=30, stateful_step_count=30, deadline=None)
