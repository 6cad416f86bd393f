"""What to think of a process, a host and a link now: each of the things known about it in its order of weight, with the reason.

Whatever is behind something that does not answer is `unreachable because` of that. A death told by a supervisor is a fact and
needs no probe. Before a missed process is suspected its host is looked at, so that a host that goes is one piece of news.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from common.api.observability_hub import LinkSide
from common.api.supervisor import Process, Vitals
from pc2.observability_hub.evidence import Evidence
from pc2.observability_hub.steady import SEVERITY, Opinion
from pc2.observability_hub.subjects import SUPERVISOR, Subject

HOST_WAIT_S: Final = 3.0
"""How long a missed process waits for its host to be looked at."""
HOST_DECIDED_S: Final = 10.0
"""How long it waits while its supervisor is being missed too: DOWN probes at MOST_PATIENCE_S each, and some."""
FULL: Final = 0.95
"""The share of a host's disk or memory in use from which it is degraded."""
SLOW_LINK_S: Final = 0.2

UNASKED: Final = Opinion("unknown", "not asked yet")


def of_process(subject: Subject, host: Opinion) -> Opinion:
    """What to think of a process, its host's standing known."""
    evidence = subject.evidence
    if host.verdict == "unreachable" and evidence.missed_since is not None:
        return Opinion("unreachable", f"unreachable because {subject.host} is unreachable", subject.host)
    if host.verdict == "unreachable" and subject.way is None:
        return Opinion("unreachable", f"unreachable because {subject.host} is unreachable", subject.host)
    told = subject.told
    if told is not None and told.phase != "ready":
        return _by_phase(told, subject.ended_unasked)
    if subject.way is None:
        return Opinion("healthy", "ready, as its supervisor says") if told else Opinion("unknown", "no way leads to it")
    return max(_by_probes(evidence), _by_registry(subject), _by_work(subject), key=lambda one: SEVERITY[one.verdict])


def must_wait(subject: Subject, supervisor: Evidence, now: float) -> bool:
    """Whether a missed process is not yet to be suspected, because it is not known whether its host is gone."""
    since = subject.evidence.missed_since
    if since is None or subject.what == SUPERVISOR or subject.way is None or supervisor.believed == "unreachable":
        return False
    if supervisor.missed_since is not None:
        return now - supervisor.missed_since < HOST_DECIDED_S
    return supervisor.answered_at < since and now - since < HOST_WAIT_S


def of_host(supervisor: Evidence, processes: Iterable[Evidence], vitals: Vitals | None) -> Opinion:
    """What to think of a host; without its supervisor it is there while one of its processes answers that was asked later."""
    if supervisor.believed == "unreachable":
        alive = sum(_answers_since(one, supervisor.missed_since) for one in processes)
        if not alive:
            return Opinion("unreachable", f"neither its supervisor nor a process of it answers: {supervisor.reason}")
        return Opinion("degraded", f"its supervisor does not answer, {alive} of its processes do: {supervisor.reason}")
    if supervisor.believed == "unknown":
        return UNASKED
    if supervisor.believed != "healthy":
        return Opinion("degraded", f"its supervisor: {supervisor.reason}")
    strain = _strain(vitals) if vitals is not None else ""
    return Opinion("degraded", strain) if strain else Opinion("healthy")


def of_link(peer: str, host: Opinion, round_trip_s: float, sides: Iterable[LinkSide]) -> Opinion:
    """What to think of the link to `peer`, whose standing is known; `sides` are what the supervisors at its ends say."""
    if host.verdict == "unreachable":
        return Opinion("unreachable", f"nothing of {peer} answers over it", peer)
    if host.verdict == "unknown":
        return UNASKED
    for side in sides:
        if not side.up:
            return Opinion("degraded", f"{side.seen_from} says that it is down: {side.reason or 'no reason told'}")
    if round_trip_s > SLOW_LINK_S:
        return Opinion("degraded", f"a round trip takes {round_trip_s * 1000:.0f} ms")
    return Opinion("healthy")


def _answers_since(evidence: Evidence, since: float | None) -> bool:
    """Whether it does, and is believed to: the first answer of one that was gone may be the last."""
    heard = evidence.missed_since is None and since is not None and evidence.answered_at > since
    return heard and evidence.believed != "unreachable"


def _by_phase(told: Process, ended_unasked: bool) -> Opinion:
    match told.phase:
        case "crash-looping":
            return Opinion("unhealthy", f"crash-looping: {told.last_exit}")
        case "starting" if told.last_exit:
            return Opinion("unhealthy", f"died: {told.last_exit}")
        case "starting":
            return Opinion("unknown", f"starting: {told.waiting_for or 'its turn'}")
        case "draining":
            return Opinion("unknown", "it is being stopped")
    if ended_unasked:
        return Opinion("unhealthy", f"ended: {told.last_exit}")
    return Opinion("unknown", "stopped")


def _by_probes(evidence: Evidence) -> Opinion:
    return Opinion(evidence.believed, evidence.reason) if evidence.believed != "unknown" else UNASKED


def _by_registry(subject: Subject) -> Opinion:
    """An overdue heartbeat is grave only where there is no better sign: a registry that was cut off has heard none."""
    agent, way = subject.agent, subject.way
    if agent is None or way is None or agent.liveness not in ("suspect", "expired"):
        return Opinion("unknown")
    return Opinion(
        "unhealthy" if agent.liveness == "expired" and way.how == "tcp" else "degraded",
        f"its heartbeat is overdue: {agent.heard_s:.0f} s for {agent.ttl_s or 0:g} s promised",
    )


def _by_work(subject: Subject) -> Opinion:
    return Opinion("degraded", subject.work) if subject.work else Opinion("unknown")


def _strain(vitals: Vitals) -> str:
    disk = 1 - vitals.disk_free_bytes / vitals.disk_total_bytes if vitals.disk_total_bytes else 0.0
    memory = vitals.memory_used_bytes / vitals.memory_total_bytes if vitals.memory_total_bytes else 0.0
    if disk > FULL:
        return f"its disk is {disk:.0%} full"
    return f"its memory is {memory:.0%} in use" if memory > FULL else ""
