"""Probing: every subject of the ward is asked in its turn, many at once, and what came of it is told. Decides nothing.

One connection is kept for each health port that speaks ZeroMQ, and one timer serves all turns and all answers that are waited
for; a question that stays unanswered is given up in a turn of its own. One that is given up later than it should have been says
that this process is slow, not that one.
"""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

import zmq

from common.api import basic
from common.api.words import Empty
from common.client.aio import AsyncClient
from common.client.plain_link import PlainLine
from common.client.probing import WELL, answer_in, judge, knock, over_http, question, reasons_of
from common.errors import BadRequest, DeadlineExceeded, TandemError
from common.service.shell import Shell
from common.transport.sockets import Endpoint
from common.wire.frames import Buffer
from pc2.observability_hub.agenda import Agenda
from pc2.observability_hub.evidence import Outcome, Weight
from pc2.observability_hub.subjects import Subject, Way, wire_name
from pc2.observability_hub.ward import Ward

TURN_S: Final = 0.02
"""Least time between two turns: those that are due within one are asked together."""
AT_ONCE: Final = 256
EXHAUSTED: Final = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)

Told = Callable[[str, int, Outcome, float], None]


@dataclass(slots=True)
class _Probe:
    """One question under way: of which life, since when, for how long it may take, and how it is given up."""

    life: int
    began: float
    patience_s: float
    leave: Callable[[], object] = bool

    @property
    def deadline(self) -> float:
        return self.began + self.patience_s


class Probing:
    """The probes of `ward`; `tell` hears of each one's end: key, life, outcome, when it began."""

    def __init__(
        self, shell: Shell, ward: Ward, client: AsyncClient, tell: Told, late: Callable[[float], None]
    ) -> None:
        self._shell = shell
        self._now = shell.clock.monotonic
        self._ward = ward
        self._client = client
        self._tell = tell
        self._late = late
        self._agenda = Agenda()
        self._under_way: dict[str, _Probe] = {}
        self._lines: dict[str, tuple[Way, PlainLine]] = {}
        self._turn: asyncio.TimerHandle | None = None
        self._turn_at = float("inf")
        self._closed = False
        self.done = 0

    @property
    def under_way(self) -> int:
        """Probes that wait for their answer."""
        return len(self._under_way)

    def look(self, key: str) -> None:
        """Probe this one in the next turn."""
        if not self._closed and key not in self._under_way:
            self._agenda.hasten(key, self._now())
            self._arm()

    def close(self) -> None:
        """Probe no more, whoever is still told of, and hang up everywhere."""
        self._closed = True
        if self._turn is not None:
            self._turn.cancel()
        for probe in self._under_way.values():
            probe.leave()
        for _, line in self._lines.values():
            line.close()
        self._lines.clear()

    def tidy(self) -> None:
        """Whoever is new gets a turn, and connections to those that are gone are closed; called about once a second."""
        for subject in self._ward:
            if subject.key not in self._agenda:
                self.look(subject.key)
        for key in [key for key in self._lines if self._ward.find(key) is None]:
            self._hang_up(key)

    def _arm(self) -> None:
        """The next turn is when the agenda says, or a moment from now where that is later."""
        at = self._agenda.next
        if self._closed or at is None or at == self._turn_at:
            return
        if self._turn is not None:
            self._turn.cancel()
        self._turn_at = at
        self._turn = self._shell.loop.call_later(max(at - self._now(), TURN_S), self._take_turn)

    def _take_turn(self) -> None:
        now = self._now()
        due_at, self._turn, self._turn_at = self._turn_at, None, float("inf")
        self._late(now - due_at)
        for key in self._agenda.take(now + TURN_S / 2):
            try:
                self._go_on(key, now)
            except Exception:
                self._shell.log.exception("the turn of %s failed", key)
        self._arm()

    def _go_on(self, key: str, now: float) -> None:
        probe = self._under_way.get(key)
        if probe is not None:
            self._give_up(key, probe)
        elif len(self._under_way) < AT_ONCE:
            self._start(key)
        else:
            self._agenda.hasten(key, now + TURN_S)

    def _start(self, key: str) -> None:
        subject = self._ward.find(key)
        if subject is None:
            return
        way = subject.way
        if way is None:
            self._plan(subject)
            return
        probe = self._under_way[key] = _Probe(subject.life, self._now(), subject.pace.patience_s)
        self._agenda.plan(key, probe.deadline, (probe.deadline - TURN_S / 2, probe.deadline))
        if self._is_own(subject):
            self._ended(key, probe, self._own())
        elif way.how == "zmq":
            self._ask_over_zmq(key, way, probe)
        else:
            task = self._shell.loop.create_task(self._ask(way, probe))
            probe.leave = task.cancel
            task.add_done_callback(partial(self._asked, key, probe))

    def _plan(self, subject: Subject) -> None:
        """Its next turn, with others where that suits."""
        now, pace = self._now(), subject.pace
        between = (now + pace.soonest_s, now + pace.interval_s)
        self._agenda.plan(subject.key, now + pace.pause_s(self._shell.rng), between)

    def _is_own(self, subject: Subject) -> bool:
        """Whether it is this hub, which knows how it is."""
        own = self._shell.settings
        return subject.what == "service" and (subject.host, wire_name(subject.name)) == (own.host, own.service)

    def _own(self) -> Outcome:
        report = self._shell.report()
        said = weigh({"ready": report.ready, "status": report.status, "reasons": report.reasons})
        return Outcome(*said, own=True)

    def _ask_over_zmq(self, key: str, way: Way, probe: _Probe) -> None:
        probe.leave = partial(self._hang_up, key)
        try:
            self._line(key, way).ask(question(probe.patience_s), partial(self._heard, key, probe))
        except TandemError as error:
            self._failed(key, probe, error)

    def _heard(self, key: str, probe: _Probe, how: Buffer | TandemError) -> None:
        if isinstance(how, TandemError):
            self._hang_up(key)
            self._failed(key, probe, how)
            return
        try:
            answer = answer_in(how)
        except TandemError as error:
            self._failed(key, probe, error)
        else:
            self._answered(key, probe, weigh(answer))

    async def _ask(self, way: Way, probe: _Probe) -> tuple[Weight, str]:
        match way.how:
            case "http":
                reason, body = await over_http(way.host, way.port)
                return (Weight.UNWELL, reasons_of(body) or reason) if reason else weigh({"ready": True, **body})
            case "tcp":
                await knock(way.host, way.port)
                return Weight.WELL, ""
        timeout_s = probe.deadline - self._now()
        health = await self._client.call(way.target, basic.HEALTH_CHECK, Empty(), timeout_s=timeout_s, idempotent=False)
        return weigh({"ready": health.ready, "status": health.status, "reasons": health.reasons})

    def _asked(self, key: str, probe: _Probe, task: asyncio.Task[tuple[Weight, str]]) -> None:
        if task.cancelled():
            return  # it was given up
        error = task.exception()
        if error is None:
            self._answered(key, probe, task.result())
        elif isinstance(error, (TandemError, OSError)):
            self._failed(key, probe, error)
        else:
            self._shell.log.error("probing %s failed", key, exc_info=error)
            self._ended(key, probe, None)

    # how it ended

    def _give_up(self, key: str, probe: _Probe) -> None:
        probe.leave()
        self._late(self._now() - probe.deadline)
        self._ended(key, probe, _silence(probe))

    def _answered(self, key: str, probe: _Probe, said: tuple[Weight, str]) -> None:
        self._ended(key, probe, Outcome(*said, latency_s=self._now() - probe.began))

    def _failed(self, key: str, probe: _Probe, error: TandemError | OSError) -> None:
        if isinstance(error, DeadlineExceeded):
            self._late(self._now() - probe.deadline)
            self._ended(key, probe, _silence(probe))
        elif isinstance(error, BadRequest):
            self._answered(key, probe, (Weight.UNWELL, error.message))
        elif _own_fault(error):
            self._shell.log.error("%s cannot be probed: %s", key, error)
            self._ended(key, probe, None)
        else:
            reason = getattr(error, "message", "") or f"no connection: {error}"
            self._ended(key, probe, Outcome(Weight.MISS, reason))

    def _ended(self, key: str, probe: _Probe, outcome: Outcome | None) -> None:
        """It is over; without an outcome nothing was learned."""
        if self._closed or self._under_way.get(key) is not probe:
            return  # it is this hub that went, or the answer came as it was given up
        del self._under_way[key]
        self._agenda.drop(key)
        if outcome is not None:
            self.done += 1
            self._tell(key, probe.life, outcome, probe.began)
        subject = self._ward.find(key)
        if subject is not None:
            self._plan(subject)
        self._arm()

    def _line(self, key: str, way: Way) -> PlainLine:
        known = self._lines.get(key)
        if known is not None and known[0] == way:
            return known[1]
        self._hang_up(key)
        line = PlainLine(self._shell.context, Endpoint.tcp(way.host, way.port))
        self._lines[key] = way, line
        return line

    def _hang_up(self, key: str) -> None:
        known = self._lines.pop(key, None)
        if known is not None:
            known[1].close()


def _silence(probe: _Probe) -> Outcome:
    return Outcome(Weight.MISS, f"no answer within {probe.patience_s:.1f} s", silent=True)


def weigh(answer: dict[str, Any]) -> tuple[Weight, str]:
    """How bad a health answer is, and why: it takes work and is well, takes work and is not, takes none."""
    status = str(answer.get("status", "ok")).lower()
    if status == "unhealthy":
        return Weight.UNWELL, reasons_of(answer) or "it says that it is unhealthy"
    if refused := judge(answer):
        return Weight.UNWELL, refused
    if status == "degraded" or (answer.get("ready") is True and status not in WELL):
        return Weight.WEAK, reasons_of(answer) or f"it says {status}"
    return Weight.WELL, ""


def _own_fault(error: BaseException) -> bool:
    """Whether this process has no descriptors or memory left to ask with."""
    cause = error.__cause__ if isinstance(error.__cause__, zmq.ZMQError) else error
    return getattr(cause, "errno", None) in EXHAUSTED
