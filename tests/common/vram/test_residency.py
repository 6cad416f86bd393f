from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.vram.amount import GIB
from common.vram.demand import Demand, Horizon, ModelKey
from common.vram.placement import Candidate, Wish
from common.vram.priced_cards import OVERDUE_S, Tenant
from common.vram.residency import KEPT_LINES, REFRESH_S, Residency, Room

NOW = 10_000.0


def card(index: int, free_gib: float, host: str = "mainpc", problem: str = "", capacity_gib: float = 24) -> Candidate:
    return Candidate(host, index, f"GPU-{host}-{index}", int(free_gib * GIB), int(capacity_gib * GIB), problem)


def tenant(name: str, gib: float = 4.0, load_s: float = 4.0, **changes: Any) -> Tenant:
    return Tenant(name, ModelKey(name), int(gib * GIB), changes.pop("priority", 50), load_s, **changes)


def residency(*cards: Candidate) -> Residency:
    held = Residency(Demand(), Horizon())
    for each in cards:
        held.see(each)
    return held


def room(held: Residency, gib: float = 4.0, now: float = NOW, priority: int = 50, **wish: Any) -> Room | None:
    return held.room(Wish("new", int(gib * GIB), **wish), priority, now)


def where(found: Room | None) -> tuple[str, tuple[str, ...]]:
    assert found is not None
    return found.card.label, found.victims


def test_a_request_that_fits_goes_to_the_tightest_open_card_with_an_idle_loader() -> None:
    held = residency(card(0, 20), card(1, 5), card(2, 4, problem="lost"), card(3, 8, host="pc2"))
    assert where(room(held)) == ("mainpc:1", ())
    assert where(room(held, host="pc2")) == ("pc2:3", ())
    held.loading("GPU-mainpc-1", NOW + 5)
    assert where(room(held)) == ("pc2:3", ())
    held.loading("GPU-mainpc-1", 0.0)
    assert where(room(held)) == ("mainpc:1", ())


def test_room_beside_a_loader_that_is_soon_idle_comes_before_ending_what_is_wanted() -> None:
    held = residency(card(0, 8), card(1, 0))
    held.put("GPU-mainpc-1", tenant("wanted", load_s=40))
    held.used(ModelKey("wanted"), NOW)
    held.loading("GPU-mainpc-0", NOW + 2)
    found = room(held)
    assert where(found) == ("mainpc:0", ())
    assert found is not None
    assert found.cost_s == found.queued_load_s == 2


def test_a_load_that_is_overdue_is_still_one() -> None:
    held = residency(card(0, 8))
    held.loading("GPU-mainpc-0", NOW - 60)
    found = room(held)
    assert found is not None
    assert found.queued_load_s == OVERDUE_S
    assert held.loaders(NOW) == [OVERDUE_S]


def test_without_room_the_least_wanted_goes() -> None:
    held = residency(card(0, 0), card(1, 0))
    for index, name in ((0, "busy"), (0, "seldom"), (1, "often")):
        held.put(f"GPU-mainpc-{index}", tenant(name))
    for name, gap in (("busy", 10), ("seldom", 5_000), ("often", 100)):
        held.used(ModelKey(name), NOW - gap)
        held.used(ModelKey(name), NOW)
    found = room(held)
    assert where(found) == ("mainpc:0", ("seldom",))
    assert found is not None
    assert found.dearest == held.ranked(Wish("new", 4 * GIB), 50, NOW)[0].plan.dearest


def test_nobody_goes_who_is_pinned_used_expiring_above_or_without_bytes() -> None:
    held = residency(card(0, 0))
    for changes in ({"pinned": True}, {"in_use": True}, {"expiring": True}, {"priority": 51}, {"gib": 0.0}):
        held.put("GPU-mainpc-0", tenant(str(changes), **changes))
    assert room(held) is None
    assert where(room(held, priority=51)) == ("mainpc:0", ("{'priority': 51}",))


def test_a_request_passes_over_what_it_may_not_evict_to_what_it_may() -> None:
    held = residency(card(0, 0))
    held.put("GPU-mainpc-0", tenant("above", 8, load_s=0.1, priority=80))
    held.put("GPU-mainpc-0", tenant("equal", 8))
    assert where(room(held)) == ("mainpc:0", ("equal",))
    assert where(room(held, priority=80)) == ("mainpc:0", ("above",))


def test_a_card_that_is_kept_closed_or_too_small_is_not_in_question() -> None:
    held = residency(card(0, 5), card(1, 0, problem="too hot"), card(2, 0, capacity_gib=3), card(3, 0))
    for index in (1, 2, 3):
        held.put(f"GPU-mainpc-{index}", tenant(f"on{index}"))
    wish = Wish("new", 4 * GIB)
    assert where(held.room(wish, 50, NOW, {"GPU-mainpc-0"})) == ("mainpc:3", ("on3",))
    assert held.room(wish, 50, NOW, {"GPU-mainpc-0", "GPU-mainpc-3"}) is None
    assert [each.site.card.index for each in held.ranked(wish, 50, NOW, {"GPU-mainpc-0"})] == [3]


def test_who_turns_out_not_to_be_needed_stays() -> None:
    held = residency(card(0, 0))
    held.put("GPU-mainpc-0", tenant("cheap", 1, load_s=0.1))
    held.put("GPU-mainpc-0", tenant("dear", 8))
    assert where(room(held, 8)) == ("mainpc:0", ("dear",))


def test_a_use_makes_a_model_dearer_at_once() -> None:
    held = residency(card(0, 0))
    for name in ("a", "b"):
        held.put("GPU-mainpc-0", tenant(name))
        held.used(ModelKey(name), NOW - 50)
    assert where(room(held)) == ("mainpc:0", ("a",))
    for at in (NOW - 10, NOW):
        held.used(ModelKey("a"), at)
        held.used(ModelKey("absent"), at)
    assert where(room(held)) == ("mainpc:0", ("b",))


def test_prices_are_drawn_up_anew_when_they_are_old() -> None:
    held = residency(card(0, 0))
    held.put("GPU-mainpc-0", tenant("a"))
    held.used(ModelKey("a"), NOW)
    before, soon, later = room(held), room(held, now=NOW + REFRESH_S), room(held, now=NOW + 7_000)
    assert before is not None
    assert soon is not None
    assert later is not None
    assert before.dearest == soon.dearest > later.dearest


def test_of_cards_that_cost_as_much_the_one_with_the_least_left_over_is_taken() -> None:
    held = residency(card(0, 1), card(1, 0), card(2, 0))
    for index in range(3):
        held.put(f"GPU-mainpc-{index}", Tenant(f"lease{index}", ModelKey("a"), 4 * GIB, 50, 4.0))
    assert where(room(held)) == ("mainpc:1", ("lease1",))


def test_a_victim_is_expiring_at_once_and_teaches_the_horizon() -> None:
    held = residency(card(0, 0))
    held.put("GPU-mainpc-0", tenant("a"))
    held.used(ModelKey("a"), NOW - 100)
    held.evict("GPU-mainpc-0", "a", NOW)
    assert [each.expiring for _, each in held.homes(ModelKey("a"))] == [True]
    assert room(held) is None
    assert held.horizon.seconds == pytest.approx(0.95 * 600 + 0.05 * 100)


def test_what_left_a_card_is_nobodys_victim() -> None:
    held = residency(card(0, 0))
    held.put("GPU-mainpc-0", tenant("a"))
    assert room(held) is not None
    held.drop("GPU-mainpc-0", "a")
    assert room(held) is None
    assert list(held.homes(ModelKey("a"))) == []


def test_a_model_may_live_on_several_cards() -> None:
    held = residency(card(0, 0), card(1, 0))
    for index in (0, 1):
        held.put(f"GPU-mainpc-{index}", Tenant(f"lease{index}", ModelKey("a"), GIB, 50, 1.0))
    held.drop("GPU-mainpc-0", "lease0")
    assert [uuid for uuid, _ in held.homes(ModelKey("a"))] == ["GPU-mainpc-1"]


def test_a_lease_of_several_cards_is_on_each_of_them() -> None:
    held = residency(card(0, 0), card(1, 0))
    for index in (0, 1):
        held.put(f"GPU-mainpc-{index}", tenant("wide"))
    assert [uuid for uuid, _ in held.homes(ModelKey("wide"))] == ["GPU-mainpc-0", "GPU-mainpc-1"]
    before = [room(held, card_uuid=f"GPU-mainpc-{index}") for index in (0, 1)]
    for at in (NOW - 10, NOW):
        held.used(ModelKey("wide"), at)
    after = [room(held, card_uuid=f"GPU-mainpc-{index}") for index in (0, 1)]
    for cheap, dear in zip(before, after, strict=True):
        assert cheap is not None
        assert dear is not None
        assert cheap.dearest < dear.dearest
    held.drop("GPU-mainpc-0", "wide")
    assert [uuid for uuid, _ in held.homes(ModelKey("wide"))] == ["GPU-mainpc-1"]
    held.lose("GPU-mainpc-1")
    assert list(held.homes(ModelKey("wide"))) == []


def test_however_many_sizes_are_asked_for_the_answer_is_the_same() -> None:
    held = residency(card(0, 0), card(1, 0))
    held.put("GPU-mainpc-0", tenant("small", 20, load_s=1))
    held.put("GPU-mainpc-1", tenant("large", 20, load_s=9))
    for _ in range(2):
        for gib in range(1, KEPT_LINES + 8):
            found = room(held, gib)
            assert where(found) == ("mainpc:0", ("small",)) if gib <= 20 else found is None
    held.see(card(0, 0, problem="too hot"))
    assert where(room(held, 2)) == ("mainpc:1", ("large",))


def test_a_lost_card_takes_its_leases_along() -> None:
    held = residency(card(0, 8), card(1, 0))
    held.put("GPU-mainpc-0", tenant("a"))
    held.put("GPU-mainpc-1", tenant("b"))
    assert where(room(held)) == ("mainpc:0", ())
    assert where(held.room(Wish("new", 4 * GIB), 50, NOW, {"GPU-mainpc-0"})) == ("mainpc:1", ("b",))
    held.lose("GPU-mainpc-0")
    assert where(room(held)) == ("mainpc:1", ("b",))
    held.loading("GPU-mainpc-1", NOW)
    held.lose("GPU-mainpc-1")
    assert room(held) is None
    assert held.loaders(NOW) == []
    held.see(card(2, 0))
    held.lose("GPU-mainpc-2")
    assert room(held) is None
    held.see(card(0, 8))
    assert where(room(held)) == ("mainpc:0", ())


def test_a_card_that_closes_and_opens_again_is_found_again() -> None:
    held = residency(card(0, 8))
    held.see(card(0, 8, problem="too hot"))
    assert room(held) is None
    held.see(card(0, 6))
    assert where(room(held)) == ("mainpc:0", ())


tenants = st.builds(
    Tenant,
    lease_id=st.uuids().map(str),
    key=st.sampled_from([ModelKey(name) for name in "abcdefgh"]),
    bytes=st.integers(0, 10).map(lambda units: units * GIB // 2),
    priority=st.sampled_from([50, 50, 50, 70]),
    load_s=st.sampled_from([1.0, 4.0, 9.0]),
    pinned=st.sampled_from([False, False, False, True]),
    in_use=st.sampled_from([False, False, False, True]),
    expiring=st.sampled_from([False, False, False, True]),
)
cards = st.tuples(st.integers(0, 8), st.sampled_from([0.0, 0.0, NOW - 1, NOW + 3]), st.lists(tenants, max_size=6))


@settings(max_examples=150, deadline=None)
@given(
    cards=st.lists(cards, min_size=1, max_size=5),
    uses=st.lists(st.tuples(st.sampled_from("abcdefgh"), st.floats(0, NOW)), max_size=20),
    gib=st.integers(0, 24),
    priority=st.sampled_from([50, 70]),
)
def test_the_quick_answer_is_the_long_one(
    cards: list[tuple[int, float, list[Tenant]]], uses: list[tuple[str, float]], gib: int, priority: int
) -> None:
    held = residency()
    for name, at in sorted(uses, key=lambda use: use[1]):
        held.used(ModelKey(name), at)
    for index, (free, until, living) in enumerate(cards):
        held.see(card(index, free))
        for each in living:
            held.put(f"GPU-mainpc-{index}", each)
        held.loading(f"GPU-mainpc-{index}", until)
    wish = Wish("new", gib * GIB // 2)
    found, best = held.room(wish, priority, NOW), held.ranked(wish, priority, NOW)[0]
    assert (found is not None) == best.possible
    if found is not None:
        assert found.card == best.site.card
        assert found.victims == tuple(each.lease_id for each in best.plan.chosen)
        assert found.cost_s == pytest.approx(best.cost_s)
        assert found.queued_load_s == best.site.queued_load_s
