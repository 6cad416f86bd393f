"""Probing: every subject of the ward is asked in its turn, many at once, and what came of it is told. Decides nothing.

One connection is kept for each health port that speaks ZeroMQ. A probe that is given up later than it should have been says that
this process is slow, not that one.
"""

from __future__ import annotations

import asyncio
import errno
import heapq
from collections.abc import Callable
from typing import Any, Final

import zmq

from common.api import basic
from common.api.words import Empty
from common.client.aio import AsyncClient
from common.client.plain_link import PlainLink
from common.client.probing import WELL, judge, knock, over_http, over_zmq, reasons_of
from common.errors import BadRequest, DeadlineExceeded, TandemError
from common.service.shell import Shell
from common.transport.sockets import Endpoint
from pc2.observability_hub.evidence import Outcome, Weight
from pc2.observability_hub.subjects import Subject, Way
from pc2.observability_hub.ward import Ward

TURN_S: Final = 0.02
"""Least time between two turns: those that are due within one are asked together."""
BEAT_S: Final = 0.25
"""Most time between two turns, so that the hub's own lateness shows."""
AT_ONCE: Final = 256
EXHAUSTED: Final = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)

Told = Callable[[str, int, Outcome, float], None]


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
        self._agenda: list[tuple[float, str]] = []
        self._due: dict[str, float] = {}
        self._under_way: dict[str, asyncio.Task[None]] = {}
        self._links: dict[str, tuple[Way, PlainLink]] = {}
        self._turn: asyncio.TimerHandle | None = None
        self._turn_at = float("-inf")
        self._closed = False
        self.done = 0

    @property
    def under_way(self) -> int:
        """Probes that wait for their answer."""
        return len(self._under_way)

    def begin(self) -> None:
        """Probe until it is closed."""
        self._turn_by(self._now())

    def look(self, key: str) -> None:
        """Probe this one in the next turn."""
        self._plan(key, self._now())

    def close(self) -> None:
        """Probe no more, whoever is still told of, and hang up everywhere."""
        self._closed = True
        if self._turn is not None:
            self._turn.cancel()
        for task in self._under_way.values():
            task.cancel()
        for _, link in self._links.values():
            link.close()
        self._links.clear()

    def tidy(self) -> None:
        """Whoever is new gets a turn, and connections to those that are gone are closed; called about once a second."""
        for subject in self._ward:
            if subject.key not in self._due and subject.key not in self._under_way:
                self._plan(subject.key, self._now())
        for key in [key for key in self._links if self._ward.find(key) is None]:
            self._links.pop(key)[1].close()

    def _turn_by(self, at: float) -> None:
        """The next turn is at `at`, or a moment after the last one where that is later."""
        now = self._now()
        self._turn_at = max(at, now + TURN_S)
        if self._turn is not None:
            self._turn.cancel()
        self._turn = self._shell.loop.call_later(self._turn_at - now, self._take_turn)

    def _take_turn(self) -> None:
        now = self._now()
        try:
            self._late(now - self._turn_at)
            while self._agenda and self._agenda[0][0] <= now + TURN_S / 2 and len(self._under_way) < AT_ONCE:
                at, key = heapq.heappop(self._agenda)
                if self._due.get(key) == at:
                    del self._due[key]
                    self._start(key)
        finally:
            self._turn_by(min(self._agenda[0][0] if self._agenda else now + BEAT_S, now + BEAT_S))

    def _plan(self, key: str, at: float) -> None:
        if self._closed or key in self._under_way or self._due.get(key, at + 1) <= at:
            return
        self._due[key] = at
        heapq.heappush(self._agenda, (at, key))
        if max(at, self._now() + TURN_S) < self._turn_at:
            self._turn_by(at)

    def _start(self, key: str) -> None:
        subject = self._ward.find(key)
        if subject is None:
            return
        way = subject.way
        if way is None:
            self._plan(key, self._now() + subject.pace.interval_s)
            return
        task = self._under_way[key] = self._shell.loop.create_task(self._probe(subject, way, self._now()))
        task.add_done_callback(lambda ended: self._ended(key, ended))

    def _ended(self, key: str, task: asyncio.Task[None]) -> None:
        self._under_way.pop(key, None)
        if task.cancelled():
            return
        if task.exception() is not None:
            self._shell.log.error("probing %s failed", key, exc_info=task.exception())
        subject = self._ward.find(key)
        if subject is not None:
            self._plan(key, self._now() + subject.pace.pause_s(self._shell.rng))

    async def _probe(self, subject: Subject, way: Way, began: float) -> None:
        life, patience_s = subject.life, subject.pace.patience_s
        try:
            async with asyncio.timeout(patience_s):
                weight, reason = await self._ask(subject.key, way, began + patience_s)
            outcome = Outcome(weight, reason, latency_s=self._now() - began)
        except (TimeoutError, DeadlineExceeded):
            self._late(self._now() - began - patience_s)
            outcome = Outcome(Weight.MISS, f"no answer within {patience_s:.1f} s", silent=True)
        except BadRequest as error:
            outcome = Outcome(Weight.UNWELL, error.message, latency_s=self._now() - began)
        except (TandemError, OSError) as error:
            if _own_fault(error):
                self._shell.log.error("%s cannot be probed: %s", subject.key, error)
                return
            outcome = Outcome(Weight.MISS, getattr(error, "message", "") or f"no connection: {error}")
        if self._closed:
            return  # it is this hub that went
        self.done += 1
        self._tell(subject.key, life, outcome, began)

    async def _ask(self, key: str, way: Way, deadline: float) -> tuple[Weight, str]:
        match way.how:
            case "zmq":
                return weigh(await over_zmq(self._link(key, way), deadline))
            case "http":
                reason, body = await over_http(way.host, way.port)
                return (Weight.UNWELL, reasons_of(body) or reason) if reason else weigh({"ready": True, **body})
            case "tcp":
                await knock(way.host, way.port)
                return Weight.WELL, ""
        timeout_s = deadline - self._now()
        health = await self._client.call(way.target, basic.HEALTH_CHECK, Empty(), timeout_s=timeout_s, idempotent=False)
        return weigh({"ready": health.ready, "status": health.status, "reasons": health.reasons})

    def _link(self, key: str, way: Way) -> PlainLink:
        known = self._links.get(key)
        if known is not None and known[0] == way:
            return known[1]
        if known is not None:
            known[1].close()
        link = PlainLink(self._shell.context, Endpoint.tcp(way.host, way.port), self._shell.clock)
        self._links[key] = way, link
        return link


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
