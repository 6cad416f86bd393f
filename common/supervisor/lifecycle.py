"""One process's states and what each move between them brings about; never decides for whom it waits nor touches a process.

    stopped, crash-looping --start--> waiting
    waiting --open--> starting --prove--> ready --drain--> draining --overdue--> killing
    starting, ready, draining, killing --an end--> paused (--open--> starting), starting, stopped or crash-looping

An end is refined before the table sees it: `retry`, `again`, `finish` or `give_up`. An illegal move raises with the story so far.
"""

from __future__ import annotations

from collections import deque
from enum import StrEnum
from typing import Final

from common.api.basic import Phase
from common.clock import Rng
from common.config.schema import Entry
from common.errors import Internal
from common.supervisor.instructions import Exited, Instruction, Kill, Launch, Launched, Probe, Probed, Terminate
from common.supervisor.policy import End, GiveUp, Leave, Record, after_end

FIRST_PROBE_S: Final = 0.05
SLOWEST_PROBE_S: Final = 0.5
"""The wait between probes: a tenth of the time since the launch, between these two."""
STORY: Final = 20


class State(StrEnum):
    """Where a process stands; several states share a phase."""

    STOPPED = "stopped"
    WAITING = "waiting"
    STARTING = "starting"
    READY = "ready"
    DRAINING = "draining"
    KILLING = "killing"
    PAUSED = "paused"
    CRASH_LOOPING = "crash-looping"


class Move(StrEnum):
    """What can happen to a process."""

    START = "start"
    OPEN = "open"
    PROVE = "prove"
    DRAIN = "drain"
    OVERDUE = "overdue"
    CANCEL = "cancel"
    RETRY = "retry"
    AGAIN = "again"
    FINISH = "finish"
    GIVE_UP = "give_up"


RUNNING: Final = (State.STARTING, State.READY, State.DRAINING, State.KILLING)

PHASE: Final[dict[State, Phase]] = {
    State.STOPPED: "stopped",
    State.WAITING: "starting",
    State.STARTING: "starting",
    State.READY: "ready",
    State.DRAINING: "draining",
    State.KILLING: "draining",
    State.PAUSED: "starting",
    State.CRASH_LOOPING: "crash-looping",
}

NEXT: Final[dict[tuple[State, Move], State]] = {
    (State.STOPPED, Move.START): State.WAITING,
    (State.CRASH_LOOPING, Move.START): State.WAITING,
    (State.WAITING, Move.OPEN): State.STARTING,
    (State.WAITING, Move.CANCEL): State.STOPPED,
    (State.PAUSED, Move.OPEN): State.STARTING,
    (State.PAUSED, Move.CANCEL): State.STOPPED,
    (State.CRASH_LOOPING, Move.CANCEL): State.STOPPED,
    (State.STARTING, Move.PROVE): State.READY,
    (State.STARTING, Move.DRAIN): State.DRAINING,
    (State.READY, Move.DRAIN): State.DRAINING,
    (State.DRAINING, Move.OVERDUE): State.KILLING,
    **{(state, Move.RETRY): State.PAUSED for state in RUNNING},
    (State.DRAINING, Move.AGAIN): State.STARTING,
    (State.KILLING, Move.AGAIN): State.STARTING,
    **{(state, Move.FINISH): State.STOPPED for state in RUNNING},
    **{(state, Move.GIVE_UP): State.CRASH_LOOPING for state in RUNNING},
}


class Intent(StrEnum):
    """What an end of the process is to lead to."""

    RUN = "run"
    STOP = "stop"
    RESTART = "restart"


class Lifecycle:
    """One process of the startup file, through all its lives.

    Every method returns the instructions that follow; `next_at` says when `tick` is due. What is public may be read.
    """

    def __init__(self, entry: Entry, at: float) -> None:
        self.entry = entry
        self.state = State.STOPPED
        self.intent = Intent.STOP
        self.life = 0
        self.launched: Launched | None = None
        self.since = at
        self.ready_at: float | None = None
        self.in_time = True
        self.restarts = 0
        self.attempt = 0
        self.last_exit = ""
        self.stderr_tail: tuple[str, ...] = ()
        self.last_probe = ""
        self.next_at: float | None = None
        self._record = Record()
        self._ready_by = 0.0
        self._story: deque[str] = deque(maxlen=STORY)

    @property
    def phase(self) -> Phase:
        """The phase as the wire knows it."""
        return PHASE[self.state]

    def start(self, at: float) -> list[Instruction]:
        """An operator's start: a paused process goes at once, a draining one comes back, a running one stays."""
        self.intent = Intent.RESTART if self._ending() else Intent.RUN
        if self.state is State.PAUSED:
            return self.open(at)
        if self.state in (State.STOPPED, State.CRASH_LOOPING):
            self._record = Record()
            self._move(Move.START, at)
        return []

    def stop(self, at: float) -> list[Instruction]:
        """An operator's stop: a running process drains, one that does not run is stopped."""
        if self.state is State.CRASH_LOOPING:
            self._move(Move.CANCEL, at)
        return self.forgo(at) + self._drain(at)

    def forgo(self, at: float) -> list[Instruction]:
        """No further life after this one: what waits to start is stopped, what runs runs on for now."""
        self.intent = Intent.STOP
        if self.state in (State.WAITING, State.PAUSED):
            self._move(Move.CANCEL, at)
        return []

    def restart(self, at: float) -> list[Instruction]:
        """An operator's restart: a running process drains and starts anew without asking its dependencies again."""
        if self.state not in RUNNING:
            return self.start(at)
        self.intent = Intent.RESTART
        return self._drain(at)

    def open(self, at: float) -> list[Instruction]:
        """Nothing is waited for any more: launch."""
        self._move(Move.OPEN, at)
        return self._launch(at)

    def on_launched(self, event: Launched) -> list[Instruction]:
        """The process is there; probing begins, or ends at once where there is nothing to probe."""
        self.launched = event
        if self.state is not State.STARTING:
            return []
        if self.entry.health.how == "none":
            self._prove(event.at)
            return []
        return [Probe(self.entry.name, self.life)]

    def adopt(self, process: Launched) -> list[Instruction]:
        """A process that was found running becomes the first life; there is nothing to launch."""
        self.start(process.at)
        self.open(process.at)
        return self.on_launched(process)

    def on_probed(self, event: Probed) -> list[Instruction]:
        """Ready, or probed again a little later, until the time for it is over."""
        if self.state is not State.STARTING:
            return []
        if event.ready:
            self._prove(event.at)
            return []
        self.last_probe = event.reason
        pause_s = min(max((event.at - self.since) / 10, FIRST_PROBE_S), SLOWEST_PROBE_S)
        self.next_at = min(event.at + pause_s, self._ready_by)
        return []

    def on_exited(self, event: Exited, rng: Rng) -> list[Instruction]:
        """A life is over; what follows is what was intended or, where nothing was, what the policy says."""
        self.last_exit = event.reason or spell_code(event.code)
        self.stderr_tail = event.stderr_tail
        self.launched = None
        if self.intent is Intent.STOP:
            self._move(Move.FINISH, event.at)
            return []
        if self.intent is Intent.RESTART:
            self.intent = Intent.RUN
            self._move(Move.AGAIN, event.at)
            return self._launch(event.at)
        self._follow_policy(event, rng)
        return []

    def tick(self, at: float) -> list[Instruction]:
        """What is due: the next probe, the end of patience, KILL, or the launch after a pause."""
        if self.next_at is None or at < self.next_at:
            return []
        self.next_at = None
        if self.state is State.PAUSED:
            return self.open(at)
        if self.state is State.DRAINING:
            self._move(Move.OVERDUE, at)
            return [Kill(self.entry.name, self.life)]
        if at >= self._ready_by:
            self.in_time = False
            return self._drain(at)
        self.next_at = self._ready_by
        return [Probe(self.entry.name, self.life)]

    def story(self) -> str:
        """The last moves, oldest first."""
        return "; ".join(self._story)

    def _ending(self) -> bool:
        return self.state in (State.DRAINING, State.KILLING)

    def _launch(self, at: float) -> list[Instruction]:
        self.life += 1
        self.restarts += self.life > 1
        self.ready_at, self.in_time, self.last_probe = None, True, ""
        self._ready_by = at + self.entry.health.ready_within_s
        self.next_at = self._ready_by
        return [Launch(self.entry.name, self.life)]

    def _prove(self, at: float) -> None:
        self._move(Move.PROVE, at)
        self.ready_at = at

    def _drain(self, at: float) -> list[Instruction]:
        if self.state not in (State.STARTING, State.READY):
            return []
        self._move(Move.DRAIN, at)
        self.next_at = at + self.entry.stop.term_s
        return [Terminate(self.entry.name, self.life)]

    def _follow_policy(self, event: Exited, rng: Rng) -> None:
        ready_s = event.at - self.ready_at if self.ready_at is not None else 0.0
        end = End(event.at, event.code, ready_s, self.in_time)
        if not self.in_time:
            self.last_exit = (
                f"not ready within {self.entry.health.ready_within_s:g} s: {self.last_probe or 'no answer'}"
            )
        verdict = after_end(self.entry.restart, self._record, end, rng)
        if isinstance(verdict, Leave):
            self._move(Move.FINISH, event.at)
        elif isinstance(verdict, GiveUp):
            self._move(Move.GIVE_UP, event.at)
            self.last_exit = f"{self.last_exit}; {verdict.reason}"
        else:
            self._record, self.attempt = verdict.record, verdict.number
            self._move(Move.RETRY, event.at)
            self.next_at = event.at + verdict.delay_s

    def _move(self, move: Move, at: float) -> None:
        following = NEXT.get((self.state, move))
        if following is None:
            raise Internal(
                f"{self.entry.name} is {self.state}, which knows no {move}; before: {self.story() or 'nothing'}"
            )
        self._story.append(f"{at:.3f} {self.state} --{move}--> {following}")
        if PHASE[following] != self.phase or following is State.STARTING:
            self.since = at
        self.state, self.next_at = following, None


def spell_code(code: int | None) -> str:
    """An exit code as people read it: `exit 1`, `killed by signal 9`."""
    if code is None:
        return "ended, code unknown"
    return f"killed by signal {-code}" if code < 0 else f"exit {code}"
