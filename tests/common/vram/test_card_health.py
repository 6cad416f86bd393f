from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.vram.card_health import BAD_XIDS, RESET, HealthPolicy, HealthWatch, unfit
from common.vram.cards import CardSample, CardVitals


def card(temperature_c: float = 40.0, problem: str = "", **told: Any) -> CardSample:
    vitals = CardVitals(**{"slowdown_c": 90.0} | told)
    return CardSample(
        host="mainpc",
        index=0,
        uuid="GPU-a",
        name="card",
        total_bytes=24,
        free_bytes=24,
        used_bytes=0,
        temperature_c=temperature_c,
        problem=problem,
        vitals=vitals,
    )


def test_a_card_that_is_well_is_left_as_it_is() -> None:
    well = card(75.0, power_w=300.0, throttled=("power-cap", "sw-thermal"), xids=(13, 31, 43))
    assert HealthWatch().judged([well]) == [well]


def test_a_hot_card_closes_near_its_slowdown_and_opens_again_well_below() -> None:
    watch = HealthWatch()
    course = [(80.0, False), (87.9, False), (88.0, True), (85.0, True), (80.1, True), (80.0, False), (87.0, False)]
    assert [bool(watch.judged([card(heat)])[0].health) for heat, _ in course] == [hot for _, hot in course]


def test_heat_is_told_with_the_figures() -> None:
    assert unfit(card(91.0), False) == ("too hot: 91 °C of 90 °C; open again at 80 °C", True)
    slowed = card(70.0, throttled=("hw-thermal",))
    assert unfit(slowed, False) == ("too hot: 70 °C of 90 °C, and slowed by its hardware; open again at 80 °C", True)


def test_a_card_that_tells_no_limit_has_the_usual_one_and_one_without_a_thermometer_is_not_hot() -> None:
    assert unfit(card(89.9, slowdown_c=0.0), False) == ("", False)
    assert unfit(card(90.0, slowdown_c=0.0), False)[1]
    assert unfit(card(0.0), True) == ("", False)


@pytest.mark.parametrize(
    ("told", "reason"),
    [
        ({"uncorrected_errors": 3}, f"uncorrected memory errors since its driver was loaded: 3; {RESET}"),
        ({"repair_pending": True}, f"broken memory waits to be replaced by spare memory; {RESET}"),
        (
            {"repair_failed": True, "repair_pending": True},
            "broken memory could not be replaced by spare memory; the card should be exchanged",
        ),
        ({"xids": (13, 48, 31)}, f"the driver reported XID 48, a double-bit memory error; {RESET}"),
    ],
)
def test_broken_memory_and_bad_xids_close_a_card(told: dict[str, Any], reason: str) -> None:
    assert unfit(card(**told), False) == (reason, False)


@pytest.mark.parametrize("xid", [48, 62, 64, 79, 95, 119, 120, 140, 143])
def test_what_the_handbook_asks_a_reset_for_closes_a_card(xid: int) -> None:
    reason, _ = unfit(card(xids=(xid,)), False)
    assert reason.startswith(f"the driver reported XID {xid}, ")


def test_of_several_the_newest_is_told() -> None:
    reason, _ = unfit(card(xids=(48, 79, 31)), False)
    assert reason == f"the driver reported XID 79, it fell off the bus; {RESET}"


@pytest.mark.parametrize("xid", [13, 31, 43, 45, 68])
def test_what_a_program_did_to_itself_is_not_the_cards_fault(xid: int) -> None:
    assert unfit(card(xids=(xid,)), False) == ("", False)
    assert xid not in BAD_XIDS


def test_a_card_that_could_not_be_measured_keeps_its_reason_and_its_heat() -> None:
    watch = HealthWatch()
    watch.judged([card(95.0)])
    broken = card(0.0, problem="its memory could not be read")
    assert watch.judged([broken]) == [broken]
    assert watch.judged([card(85.0)])[0].health.startswith("too hot")


@settings(max_examples=50)
@given(st.lists(st.floats(60, 100), max_size=40))
def test_a_temperature_that_wobbles_within_the_band_changes_nothing(heats: list[float]) -> None:
    policy = HealthPolicy()
    watch, hot = HealthWatch(policy), False
    for heat in heats:
        now = bool(watch.judged([card(heat)])[0].health)
        if 90 - policy.reopen_below_c < heat < 90 - policy.close_below_c:
            assert now == hot
        else:
            assert now == (heat > 85)
        hot = now
