from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.store.memory import MemoryStore
from common.store.protocol import Durability
from common.vram.amount import GIB, MIB
from common.vram.demand import ModelKey
from common.vram.footprint import DEFAULT, REMEMBERED_LOOKS, FootprintPolicy, Footprints

LLAMA = ModelKey("llama", "ctx=8192")
WHISPER = ModelKey("whisper")


def looked(footprints: Footprints, *gib: float, key: ModelKey = LLAMA, warm_s: float = 60.0) -> Footprints:
    for each in gib:
        footprints.looked(key, int(each * GIB), warm_s)
    return footprints


def test_until_enough_was_measured_what_is_declared_counts() -> None:
    footprints = looked(Footprints("mainpc"), *[5.0] * (DEFAULT.least_looks - 1))
    assert footprints.need_bytes(LLAMA, 10 * GIB) == 10 * GIB
    looked(footprints, 5.0)
    assert footprints.need_bytes(LLAMA, 10 * GIB) == pytest.approx(5.1 * GIB, rel=0.011)


def test_an_estimate_wrong_by_30_per_cent_either_way_is_corrected_by_what_is_measured() -> None:
    for declared in (7 * GIB, 13 * GIB):
        footprints = looked(Footprints("mainpc"), *[10.0] * 60)
        footprints.declared(LLAMA, declared)
        known = footprints.get(LLAMA)
        assert known.declared_bytes == declared
        assert 10 * GIB <= known.measured_bytes <= 10.1 * GIB
        assert known.measured_bytes < footprints.need_bytes(LLAMA, declared) <= 10.31 * GIB


def test_the_need_leaves_room_for_growth_and_never_less_than_the_floor() -> None:
    footprints = looked(Footprints("mainpc"), *[0.25] * 60)
    known = footprints.get(LLAMA)
    assert known.need_bytes == known.measured_bytes + 64 * MIB


def test_looks_at_a_model_that_is_still_warming_up_do_not_count() -> None:
    footprints = looked(Footprints("mainpc"), *[2.0] * 200, warm_s=DEFAULT.warm_up_s - 1)
    assert footprints.get(LLAMA).looks == 0
    footprints.looked(LLAMA, 0, 60.0)
    assert footprints.get(LLAMA).looks == 0


def test_a_rare_spike_is_seen_but_not_leased_for() -> None:
    footprints = looked(Footprints("mainpc"), *[5.0] * 995, *[9.0] * 5)
    known = footprints.get(LLAMA)
    assert known.peak_bytes == 9 * GIB
    assert known.need_bytes < 5.2 * GIB


def test_what_a_model_was_long_ago_fades() -> None:
    footprints = looked(Footprints("mainpc"), *[9.0] * 100)
    assert footprints.get(LLAMA).measured_bytes >= 9 * GIB
    looked(footprints, *[5.0] * (REMEMBERED_LOOKS - 100))
    assert footprints.get(LLAMA).measured_bytes >= 9 * GIB
    looked(footprints, *[5.0] * (REMEMBERED_LOOKS // 2 + 100))
    assert footprints.get(LLAMA).measured_bytes < 5.1 * GIB
    assert footprints.get(LLAMA).looks <= REMEMBERED_LOOKS


@settings(max_examples=25, deadline=None)
@given(st.lists(st.floats(0.01, 80.0), min_size=30, max_size=120))
def test_the_p99_is_no_less_than_a_true_one_and_at_most_one_step_above_it(gib: list[float]) -> None:
    footprints = looked(Footprints("mainpc"), *gib)
    ranked = sorted(int(each * GIB) for each in gib)
    true = ranked[-1 - len(ranked) // 100]
    assert true * 0.9999 <= footprints.get(LLAMA).measured_bytes <= true * 1.0101 + MIB


def test_who_declares_another_size_means_another_load_which_is_learned_anew() -> None:
    footprints = looked(Footprints("mainpc"), *[10.0] * 60)
    footprints.declared(LLAMA, 9 * GIB)
    assert footprints.need_bytes(LLAMA, 9 * GIB) == footprints.get(LLAMA).need_bytes
    assert footprints.need_bytes(LLAMA, 0) == 0, "who wants none gets none"
    assert footprints.need_bytes(LLAMA, 20 * GIB) == 20 * GIB
    learned = footprints.get(LLAMA).need_bytes
    footprints.declared(LLAMA, learned)
    assert footprints.get(LLAMA).declared_bytes == 9 * GIB, "what was learned is no other size"
    footprints.loaded(LLAMA, "cold", 9.0, 10 * GIB)
    footprints.declared(LLAMA, 20 * GIB)
    known = footprints.get(LLAMA)
    assert (known.declared_bytes, known.need_bytes, known.looks, known.load_s) == (20 * GIB, 0, 0, {"cold": 9.0})


def test_a_reload_is_expected_from_the_page_cache_or_from_host_ram_and_unknown_where_none_was_seen() -> None:
    footprints = Footprints("mainpc")
    assert footprints.reload_seconds(LLAMA) is None
    footprints.loaded(LLAMA, "cold", 9.0, GIB)
    assert (footprints.reload_seconds(LLAMA), footprints.reload_seconds(LLAMA, asleep=True)) == (9.0, None)
    footprints.loaded(LLAMA, "cached", 4.0, GIB)
    footprints.loaded(LLAMA, "parked", 1.0, GIB)
    assert (footprints.reload_seconds(LLAMA), footprints.reload_seconds(LLAMA, asleep=True)) == (4.0, 1.0)


def test_rows_that_were_not_committed_are_given_again() -> None:
    footprints = Footprints("mainpc")
    footprints.declared(LLAMA, GIB)
    first = footprints.changes()
    footprints.unkept()
    assert footprints.changes() == first


def test_two_configurations_of_a_model_have_footprints_of_their_own() -> None:
    footprints = looked(Footprints("mainpc"), *[5.0] * 60)
    assert footprints.need_bytes(ModelKey("llama", "ctx=512"), 3 * GIB) == 3 * GIB


def test_one_who_holds_5_per_cent_more_than_leased_is_told_what_the_lease_should_be() -> None:
    footprints = Footprints("mainpc")
    assert footprints.overdrawn(10 * GIB, int(10.5 * GIB)) == 0
    assert footprints.overdrawn(10 * GIB, int(10.5 * GIB) + 1) > int(10.5 * GIB)
    assert footprints.overdrawn(10 * GIB, 0) == 0


def test_the_first_load_is_estimated_and_later_ones_are_known_by_tier() -> None:
    footprints = Footprints("mainpc")
    assert footprints.load_seconds(LLAMA, "cached", 5 * GIB) == pytest.approx(2 + 5 / 2.5)
    footprints.loaded(LLAMA, "cached", 3.0, 5 * GIB)
    footprints.loaded(LLAMA, "cached", 5.0, 5 * GIB)
    assert footprints.load_seconds(LLAMA, "cached", 5 * GIB) == pytest.approx(0.7 * 3 + 0.3 * 5)
    assert footprints.load_seconds(LLAMA, "cold", 5 * GIB) == pytest.approx(2 + 5)
    assert footprints.load_seconds(LLAMA, "parked", 4 * GIB) == pytest.approx(0.5 + 0.5)


def test_loads_of_some_models_teach_how_fast_the_host_loads_others() -> None:
    footprints = Footprints("pc2")
    footprints.loaded(LLAMA, "cold", 102.0, 100 * GIB)
    footprints.loaded(WHISPER, "cold", 1.0, 0)
    assert footprints.bytes_per_s("cold") == footprints.bytes_per_s("cold") == pytest.approx(GIB)
    for number in range(20):
        footprints.loaded(ModelKey(f"fast{number}"), "cold", 4.0, 20 * GIB)
    assert footprints.bytes_per_s("cold") == pytest.approx((104 + 400) / (104 + 40) * GIB)


def test_what_was_learned_outlives_a_restart() -> None:
    store = MemoryStore()
    footprints = looked(Footprints("mainpc"), *[5.0] * 60)
    footprints.loaded(LLAMA, "cold", 9.0, 5 * GIB)
    footprints.declared(WHISPER, GIB)
    store.commit(footprints.changes(), Durability.NORMAL)
    assert footprints.changes() == []
    restored = Footprints.restored("mainpc", store)
    assert list(restored) == sorted(footprints, key=lambda each: each.model)
    assert restored.changes() == []


def test_a_look_that_changes_nothing_that_counts_writes_nothing() -> None:
    footprints = looked(Footprints("mainpc"), *[5.0] * 60)
    assert len(footprints.changes()) == 1
    looked(footprints, *[5.0] * 60)
    footprints.declared(LLAMA, 0)
    assert footprints.changes() == []


def test_who_declares_nothing_changes_nothing_of_what_was_learned() -> None:
    footprints = looked(Footprints("mainpc"), *[5.0] * 60)
    footprints.declared(LLAMA, 10 * GIB)
    before = footprints.get(LLAMA)
    footprints.declared(LLAMA, 0)
    assert footprints.get(LLAMA) == before


def test_a_footprint_that_is_touched_again_pushes_none_out() -> None:
    footprints = Footprints("mainpc", FootprintPolicy(remembered_keys=2))
    for key in (LLAMA, WHISPER, WHISPER):
        looked(footprints, 1.0, key=key)
    assert [each.key for each in footprints] == [LLAMA, WHISPER]


def test_what_is_not_known_yet_is_nothing() -> None:
    known = Footprints("mainpc").get(LLAMA)
    assert (known.declared_bytes, known.measured_bytes, known.peak_bytes, known.need_bytes, known.looks) == (0,) * 5


def test_of_too_many_footprints_the_one_untouched_for_longest_is_forgotten_for_good() -> None:
    store = MemoryStore()
    footprints = Footprints("mainpc", FootprintPolicy(remembered_keys=2))
    for key in (LLAMA, WHISPER, LLAMA, ModelKey("flux")):
        footprints.declared(key, GIB + len(footprints))
    store.commit(footprints.changes(), Durability.NORMAL)
    assert {each.model for each in Footprints.restored("mainpc", store)} == {"llama", "flux"}
    assert len(footprints) == 2
