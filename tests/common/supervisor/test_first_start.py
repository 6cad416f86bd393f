from __future__ import annotations

from collections.abc import Sequence

from common.api.basic import Phase
from common.config.schema import Agent, HealthProbe
from common.config.units import Duration
from common.supervisor.desk import Standing
from common.supervisor.first_start import FirstStart
from common.supervisor.instructions import Changed, Launch, Terminate


def standing(name: str, phase: Phase, *, life: int = 1, enabled: bool = True) -> Standing:
    entry = Agent(name, ["x"], enabled=enabled, health=HealthProbe(ready_within_s=Duration(10)))
    return Standing(entry, phase, "", None, life, 0.0, 0, "", ())


def names(standings: Sequence[Standing]) -> list[str]:
    return [one.entry.name for one in standings]


def test_it_is_ready_when_every_enabled_process_is() -> None:
    start = FirstStart()
    processes = [standing("a", "starting"), standing("b", "stopped", life=0, enabled=False)]
    assert start.verdict(processes, 1.0) == "starting"
    start.note(Changed("a", "starting", "draining"), 1.0)
    assert names(start.missing(processes)) == ["a"]
    assert start.verdict([standing("a", "ready"), processes[1]], 2.0) == "ready"


def test_a_job_that_was_ready_and_has_ended_is_not_missed() -> None:
    start = FirstStart()
    assert start.verdict([standing("job", "stopped")], 1.0) == "failed"
    start.note(Changed("job", "starting", "ready"), 2.0)
    assert start.verdict([standing("job", "stopped")], 3.0) == "ready"
    assert start.verdict([standing("job", "crash-looping")], 3.0) == "failed"


def test_it_has_failed_once_nothing_that_was_launched_can_become_ready() -> None:
    start = FirstStart()
    waits = standing("waits", "starting", life=0)
    assert start.verdict([standing("loops", "crash-looping"), standing("tries", "starting"), waits], 1.0) == "starting"
    assert start.verdict([standing("loops", "crash-looping"), waits], 1.0) == "failed"
    assert start.verdict([standing("ended", "stopped"), waits], 1.0) == "failed"
    assert start.verdict([waits], 1e9) == "starting", "another host may come at any time"


def test_a_process_that_restarts_for_longer_than_it_may_take_has_failed() -> None:
    start = FirstStart()
    start.note(Launch("a", 1), 5.0)
    start.note(Terminate("a", 1), 6.0)
    start.note(Launch("a", 2), 12.0)
    assert start.verdict([standing("a", "starting", life=2)], 14.9) == "starting"
    assert start.verdict([standing("a", "starting", life=2)], 15.0) == "failed"
