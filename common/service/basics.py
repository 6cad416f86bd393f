"""The verbs every process answers, made from what its shell knows."""

from __future__ import annotations

from typing import TYPE_CHECKING

from common.api import basic
from common.api.words import Empty
from common.service.call import Call
from common.service.routes import topics_info, verb_info
from common.wire.header import PROTOCOL

if TYPE_CHECKING:
    from common.service.shell import Shell


def add_routes(shell: Shell) -> None:
    """Serve ping, health_check, info, stats and events_since."""

    def health(_request: Empty, _call: Call) -> basic.Health:
        return shell.report()

    def about(_request: Empty, _call: Call) -> basic.Info:
        return shell.info()

    def figures(_request: Empty, _call: Call) -> basic.Stats:
        return stats(shell)

    def since(request: basic.EventsSince, _call: Call) -> basic.Events:
        return shell.publisher.since(request)

    shell.handle(basic.PING, health)
    shell.handle(basic.HEALTH_CHECK, health)
    shell.handle(basic.INFO, about)
    shell.handle(basic.STATS, figures)
    shell.handle(basic.EVENTS_SINCE, since)


def info(shell: Shell, pid: int) -> basic.Info:
    """What the process is and offers."""
    from common.service.shell import VERSION

    return basic.Info(
        service=shell.settings.service,
        version=VERSION,
        protocol=PROTOCOL,
        host=shell.settings.host,
        boot=shell.boot,
        pid=pid,
        verbs=[verb_info(route.verb) for route in shell.routes],
        topics=topics_info(shell.topics),
        metadata=shell.settings.metadata,
    )


def stats(shell: Shell) -> basic.Stats:
    """Per verb, per breaker, and the process's counters."""
    return basic.Stats(
        service=shell.settings.service,
        boot=shell.boot,
        uptime=shell.uptime_s(),
        verbs=shell.meters.stats(),
        breakers=list(shell.breakers()),
        counters=shell.counters(),
    )
