from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.scenarios import (
    ORDER,
    errors,
    points,
    probing,
    scenario,
    tasks,
    tokens,
    vram_decisions,
    vram_placement,
    vram_queueing,
    vram_residency,
    watched,
)
from benchmarks.scenarios.fabric import SERVICES as MEASURED
from common.api.catalog import SERVICES
from pc2.error_bus.book import ErrorBook
from pc2.error_bus.occurrence import Moment
from pc2.error_bus.service import HIDING
from pc2.observability_hub.series import SeriesTable


@pytest.mark.parametrize("name", ORDER)
def test_every_scenario_can_be_run(name: str) -> None:
    assert callable(scenario(name))


def test_no_scenario_is_left_out_of_the_order() -> None:
    folder = Path(errors.__file__).parent

    assert {file.stem for file in folder.glob("*.py")} - {"__init__"} == set(ORDER)


def test_the_speed_that_services_promise_is_judged() -> None:
    targets = {
        errors.RATE: 10_000,
        points.RATE: 20_000,
        probing.EACH: 500,
        probing.BUSY: 50,
        tasks.RATE: 5_000,
        tokens.FIRST: 60,
        tokens.REPEATED: 3,
        watched.BEGUN: 5,
        watched.KILLED: 1,
        watched.STOPPED: 2,
        watched.SCREEN: 300,
        vram_residency.TARGETS["azure23"]: 1.26,
        vram_residency.TARGETS["servegen"]: 1.29,
        vram_queueing.MEAN["azure23"]: 1.05,
        vram_queueing.MEAN["servegen"]: 1.05,
        vram_queueing.P99["azure23"]: 1.15,
        vram_queueing.P99["servegen"]: 1.15,
        vram_queueing.UNSERVED: 0,
        vram_placement.FULL: 95.4,
        vram_decisions.FIT: 5,
        vram_decisions.EVICTION: 20,
        vram_decisions.LARGE: 250,
        vram_decisions.TABLE_FIT: 5,
        vram_decisions.LINE: 20,
    }

    assert {target: target.bound for target in targets} == targets


def test_the_errors_fall_into_as_many_groups_as_the_note_says() -> None:
    book = ErrorBook(HIDING)

    for number in range(2 * errors.KINDS):
        book.take(errors.report(number), "mainpc", Moment(1.0, 1.0))

    assert len(book) == errors.KINDS


def test_the_points_fall_into_as_many_series_as_the_note_says() -> None:
    table = SeriesTable()

    for number in range(2 * points.AGENTS):
        pushed = points.batch(number)
        assert table.take(pushed.agent, pushed.points, 1.0) == (points.BATCH, "")

    assert len(table) == points.AGENTS * points.METRICS


def test_every_service_of_a_whole_fabric_is_measured() -> None:
    services = {spec.name for spec in SERVICES} - {"Supervisor"}

    assert {name for _, name in MEASURED.values()} == services
