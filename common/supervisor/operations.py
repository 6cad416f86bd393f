"""Operators' open operations on processes, and when each is over: done, overtaken by another, failed or out of time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from common.supervisor.instructions import Asked, Doing, OperationEnded
from common.supervisor.lifecycle import Lifecycle, State


@dataclass(frozen=True, slots=True)
class _Open:
    operation_id: str
    name: str
    doing: Doing
    life: int
    until: float


class Operations:
    """The operations in progress; every one that begins also ends, at the latest when its time is up."""

    def __init__(self) -> None:
        self._open: list[_Open] = []

    def begin(self, asked: Asked, life: int, limit_s: float) -> list[OperationEnded]:
        """Begins one, at `life` of its process; those for the opposite end as overtaken."""
        stops = asked.doing == "stop"
        overtaken = [one for one in self._open if one.name == asked.name and (one.doing == "stop") != stops]
        ended = self._end(overtaken, lambda one: f"overtaken by {asked.doing}")
        self._open.append(_Open(asked.operation_id, asked.name, asked.doing, life, asked.at + limit_s))
        return ended

    def settle(self, process: Lifecycle) -> list[OperationEnded]:
        """Ends the operations on `process` that its state now decides."""
        mine = [one for one in self._open if one.name == process.entry.name]
        done = [one for one in mine if _is_done(one, process)]
        failed = [one for one in mine if one not in done and _is_failed(process)]
        return self._end(done) + self._end(failed, lambda one: f"{process.state}: {process.last_exit}")

    def expire(self, at: float, reason: Callable[[str], str]) -> list[OperationEnded]:
        """Ends those whose time is up; `reason` tells of a process what it still waits for."""
        return self._end(
            [one for one in self._open if at >= one.until], lambda one: f"not done in time: {reason(one.name)}"
        )

    @property
    def next_at(self) -> float | None:
        """When the first one's time is up."""
        return min((one.until for one in self._open), default=None)

    def _end(self, ended: list[_Open], reason: Callable[[_Open], str] | None = None) -> list[OperationEnded]:
        self._open = [one for one in self._open if one not in ended]
        return [
            OperationEnded(one.operation_id, one.name, reason is None, reason(one) if reason else "") for one in ended
        ]


def _is_done(one: _Open, process: Lifecycle) -> bool:
    if one.doing == "stop":
        return process.state is State.STOPPED
    return process.state is State.READY and (one.doing == "start" or process.life > one.life)


def _is_failed(process: Lifecycle) -> bool:
    return process.state in (State.STOPPED, State.CRASH_LOOPING)
