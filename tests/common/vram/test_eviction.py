from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.vram.amount import GIB
from common.vram.demand import want
from common.vram.eviction import Resident, price, victims, weight, why_not

H = 600.0


def resident(name: str, gib: float = 4.0, **changes: Any) -> Resident:
    fields: dict[str, Any] = {
        "lease_id": f"lease-{name}",
        "model": name,
        "config": "",
        "bytes": int(gib * GIB),
        "priority": 50,
        "pinned": False,
        "in_use": False,
        "expiring": False,
        "idle_s": 60.0,
        "gap_s": 600.0,
        "load_s": 4.0,
    }
    return Resident(**(fields | changes))


def gone(need_gib: float, *residents: Resident, priority: int = 50, draining: bool = False) -> list[str]:
    plan = victims(int(need_gib * GIB), residents, priority, H, draining=draining)
    assert plan.enough
    return [each.model for each in plan.chosen]


def test_where_nothing_is_needed_nobody_goes() -> None:
    plan = victims(0, [resident("a")], 50, H)
    assert plan.enough
    assert (plan.chosen, plan.dearest, plan.lost_s) == ((), 0.0, 0.0)
    assert plan.reason == "nothing has to go"


def test_for_a_single_byte_somebody_goes() -> None:
    assert [each.model for each in victims(1, [resident("a")], 50, H).chosen] == ["a"]


def test_the_one_least_wanted_goes() -> None:
    assert gone(4, resident("busy", gap_s=10), resident("seldom", gap_s=7_200)) == ["seldom"]


def test_a_model_that_has_fallen_silent_goes_before_one_that_was_never_frequent() -> None:
    assert gone(4, resident("silent", gap_s=10, idle_s=7_000), resident("steady", gap_s=3_600)) == ["silent"]


def test_the_one_that_loads_again_soonest_goes() -> None:
    assert gone(4, resident("slow", load_s=40), resident("quick", load_s=2)) == ["quick"]


def test_the_one_that_matters_least_goes() -> None:
    assert gone(4, resident("prized", priority=60), resident("plain", priority=40), priority=70) == ["plain"]
    assert weight(75) == 2 * weight(50) == 2


def test_of_two_as_dear_to_load_the_larger_goes() -> None:
    assert gone(2, resident("small", 2), resident("large", 8)) == ["large"]


def test_a_pinned_model_is_never_evicted() -> None:
    plan = victims(4 * GIB, [resident("pinned", pinned=True)], 100, H, draining=True)
    assert not plan.enough
    assert [(victim.chosen, victim.reason) for victim in plan.victims] == [(False, "pinned")]


def test_a_lease_in_use_goes_only_by_draining_and_after_all_idle_ones() -> None:
    used, idle = resident("used", in_use=True, load_s=0.1), resident("idle", gap_s=1)
    assert not victims(8 * GIB, [used, idle], 50, H).enough
    assert gone(4, used, idle, draining=True) == ["idle"]
    assert gone(8, used, idle, draining=True) == ["idle", "used"]
    plan = victims(8 * GIB, [used, idle], 50, H, draining=True)
    assert [victim.reason for victim in plan.victims] == [
        "the cheapest that makes room",
        "drains: goes when its use ends",
    ]


def test_a_lease_that_is_expiring_is_nobody_elses_victim() -> None:
    assert not victims(1, [resident("going", expiring=True)], 100, H, draining=True).enough


def test_a_request_evicts_its_equals_and_nobody_above_it() -> None:
    equal, above = resident("equal", gap_s=1), resident("above", priority=51)
    assert gone(4, equal, above) == ["equal"]
    assert why_not(above, 50) == "priority 51 is above the request's 50"


def test_what_holds_nothing_on_the_card_is_no_victim() -> None:
    plan = victims(1, [resident("asleep", 0)], 50, H)
    assert not plan.enough
    assert plan.victims[0].reason == "holds no bytes here"
    assert victims(GIB, [resident("asleep", 0, load_s=0), resident("a")], 50, H).spared == ()


def test_what_turned_out_not_to_be_needed_is_put_back() -> None:
    cheap, dear = resident("cheap", 1, load_s=0.01), resident("dear", 8)
    plan = victims(8 * GIB, [dear, cheap], 50, H)
    assert [each.model for each in plan.chosen] == ["dear"]
    assert [each.model for each in plan.spared] == ["cheap"]
    assert {victim.model: (victim.chosen, victim.put_back) for victim in plan.victims} == {
        "dear": (True, False),
        "cheap": (False, True),
    }


def test_a_plan_that_is_not_enough_chooses_nobody_and_says_what_there_was() -> None:
    plan = victims(16 * GIB, [resident("a", 4), resident("b", 4, in_use=True)], 50, H)
    assert (plan.enough, plan.chosen, plan.freed_bytes) == (False, (), 0)
    assert plan.reason == "16.0 GiB more needed; 4.0 GiB could be had by evictions"
    assert [victim.reason for victim in plan.victims] == ["its bytes would not be enough", "in use"]


def test_a_plan_says_what_it_frees_and_what_that_is_expected_to_cost() -> None:
    a, b, c = resident("a", 4, load_s=2), resident("b", 4, load_s=4), resident("c", 4, load_s=8)
    plan = victims(6 * GIB, [c, b, a], 50, H)
    assert plan.freed_bytes == 8 * GIB
    assert plan.lost_s == pytest.approx(want(600, 60, H) * (2 + 4))
    assert plan.dearest == price(b, H)
    assert plan.reason == "a (4.0 GiB), b (4.0 GiB) would go"
    assert plan.victims[2].reason == "dearer than those that go"


residents = st.builds(
    Resident,
    lease_id=st.uuids().map(str),
    model=st.sampled_from("abc"),
    config=st.just(""),
    bytes=st.integers(0, 12).map(lambda units: units * GIB // 2),
    priority=st.sampled_from([0, 50, 51, 100]),
    pinned=st.sampled_from([False, False, False, True]),
    in_use=st.sampled_from([False, False, False, True]),
    expiring=st.sampled_from([False, False, False, True]),
    idle_s=st.floats(0, 10_000),
    gap_s=st.floats(0, 10_000),
    load_s=st.floats(0, 120),
)


@settings(max_examples=50, deadline=None)
@given(
    need=st.integers(0, 24 * GIB),
    weighed=st.lists(residents, max_size=8, unique_by=lambda each: each.lease_id),
    priority=st.sampled_from([0, 50, 100]),
    draining=st.booleans(),
    rng=st.randoms(use_true_random=False),
)
def test_any_plan_frees_enough_spares_all_it_can_and_touches_nobody_it_may_not(
    need: int, weighed: list[Resident], priority: int, draining: bool, rng: Any
) -> None:
    plan = victims(need, weighed, priority, H, draining=draining)
    eligible = [each for each in weighed if not why_not(each, priority, draining)]
    assert plan.enough == (sum(each.bytes for each in eligible) >= need)
    assert all(each in eligible for each in plan.chosen + plan.spared)
    for each in plan.chosen:
        assert not each.pinned
        assert not each.expiring
        assert each.priority <= priority
        assert draining or not each.in_use
    if plan.enough:
        assert plan.freed_bytes >= need
        assert all(plan.freed_bytes - each.bytes < need for each in plan.chosen)
    else:
        assert plan.chosen == plan.spared == ()
    told = plan.victims
    assert {each.lease_id for each in told} == {each.lease_id for each in weighed}
    assert [each.lease_id for each in told if each.chosen] == [each.lease_id for each in plan.chosen]
    assert all(each.reason for each in told)
    assert msgspec.json.decode(msgspec.json.encode(told), type=list[type(told[0])] if told else list) == told
    again = rng.sample(weighed, len(weighed))
    assert victims(need, again, priority, H, draining=draining).chosen == plan.chosen
