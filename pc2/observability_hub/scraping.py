"""Scraping: every service, supervisor and native agent is asked for its own figures every few seconds, a few at a time.

They become series of the history, figures that can be asked for, and the work probe's evidence. Decides nothing about work.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from heapq import nsmallest
from typing import Final

import msgspec

from common.api import basic
from common.api.observability_hub import GetFigures, MetricKind, ProcessFigures
from common.api.words import Empty
from common.client.aio import AsyncClient
from common.errors import BadRequest, TandemError
from common.service.shell import Shell
from pc2.observability_hub.subjects import SUPERVISOR, Subject, wire_name
from pc2.observability_hub.ward import Ward
from pc2.observability_hub.work import Work

SCRAPE_S: Final = 5.0
ASK_S: Final = 2.0
TURN_S: Final = 0.25
LOOK_S: Final = 1.0
"""Between two looks for processes that are new, where nobody's turn comes before."""
AT_ONCE: Final = 32
WAITS: Final = b'"wait_s"'
"""The field by which a request says for how long its caller waits."""
NOT_OFFERED_S: Final = 60.0
"""One that does not know `stats` is asked again after this time."""

Record = Callable[[str, str, float, Mapping[str, str], MetricKind], None]
Worked = Callable[[str, str], None]


@dataclass(slots=True)
class _Scraped:
    """One process: its figures, the verbs that may take for ever, and when it is asked next."""

    work: Work = field(default_factory=Work)
    waiting: frozenset[str] = frozenset()
    boot: str = ""
    due: float = 0.0
    asking: bool = False


class Scraping:
    """The figures of everybody in `ward`; `record` takes each value: whose, name, value, labels, kind."""

    def __init__(self, shell: Shell, ward: Ward, client: AsyncClient, record: Record, worked: Worked) -> None:
        self._shell = shell
        self._now = shell.clock.monotonic
        self._ward = ward
        self._client = client
        self._record = record
        self._worked = worked
        self._known: dict[str, _Scraped] = {}
        self._under_way: set[asyncio.Task[None]] = set()
        self._next_at = float("-inf")
        self.done = 0

    def turn(self) -> None:
        """Asks those whose turn it is, who has waited for longest first; called every TURN_S."""
        now = self._now()
        if now < self._next_at:
            return
        for key in [key for key in self._known if self._ward.find(key) is None]:
            del self._known[key]
        due: list[tuple[float, str, str]] = []
        self._next_at = now + LOOK_S
        for subject in self._ward:
            target = target_of(subject)
            if target:
                known = self._known.setdefault(subject.key, _Scraped())
                if known.asking:
                    continue
                if known.due <= now:
                    due.append((known.due, subject.key, target))
                else:
                    self._next_at = min(self._next_at, known.due)
        room = AT_ONCE - len(self._under_way)
        for _, key, target in nsmallest(room, due):
            self._start(key, target, self._known[key])
        if len(due) > room:
            self._next_at = now

    def _start(self, key: str, target: str, known: _Scraped) -> None:
        known.asking = True
        task = self._shell.spawn(self._scrape(key, target, known), f"scraping {key}")
        self._under_way.add(task)
        task.add_done_callback(self._under_way.discard)

    async def _scrape(self, key: str, target: str, known: _Scraped) -> None:
        known.due = self._now() + SCRAPE_S
        try:
            stats = await self._client.call(target, basic.STATS, Empty(), timeout_s=ASK_S)
            if stats.boot != known.boot:
                info = await self._client.call(target, basic.INFO, Empty(), timeout_s=ASK_S)
                known.waiting = frozenset(verb.name for verb in info.verbs if may_wait(verb))
                known.boot = info.boot
        except BadRequest:
            known.due = self._now() + NOT_OFFERED_S
        except TandemError as error:
            self._shell.log.debug("%s tells no figures: %s", key, error.message)
        else:
            self._take(key, stats, known)
        finally:
            known.asking = False

    def _take(self, key: str, stats: basic.Stats, known: _Scraped) -> None:
        self.done += 1
        now = self._now()
        known.work.take(stats, now)
        self._worked(key, known.work.problem(known.waiting, now))
        host, _, name = key.partition("/")
        for verb, told in known.work.told().items():
            labels = {"host": host, "verb": verb}
            for metric, value, kind in _values(told):
                self._record(name, metric, value, labels, kind)

    def figures(self, asked: GetFigures) -> list[ProcessFigures]:
        """The figures of every process, or of those with the name asked for."""
        now = self._now()
        return [
            ProcessFigures(host=host, name=name, age_s=now - known.work.told_at, verbs=known.work.figures())
            for key, known in sorted(self._known.items())
            for host, _, name in [key.partition("/")]
            if known.boot and (not asked.name or asked.name in (name, wire_name(name)))
        ]


def target_of(subject: Subject) -> str:
    """By which name its figures are asked for; empty where it has none to tell, or is not there now."""
    if subject.what == SUPERVISOR:
        return f"Supervisor/{subject.host}"
    if subject.steady.opinion.verdict == "unreachable" or (subject.told and subject.told.phase != "ready"):
        return ""
    if subject.what == "service":
        return wire_name(subject.name)
    return subject.name if subject.agent is not None and subject.agent.dress == "native" else ""


def may_wait(verb: basic.VerbInfo) -> bool:
    """Whether a call of it takes as long as its caller likes: it is streamed to, or says for how long it waits."""
    return verb.streams or WAITS in msgspec.json.encode(verb.request)


def _values(told: basic.VerbStats) -> Iterator[tuple[str, float, MetricKind]]:
    yield "tandem_verb_requests_total", float(told.count), "counter"
    yield "tandem_verb_errors_total", float(told.errors), "counter"
    yield "tandem_verb_in_flight", float(told.in_flight), "gauge"
    yield "tandem_verb_p50_seconds", told.p50_ms / 1000, "gauge"
    yield "tandem_verb_p95_seconds", told.p95_ms / 1000, "gauge"
    yield "tandem_verb_p99_seconds", told.p99_ms / 1000, "gauge"
