"""What the desk hears and what it wants done: the events and instructions between common/supervisor/desk.py and its shell.

`life` numbers the launches of one process; an event of an earlier life than the current one is ignored, so nothing that comes
late can do harm. All times are readings of one monotonic clock, in seconds.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from common.api.basic import Phase

Doing = Literal["start", "stop", "restart"]


@dataclass(frozen=True, slots=True)
class Asked:
    """An operator wants `name` started, stopped or restarted; `OperationEnded` will come for `operation_id`, always."""

    name: str
    doing: Doing
    operation_id: str
    at: float


@dataclass(frozen=True, slots=True)
class Launched:
    """A `Launch` was performed: the process, pinned by pid and start time, the ports it was given, and the mark it carries."""

    name: str
    life: int
    at: float
    pid: int
    start_time: int
    port: int = 0
    events_port: int = 0
    health_check_port: int = 0
    mark: str = ""


@dataclass(frozen=True, slots=True)
class Adopted:
    """A process that outlived the supervisor before us runs on as the first life of `name`; it is probed like a launched one."""

    process: Launched


@dataclass(frozen=True, slots=True)
class Exited:
    """A life is over, with its whole session; also the answer to a `Launch` that failed (`code` None, with the reason)."""

    name: str
    life: int
    at: float
    code: int | None
    reason: str = ""
    stderr_tail: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Probed:
    """A `Probe` is over: ready, or why not."""

    name: str
    life: int
    at: float
    ready: bool
    reason: str = ""


@dataclass(frozen=True, slots=True)
class PeerHeard:
    """Another host's process is in `phase`."""

    host: str
    name: str
    phase: Phase
    at: float


@dataclass(frozen=True, slots=True)
class PeerLost:
    """Another host's supervisor cannot be heard any more."""

    host: str
    at: float


@dataclass(frozen=True, slots=True)
class Tick:
    """Time has passed; due when `Desk.next_at` says, harmless at any other time."""

    at: float


@dataclass(frozen=True, slots=True)
class ShutdownAsked:
    """Everything is to stop, in reverse order; `Finished` comes when all has."""

    at: float


Event = Asked | Launched | Adopted | Exited | Probed | PeerHeard | PeerLost | Tick | ShutdownAsked


@dataclass(frozen=True, slots=True)
class Launch:
    """Start the process, then feed `Launched` or `Exited`."""

    name: str
    life: int


@dataclass(frozen=True, slots=True)
class Probe:
    """Ask once whether the process is ready, then feed `Probed`."""

    name: str
    life: int


@dataclass(frozen=True, slots=True)
class Terminate:
    """Send the stop signal of the process's entry to its whole session; `Exited` follows when all of it is gone."""

    name: str
    life: int


@dataclass(frozen=True, slots=True)
class Kill:
    """KILL everything in the process's session; `Exited` follows."""

    name: str
    life: int


@dataclass(frozen=True, slots=True)
class Changed:
    """The process went from one phase to another: tell whoever listens."""

    name: str
    was: Phase
    now: Phase


@dataclass(frozen=True, slots=True)
class OperationEnded:
    """An operation is over, as asked or not; `reason` says why not."""

    operation_id: str
    name: str
    succeeded: bool
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Finished:
    """After `ShutdownAsked`: nothing runs any more."""


Instruction = Launch | Probe | Terminate | Kill | Changed | OperationEnded | Finished
