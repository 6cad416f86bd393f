"""The verbs every process answers, made from what its shell knows of it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from typing import Protocol

from common.api import basic
from common.api.words import Empty, Topic
from common.service.call import Call
from common.service.publisher import Publisher
from common.service.routes import Routes, topics_info, verb_info
from common.service.settings import VERSION, ShellSettings
from common.telemetry.meters import Meters
from common.wire.header import PROTOCOL


class Known(Protocol):
    """What must be known of a process to answer for it."""

    settings: ShellSettings
    boot: str
    topics: tuple[Topic, ...]
    routes: Routes
    publisher: Publisher
    meters: Meters
    breakers: Callable[[], Iterable[basic.BreakerStats]]

    def report(self) -> basic.Health:
        """Its health."""
        ...

    def uptime_s(self) -> float:
        """Seconds since it began."""
        ...

    def counters(self) -> dict[str, float]:
        """Its counters, by name."""
        ...


def add_routes(process: Known) -> None:
    """Serve ping, health_check, info, stats and events_since."""

    def health(_request: Empty, _call: Call) -> basic.Health:
        return process.report()

    def about(_request: Empty, _call: Call) -> basic.Info:
        return info(process)

    def figures(_request: Empty, _call: Call) -> basic.Stats:
        return stats(process)

    def since(request: basic.EventsSince, _call: Call) -> basic.Events:
        return process.publisher.since(request)

    process.routes.add(basic.PING, health)
    process.routes.add(basic.HEALTH_CHECK, health)
    process.routes.add(basic.INFO, about)
    process.routes.add(basic.STATS, figures)
    process.routes.add(basic.EVENTS_SINCE, since)


def info(process: Known) -> basic.Info:
    """What the process is and offers."""
    return basic.Info(
        service=process.settings.service,
        version=VERSION,
        protocol=PROTOCOL,
        host=process.settings.host,
        boot=process.boot,
        pid=os.getpid(),
        verbs=[verb_info(route.verb) for route in process.routes],
        topics=topics_info(process.topics),
        metadata=process.settings.metadata,
    )


def stats(process: Known) -> basic.Stats:
    """Per verb, per breaker, and the process's counters."""
    return basic.Stats(
        service=process.settings.service,
        boot=process.boot,
        uptime=process.uptime_s(),
        verbs=process.meters.stats(),
        breakers=list(process.breakers()),
        counters=process.counters(),
    )
