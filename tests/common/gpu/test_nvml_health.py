from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pynvml
import pytest

from common.gpu.nvml import NvmlCards
from common.gpu.nvml_health import MOST_EVENTS
from common.gpu.simulated import GIB, CardFile, SimulatedCards, card_uuid, create_card
from common.vram.cards import UNTOLD, CardSample, CardVitals

pytestmark = pytest.mark.usefixtures("nvml")

ILL: dict[str, Any] = {
    "temperature_c": 88.0,
    "slowdown_c": 93.0,
    "shutdown_c": 98.0,
    "throttled": ("hw-thermal", "hw-power-brake", "hw-slowdown", "sw-thermal", "power-cap"),
    "power_w": 321.0,
    "power_limit_w": 350.0,
    "uncorrected_errors": 2,
    "repair_pending": True,
    "repair_failed": True,
    "xids": (13, 79),
}


def change(cards: Path, **told: Any) -> None:
    create_card(cards / "0", CardFile(card_uuid("mainpc", 0), "Simulated", 24 * GIB, **told))


def first(source: NvmlCards) -> CardSample:
    return source.sample(0.0)[0]


def test_a_card_tells_of_its_health(cards: Path) -> None:
    change(cards, **ILL)
    source = NvmlCards("mainpc")
    source.sample(0.0)
    told = {name: value for name, value in ILL.items() if name != "temperature_c"}
    assert first(source).vitals == CardVitals(**told)
    assert first(source).temperature_c == 88.0


def test_both_sources_tell_the_same_of_an_ill_card(cards: Path) -> None:
    change(cards, **ILL)
    source = NvmlCards("mainpc")
    source.sample(0.0)
    simulated = SimulatedCards("mainpc", cards).sample(3.0)
    assert source.sample(3.0) == [msgspec.structs.replace(each, simulated=False) for each in simulated]


def test_a_card_that_tells_nothing_of_its_health_still_has_memory(cards: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TANDEM_NVML_WITHOUT", "health")
    change(cards, **ILL)
    source = NvmlCards("mainpc")
    source.sample(0.0)
    assert (first(source).vitals, first(source).free_bytes, first(source).problem) == (UNTOLD, 24 * GIB, "")


def test_an_older_card_tells_of_retired_pages_and_an_older_driver_of_throttling(
    cards: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TANDEM_NVML_WITHOUT", "remapping,v2")
    change(cards, repair_pending=True, repair_failed=True, throttled=("power-cap",))
    vitals = first(NvmlCards("mainpc")).vitals
    assert (vitals.repair_pending, vitals.repair_failed, vitals.throttled) == (True, False, ("power-cap",))


def test_xids_come_as_they_are_reported_each_once(cards: Path) -> None:
    source = NvmlCards("mainpc")
    assert first(source).vitals.xids == ()
    change(cards, xids=(31,))
    assert first(source).vitals.xids == (31,)
    change(cards, xids=(31, 48, 31))
    assert first(source).vitals.xids == (48, 31)
    assert source.sample(1.0)[1].vitals.xids == ()


def test_a_flood_of_xids_does_not_hold_up_a_look(cards: Path) -> None:
    source = NvmlCards("mainpc")
    first(source)
    change(cards, xids=tuple(range(1, MOST_EVENTS + 3)))
    assert first(source).vitals.xids[-1] == MOST_EVENTS
    assert first(source).vitals.xids[-1] == MOST_EVENTS + 2


def test_a_card_that_was_lost_and_came_back_starts_without_xids(cards: Path) -> None:
    source = NvmlCards("mainpc")
    first(source)
    change(cards, xids=(79,))
    assert first(source).vitals.xids == (79,)
    change(cards, xids=(79,), fault="lost")
    gone = first(source)
    assert gone.lost
    assert gone.problem.startswith("Simulated: the card has fallen off the bus")
    change(cards, xids=(79,))
    back = first(source)
    assert (back.lost, back.vitals.xids) == (False, ())
    change(cards, xids=(79, 31))
    assert first(source).vitals.xids == (31,), "it is listened to again"


def test_only_the_loss_of_the_card_itself_is_told_as_a_loss(cards: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = NvmlCards("mainpc")
    source.sample(0.0)
    for fault in ("reset_required", "memory_unreadable"):
        change(cards, fault=fault)
        assert (first(source).lost, bool(first(source).problem)) == (False, True)
    monkeypatch.setenv("TANDEM_NVML_WITHOUT", "driver")
    assert [each.lost for each in source.sample(1.0)] == [False, False]
    monkeypatch.delenv("TANDEM_NVML_WITHOUT")
    (cards / "0").rename(cards / "moved")
    assert [each.lost for each in source.sample(2.0)] == [False, True]


def test_a_divided_card_is_told_as_one(cards: Path) -> None:
    change(cards, mig=True)
    sample = first(NvmlCards("mainpc"))
    assert sample.mig
    assert not sample.lost
    assert "MIG is enabled" in sample.problem


def test_events_that_cannot_be_had_stop_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise pynvml.NVMLError(pynvml.NVML_ERROR_NO_PERMISSION)

    monkeypatch.setattr(pynvml, "nvmlDeviceRegisterEvents", refuse)
    monkeypatch.setattr(pynvml, "nvmlEventSetFree", refuse)
    source = NvmlCards("mainpc")
    assert first(source).problem == ""
    source.close()
    assert first(source).problem == ""


def test_events_of_another_kind_are_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    source = NvmlCards("mainpc")
    first(source)
    handle = pynvml.nvmlDeviceGetHandleByIndex(0)
    events = [SimpleNamespace(device=handle, eventType=kind, eventData=79) for kind in (0x1, 0x10)]

    def wait(*_: object) -> object:
        if not events:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_TIMEOUT)
        return events.pop()

    monkeypatch.setattr(pynvml, "nvmlEventSetWait_v2", wait)
    assert first(source).vitals.xids == ()
    assert events == []
