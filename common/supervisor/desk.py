"""One host's processes together: dependencies, restart policies and lifecycles behind one door; never touches a process.

How a shell drives it, on one loop:

    desk = Desk(startup, rng, now)
    perform(desk.begin(now))                         # once: every enabled process is asked to start
    perform(desk.handle(event))                      # whatever happened, in the order in which it happened
    arm a timer for desk.next_at(); then perform(desk.handle(Tick(now)))

`perform` does each instruction in order before it looks at the next event, and feeds back what instructions.py asks for:
`Launch` -> `Launched` or `Exited`; `Probe` -> `Probed`, within the entry's health.timeout_s; `Terminate` and `Kill` -> nothing,
until `Exited` says that the whole session is gone. Each `Asked` gets one `OperationEnded`. After `ShutdownAsked` nothing is
launched, and `Finished` comes once. An unknown name raises NotFound; an illegal move is a bug and raises Internal with
the process's story.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import Final

from common.api.basic import Phase
from common.clock import Rng
from common.config.schema import Entry, Startup
from common.errors import NotFound, Unavailable
from common.supervisor.graph import Graph
from common.supervisor.instructions import (
    Adopted,
    Asked,
    Changed,
    Event,
    Exited,
    Finished,
    Instruction,
    Launched,
    PeerHeard,
    PeerLost,
    Probed,
    Tick,
)
from common.supervisor.last_words import last_line
from common.supervisor.lifecycle import RUNNING, Lifecycle, State
from common.supervisor.operations import Operations

PATIENCE_S: Final = 30.0
"""How long an operation may take beyond the process's own time to stop and to become ready: time spent waiting for others."""
LAST_LINE: Final = 120
"""Characters of a process's last line that its row in the table shows."""


@dataclass(frozen=True, slots=True)
class Standing:
    """One process as it stands: what lists and the readiness table show. `life` is 0 before the first launch.

    `late`: its last life was ended because it had not become ready in time.
    """

    entry: Entry
    phase: Phase
    waiting_for: str
    launched: Launched | None
    life: int
    since: float
    restarts: int
    last_exit: str
    stderr_tail: tuple[str, ...]
    late: bool = False


class Desk:
    """All processes of one host's startup file; events in, instructions out."""

    def __init__(self, startup: Startup, rng: Rng, at: float) -> None:
        self._rng = rng
        self._graph = Graph(startup.host, startup.entries)
        self._processes = {entry.name: Lifecycle(entry, at) for entry in startup.entries}
        self._operations = Operations()
        self._stopping = self._finished = False
        for process in self._processes.values():
            self._note(process)

    def begin(self, at: float) -> list[Instruction]:
        """Asks every enabled process to start that does not already (as an adopted one does)."""
        found: list[Instruction] = []
        for process in self._processes.values():
            if process.entry.enabled and process.state is State.STOPPED:
                found += self._within(process, partial(process.start, at))
        return found + self._advance(at)

    def handle(self, event: Event) -> list[Instruction]:
        """What is to be done now that `event` has happened."""
        match event:
            case Asked():
                found = self._asked(event)
            case Adopted(process=launched):
                process = self._find(launched.name)
                found = self._within(process, partial(process.adopt, launched))
                return found + self._advance(launched.at)
            case Launched() | Exited() | Probed():
                found = self._reported(event)
            case PeerHeard():
                self._graph.heard(f"{event.host}/{event.name}", event.phase)
                found = []
            case PeerLost():
                self._graph.lost(event.host)
                found = []
            case Tick():
                found = self._tick(event.at)
            case _:  # ShutdownAsked
                self._stopping = True
                found = self._each(self._processes.values(), lambda process: process.forgo(event.at))
        return found + self._advance(event.at)

    def next_at(self) -> float | None:
        """When the next `Tick` is due; None while only events can change anything."""
        times = [process.next_at for process in self._processes.values()] + [self._operations.next_at]
        return min((time for time in times if time is not None), default=None)

    def standing(self, name: str, at: float) -> Standing:
        """One process as it stands at `at`; NotFound for a name that the startup file does not have."""
        process = self._find(name)
        return Standing(
            entry=process.entry,
            phase=process.phase,
            waiting_for=self._waiting_for(process, at),
            launched=process.launched,
            life=process.life,
            since=process.since,
            restarts=process.restarts,
            last_exit=process.last_exit,
            stderr_tail=process.stderr_tail,
            late=not process.in_time,
        )

    def standings(self, at: float) -> list[Standing]:
        """Every process as it stands at `at`, in the startup file's order."""
        return [self.standing(name, at) for name in self._processes]

    def _asked(self, event: Asked) -> list[Instruction]:
        process = self._find(event.name)
        if self._stopping and event.doing != "stop":
            raise Unavailable(f"{event.name} cannot {event.doing}: this host's supervisor is stopping")
        act = {"start": process.start, "stop": process.stop, "restart": process.restart}[event.doing]
        limit_s = process.entry.health.ready_within_s + process.entry.stop.term_s + PATIENCE_S
        overtaken = self._operations.begin(event, process.life, limit_s)
        return [*overtaken, *self._within(process, partial(act, event.at))]

    def _reported(self, event: Launched | Exited | Probed) -> list[Instruction]:
        process = self._find(event.name)
        if event.life != process.life:
            return []
        match event:
            case Launched():
                return self._within(process, partial(process.on_launched, event))
            case Probed():
                return self._within(process, partial(process.on_probed, event))
        return self._within(process, partial(process.on_exited, event, self._rng))

    def _tick(self, at: float) -> list[Instruction]:
        found: list[Instruction] = []
        for process in self._processes.values():
            found += self._within(process, partial(process.tick, at))
        return found + list(self._operations.expire(at, lambda name: self._waiting_for(self._find(name), at)))

    def _advance(self, at: float) -> list[Instruction]:
        """Lets go whoever need not wait any more, until nobody else is freed by it."""
        found: list[Instruction] = []
        while step := self._stop_some(at) if self._stopping else self._open_some(at):
            found += step
        if self._stopping and not self._finished and all(one.state not in RUNNING for one in self._processes.values()):
            self._finished = True
            found.append(Finished())
        return found

    def _open_some(self, at: float) -> list[Instruction]:
        waiting = [process for process in self._processes.values() if process.state is State.WAITING]
        free = [process for process in waiting if not self._graph.waits_for(process.entry.name)]
        return self._each(free, lambda process: process.open(at))

    def _stop_some(self, at: float) -> list[Instruction]:
        up = [process for process in self._processes.values() if process.state in (State.STARTING, State.READY)]
        free = [process for process in up if not self._graph.dependents(process.entry.name)]
        return self._each(free, lambda process: process.stop(at))

    def _each(self, chosen: Iterable[Lifecycle], act: Callable[[Lifecycle], list[Instruction]]) -> list[Instruction]:
        found: list[Instruction] = []
        for process in chosen:
            found += self._within(process, partial(act, process))
        return found

    def _within(self, process: Lifecycle, act: Callable[[], list[Instruction]]) -> list[Instruction]:
        """Lets `process` act, and tells of what that changed."""
        was = process.phase
        found = act()
        self._note(process)
        if process.phase != was:
            found.append(Changed(process.entry.name, was, process.phase))
        return found + list(self._operations.settle(process))

    def _note(self, process: Lifecycle) -> None:
        waiting = process.state is State.WAITING
        self._graph.heard(process.entry.name, "waiting" if waiting else process.phase)

    def _find(self, name: str) -> Lifecycle:
        process = self._processes.get(name)
        if process is None:
            raise NotFound(f"no process {name!r} in this host's startup file")
        return process

    def _waiting_for(self, process: Lifecycle, at: float) -> str:
        entry = process.entry
        match process.state:
            case State.WAITING:
                return ", ".join(self._graph.waits_for(entry.name))
            case State.PAUSED:
                row = f"restart {process.attempt} of {entry.restart.attempts}"
                said = last_line(process.stderr_tail)[:LAST_LINE]
                why = f"{process.last_exit}: {said}" if said else process.last_exit
                return f"{row} in {max((process.next_at or at) - at, 0):.1f} s after {why}"
            case State.STARTING:
                return f"readiness: {process.last_probe or 'no answer yet'}"
            case State.DRAINING | State.KILLING:
                return "its end"
            case State.STOPPED if not entry.enabled and not process.life:
                return "being enabled"
        return ""
