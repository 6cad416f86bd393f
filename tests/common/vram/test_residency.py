from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.vram.amount import GIB
from common.vram.demand import Demand, Horizon, ModelKey
from common.vram.placement import Candidate, Wish, pick
from common.vram.priced_cards import OVERDUE_S, Tenant, Uses
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


def test_no_more_stay_than_can_be_spared_together() -> None:
    held = residency(card(0, 0))
    for name in ("cheap-1", "cheap-2"):
        held.put("GPU-mainpc-0", tenant(name, 1, load_s=0.1))
    held.put("GPU-mainpc-0", tenant("dear", 8))
    assert where(room(held, 9)) == ("mainpc:0", ("cheap-1", "dear"))


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
    held = Residency(Demand(), Horizon(5.0))
    held.see(card(0, 0))
    held.put("GPU-mainpc-0", tenant("a"))
    for at in (NOW - 0.5, NOW):
        held.used(ModelKey("a"), at)
    before, soon, later = room(held), room(held, now=NOW + REFRESH_S), room(held, now=NOW + 7_000)
    assert before is not None
    assert soon is not None
    assert later is not None
    assert before.dearest == soon.dearest > later.dearest


def test_the_card_that_was_dearer_is_found_once_its_model_has_fallen_silent() -> None:
    held = residency(card(0, 0), card(1, 0))
    held.put("GPU-mainpc-0", tenant("seldom", load_s=4.0))
    held.put("GPU-mainpc-1", tenant("busy", load_s=3.0))
    held.used(ModelKey("seldom"), NOW)
    for at in (NOW - 10, NOW):
        held.used(ModelKey("busy"), at)
    assert where(room(held)) == ("mainpc:0", ("seldom",))
    assert where(room(held, now=NOW + 50_000)) == ("mainpc:1", ("busy",))


def test_what_is_free_on_a_card_makes_it_cheaper_for_whoever_needs_more() -> None:
    held = residency(card(0, 2), card(1, 0))
    held.put("GPU-mainpc-0", tenant("cheap", load_s=1.0))
    held.put("GPU-mainpc-0", tenant("dear", load_s=9.0))
    held.put("GPU-mainpc-1", tenant("middling", 6, load_s=3.0))
    assert where(room(held, 6)) == ("mainpc:0", ("cheap",))


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


def test_the_tightest_fit_is_asked_for_apart_whatever_the_card_loads() -> None:
    held = residency(card(0, 5), card(1, 8), card(2, 3, host="pc2"))
    held.queued("GPU-mainpc-0", 9.0)
    wish = Wish("new", 4 * GIB)
    fit, found = held.fit(wish), held.room(wish, 50, NOW)
    assert fit is not None
    assert (fit.index, where(found)) == (0, ("mainpc:1", ()))
    assert held.loaders(NOW) == [9.0, 0.0, 0.0]
    held.queued("GPU-mainpc-0", 0.0)
    assert where(held.room(wish, 50, NOW)) == ("mainpc:0", ())
    assert held.fit(wish, (), {"mainpc"}) is None
    assert held.fit(wish, {"GPU-mainpc-0", "GPU-mainpc-1"}) is None


def test_a_card_that_one_lease_has_to_itself_gives_up_all_or_nothing() -> None:
    alone = msgspec.structs.replace(card(0, 12), exclusive=True, leases=1)
    held = residency(alone)
    held.put("GPU-mainpc-0", tenant("a", 10))
    assert held.fit(Wish("new", 4 * GIB)) is None
    assert where(room(held)) == ("mainpc:0", ("a",))
    held.put("GPU-mainpc-0", tenant("a", 10, pinned=True))
    assert room(held) is None
    held.see(msgspec.structs.replace(alone, exclusive=False, leases=0))
    assert where(room(held)) == ("mainpc:0", ())


def test_a_pin_goes_only_where_the_budget_for_pins_has_room() -> None:
    full = msgspec.structs.replace(card(0, 5), pinned_bytes=18 * GIB)
    held = residency(full, card(1, 0))
    held.put("GPU-mainpc-1", tenant("a"))
    assert where(room(held)) == ("mainpc:0", ())
    assert where(room(held, pinned=True)) == ("mainpc:1", ("a",))
    assert [each.site.card.index for each in held.ranked(Wish("new", GIB * 4, pinned=True), 50, NOW)] == [1]


def test_what_is_said_twice_changes_nothing() -> None:
    held = residency(card(0, 5), card(1, 8))
    for _ in range(2):
        held.see(card(0, 6))
        held.loading("GPU-mainpc-0", NOW + 5)
        assert where(room(held)) == ("mainpc:1", ())


def test_a_card_to_itself_is_one_without_leases() -> None:
    held = residency(msgspec.structs.replace(card(0, 5), leases=1), card(1, 8))
    fit = held.fit(Wish("new", 4 * GIB, exclusive=True))
    assert fit is not None
    assert fit.index == 1


def test_a_lease_may_have_its_own_uses_counted() -> None:
    held = residency(card(0, 0))
    for name, last in (("a", NOW - 7_000), ("b", NOW - 10)):
        held.put("GPU-mainpc-0", Tenant(name, ModelKey("same"), 4 * GIB, 50, 4.0, uses=Uses(last, 20.0)))
    assert where(room(held)) == ("mainpc:0", ("a",))
    held.evict("GPU-mainpc-0", "a", NOW)
    assert held.horizon.seconds == pytest.approx(0.95 * 600 + 0.05 * 7_000)
    used = Tenant("c", ModelKey("same"), 4 * GIB, 50, 4.0, in_use=True, uses=Uses(NOW - 50, 20.0))
    assert used.resident(held.demand, NOW).idle_s == 0.0


def test_one_card_may_be_told_of_by_two_hosts() -> None:
    held = Residency(Demand(), Horizon())
    twin = msgspec.structs.replace(card(0, 8), host="pc2")
    held.see(card(0, 0, problem="owned by pc2"), "mainpc/0")
    held.see(twin, "pc2/0")
    held.put("pc2/0", tenant("a"))
    assert where(room(held)) == ("pc2:0", ())
    assert [each.residents for each in held.sites(NOW)] == [(tenant("a").resident(held.demand, NOW),)]
    held.lose("pc2/0")
    assert room(held) is None


tenants = st.builds(
    Tenant,
    lease_id=st.uuids().map(str),
    key=st.sampled_from([ModelKey(name) for name in "abcdefgh"]),
    bytes=st.integers(0, 10).map(lambda units: units * GIB // 2),
    priority=st.sampled_from([50, 50, 50, 70]),
    load_s=st.sampled_from([0.0, 1.0, 4.0, 9.0]),
    pinned=st.sampled_from([False, False, False, True]),
    in_use=st.sampled_from([False, False, False, True]),
    expiring=st.sampled_from([False, False, False, True]),
    uses=st.sampled_from([None, None, Uses(NOW - 30, 60.0), Uses(NOW - 3_000, 900.0)]),
)
seen = st.builds(
    card,
    index=st.integers(0, 1),
    free_gib=st.sampled_from([0, 0, 1, 2, 4, 8]),
    host=st.sampled_from(["mainpc", "pc2"]),
    problem=st.sampled_from(["", "", "", "too hot"]),
).flatmap(
    lambda each: st.builds(
        msgspec.structs.replace,
        st.just(each),
        exclusive=st.sampled_from([False, False, False, True]),
        pinned_bytes=st.sampled_from([0, 0, 15 * GIB]),
    )
)
cards = st.tuples(
    seen,
    st.sampled_from([("", 0.0), ("", 0.0), ("loading", NOW - 1), ("loading", NOW + 3), ("queued", 2.0)]),
    st.lists(tenants, max_size=6),
)
wishes = st.builds(
    Wish,
    model=st.just("new"),
    need_bytes=st.integers(0, 24).map(lambda units: units * GIB // 2),
    host=st.sampled_from(["", "", "pc2"]),
    card_uuid=st.sampled_from(["", "", "", "GPU-pc2-0"]),
    pinned=st.sampled_from([False, False, False, True]),
)


@settings(max_examples=200, deadline=None)
@given(
    cards=st.lists(cards, min_size=1, max_size=5, unique_by=lambda each: each[0].uuid),
    uses=st.lists(st.tuples(st.sampled_from("abcdefgh"), st.floats(0, NOW)), max_size=20),
    wish=wishes,
    priority=st.sampled_from([50, 70]),
    closed=st.sampled_from([frozenset[str](), frozenset[str](), frozenset({"GPU-mainpc-0"})]),
)
def test_the_quick_answer_is_the_long_one(
    cards: list[tuple[Candidate, tuple[str, float], list[Tenant]]],
    uses: list[tuple[str, float]],
    wish: Wish,
    priority: int,
    closed: frozenset[str],
) -> None:
    held = residency()
    for name, at in sorted(uses, key=lambda use: use[1]):
        held.used(ModelKey(name), at)
    for each, (how, seconds), living in cards:
        held.see(each)
        for lease in living:
            held.put(each.uuid, lease)
        if how:
            {"loading": held.loading, "queued": held.queued}[how](each.uuid, seconds)
    found = held.room(wish, priority, NOW, closed)
    best = next(iter(held.ranked(wish, priority, NOW, closed)), None)
    assert (found is not None) == (best is not None and best.possible)
    if found is not None and best is not None:
        assert found.card.uuid == best.site.card.uuid
        assert found.victims == tuple(each.lease_id for each in best.plan.chosen)
        assert found.cost_s == pytest.approx(best.cost_s)
        assert found.queued_load_s == best.site.queued_load_s
    assert held.fit(wish, closed) == pick(wish, [each for each, _, _ in cards], closed)
