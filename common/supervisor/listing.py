"""A process as lists and events show it, and what a start says that failed; puts the desk's words together, decides nothing."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from common.api.supervisor import Process
from common.clock import timestamp
from common.config.document import Problem, render
from common.config.units import format_seconds
from common.supervisor.desk import Standing
from common.supervisor.last_words import telling
from common.supervisor.vitals import Use


def process_of(standing: Standing, use: Use, at: float, wall: float) -> Process:
    """The process at `at`, which is `wall` on the calendar."""
    entry, launched = standing.entry, standing.launched
    return Process(
        name=entry.name,
        kind=entry.kind,
        phase=standing.phase,
        waiting_for=standing.waiting_for,
        pid=launched.pid if launched else 0,
        start_time=launched.start_time if launched else 0,
        restarts=standing.restarts,
        uptime_s=max(at - launched.at, 0.0) if launched else 0.0,
        rss_bytes=use.rss_bytes,
        cpu_pct=use.cpu_pct,
        port=launched.port if launched else entry.port,
        health_check_port=launched.health_check_port if launched else entry.health_check_port,
        capabilities=list(entry.capabilities),
        last_exit=standing.last_exit,
        stderr_tail=list(standing.stderr_tail),
        since=timestamp(wall - max(at - standing.since, 0.0)),
        probe=entry.health.how,
    )


def told(host: str, missing: Iterable[Standing], ready_within_s: float) -> str:
    """What a partial start says: each process that was not ready in time, why, and its last words on standard error."""
    lines = []
    for one in missing:
        why = one.waiting_for if one.phase == "starting" else one.last_exit
        state = "waiting for" if one.phase == "starting" else one.phase
        lines.append(f"{host}/{one.entry.name} did not become ready: {state} {why or 'its turn'}".rstrip())
        lines += [f"    | {line}" for line in telling(one.stderr_tail)]
    return "\n".join([f"{host}: the start failed after {format_seconds(ready_within_s)}", *lines])


def refused(problems: Sequence[Problem]) -> str:
    """What a start says that wrong startup files prevented: every problem, and that nothing was started."""
    return f"{render(problems)}\nnothing was started: {len(problems)} problem{'s' if len(problems) > 1 else ''} to mend"
