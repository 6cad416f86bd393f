from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

from pc2.observability_hub.evidence import Outcome, Weight
from pc2.observability_hub.probing import Probing
from pc2.observability_hub.ward import Ward
from tests.pc2.observability_hub.saying import process


class Timer:
    def __init__(self, fire: Callable[[], None]) -> None:
        self.fire = fire
        self.cancelled = False

    def cancel(self) -> None:
        self.cancelled = True


class Loop:
    """Timers that never fire by themselves."""

    def __init__(self) -> None:
        self.timers: list[Timer] = []

    def call_later(self, _delay_s: float, fire: Callable[[], None]) -> Timer:
        self.timers.append(Timer(fire))
        return self.timers[-1]


def probing_of(ward: Ward, loop: Loop, told: list[tuple[str, Outcome]]) -> Probing:
    report = SimpleNamespace(ready=True, status="ok", reasons=[])
    shell: Any = SimpleNamespace(
        loop=loop,
        clock=SimpleNamespace(monotonic=lambda: 5.0),
        rng=SimpleNamespace(random=lambda: 0.0),
        settings=SimpleNamespace(host="pc2", service="ObservabilityHub"),
        report=lambda: report,
    )
    client: Any = SimpleNamespace()
    return Probing(shell, ward, client, lambda key, _life, outcome, _at: told.append((key, outcome)), lambda _: None)


def test_the_hub_knows_of_itself_without_a_question() -> None:
    loop, told = Loop(), list[tuple[str, Outcome]]()
    ward = Ward([], frozenset(), {}, 0.0, 0.0)
    ward.told("pc2", process("observability_hub", kind="service"), "", 0.0, 0.0)
    probing = probing_of(ward, loop, told)
    probing.look("pc2/observability_hub")
    loop.timers[-1].fire()
    assert told == [("pc2/observability_hub", Outcome(Weight.WELL))]
    assert (probing.done, probing.under_way) == (1, 0)


def test_once_it_is_closed_nobody_is_probed_whoever_is_told_of() -> None:
    loop = Loop()
    probing = probing_of(Ward(["pc2"], frozenset({"pc2"}), {}, 0.0, 0.0), loop, [])
    probing.tidy()
    assert not loop.timers[-1].cancelled
    probing.close()
    probing.look("pc2/supervisor")
    probing.tidy()
    assert all(timer.cancelled for timer in loop.timers)
