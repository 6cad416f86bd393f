from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

from pc2.observability_hub.probing import Probing
from pc2.observability_hub.ward import Ward


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


def test_once_it_is_closed_nobody_is_probed_whoever_is_told_of() -> None:
    loop = Loop()
    shell: Any = SimpleNamespace(loop=loop, clock=SimpleNamespace(monotonic=lambda: 5.0))
    ward = Ward(["pc2"], frozenset({"pc2"}), {}, 0.0, 0.0)
    probing = Probing(shell, ward, SimpleNamespace(), lambda *_: None, lambda _: None)  # type: ignore[arg-type]
    probing.begin()
    loop.timers[-1].fire()
    assert not loop.timers[-1].cancelled
    probing.close()
    probing.look("pc2/supervisor")
    probing.tidy()
    assert all(timer.cancelled for timer in loop.timers)
