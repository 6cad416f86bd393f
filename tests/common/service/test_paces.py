from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from types import SimpleNamespace
from unittest.mock import Mock

import pytest

from common.service.paces import Paces


class Timer:
    def __init__(self, at: float, fire: Callable[[], None]) -> None:
        self.at, self.fire = at, fire
        self.cancelled = False

    def cancel(self) -> None:
        self.cancelled = True


class Loop:
    """A loop whose time stands until a test moves it."""

    def __init__(self) -> None:
        self.now = 100.0
        self.timers: list[Timer] = []

    def time(self) -> float:
        return self.now

    def call_at(self, at: float, fire: Callable[[], None]) -> Timer:
        self.timers.append(Timer(at, fire))
        return self.timers[-1]

    def wake(self, late_s: float = 0.0) -> float:
        (timer,) = [timer for timer in self.timers if not timer.cancelled]
        self.timers.clear()
        self.now = timer.at + late_s
        timer.fire()
        return timer.at


@pytest.fixture
def loop(monkeypatch: pytest.MonkeyPatch) -> Loop:
    loop = Loop()
    monkeypatch.setattr(asyncio, "get_running_loop", lambda: loop)
    return loop


def test_works_whose_paces_divide_each_other_share_one_wake_up(loop: Loop) -> None:
    done: list[str] = []
    paces = Paces(logging.getLogger("test"))
    for name, seconds in (("a", 0.25), ("b", 0.25), ("c", 0.5)):
        paces.every(seconds, lambda name=name: done.append(name))  # type: ignore[misc]
    assert [loop.wake(), loop.wake(0.01), loop.wake(), loop.wake()] == [100.25, 100.5, 100.75, 101.0]
    assert "".join(done) == "ab" + "abc" + "ab" + "abc"


def test_what_was_slept_through_is_done_once(loop: Loop) -> None:
    done: list[float] = []
    paces = Paces(logging.getLogger("test"))
    paces.every(1.0, lambda: done.append(loop.now))
    loop.wake(late_s=7.2)
    assert [loop.wake(), done] == [109.0, [108.2, 109.0]]


def test_a_pace_quicker_than_a_turn_is_done_once_a_turn(loop: Loop) -> None:
    done: list[float] = []
    Paces(logging.getLogger("test")).every(0.001, lambda: done.append(loop.now))
    loop.wake()
    assert len(done) == 1


def test_a_work_that_fails_is_told_and_keeps_nobody(loop: Loop, caplog: pytest.LogCaptureFixture) -> None:
    done: list[str] = []
    paces = Paces(logging.getLogger("test"))
    paces.every(1.0, lambda: SimpleNamespace().missing)
    paces.every(1.0, lambda: done.append("other"))
    loop.wake()
    loop.wake()
    assert done == ["other", "other"]
    assert "the work done every 1.0 s failed" in caplog.text


def test_a_work_that_meets_a_cancelled_task_takes_no_other_work_along(
    loop: Loop, caplog: pytest.LogCaptureFixture
) -> None:
    done: list[str] = []
    cancelled = SimpleNamespace(result=Mock(side_effect=asyncio.CancelledError))
    paces = Paces(logging.getLogger("test"))
    paces.every(1.0, cancelled.result)
    paces.every(1.0, lambda: done.append("other"))
    loop.wake()
    loop.wake()
    assert done == ["other", "other"]
    assert "the work done every 1.0 s failed" in caplog.text


def test_once_it_is_stopped_nothing_is_done_any_more(loop: Loop) -> None:
    Paces(logging.getLogger("test")).stop()
    paces = Paces(logging.getLogger("test"))
    done: list[str] = []

    def be_the_last() -> None:
        done.append("last")
        paces.stop()

    paces.every(1.0, be_the_last)
    paces.every(1.0, lambda: done.append("too late"))
    loop.wake()
    assert (done, [timer for timer in loop.timers if not timer.cancelled]) == (["last"], [])
