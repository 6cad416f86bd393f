from __future__ import annotations

from typing import Any

import pytest

from common.api.observability_hub import LinkSide
from pc2.observability_hub.evidence import Evidence, Outcome, Weight
from pc2.observability_hub.opinions import HOST_DECIDED_S, HOST_WAIT_S, UNASKED, must_wait, of_host, of_link, of_process
from pc2.observability_hub.steady import Opinion
from pc2.observability_hub.subjects import Subject
from tests.pc2.observability_hub.saying import agent, process, vitals

WELL, GONE = Opinion("healthy"), Opinion("unreachable", "silent")


def seen(*weights: Weight, begin: float = 0.0) -> Evidence:
    evidence = Evidence()
    for at, weight in enumerate(weights):
        evidence.take(Outcome(weight, "why" if weight else ""), begin + at)
    return evidence


HEARD = (Weight.WELL,)
LOST = (Weight.WELL, *[Weight.MISS] * 5)


def subject(weights: Any = HEARD, **fields: Any) -> Subject:
    given = {"told": process("a"), "evidence": seen(*weights)} | fields
    return Subject("pc2", "a", "agent", True, **given)


@pytest.mark.parametrize(
    ("told", "verdict", "reason"),
    [
        (process("a", "crash-looping", last_exit="exit 1"), "unhealthy", "crash-looping: exit 1"),
        (process("a", "starting", last_exit="killed"), "unhealthy", "died: killed"),
        (process("a", "starting", waiting_for="b"), "unknown", "starting: b"),
        (process("a", "starting"), "unknown", "starting: its turn"),
        (process("a", "draining"), "unknown", "it is being stopped"),
        (process("a", "stopped", last_exit="exit 0"), "unknown", "stopped"),
    ],
)
def test_what_its_supervisor_tells_of_its_phase_needs_no_probe(told: Any, verdict: str, reason: str) -> None:
    opinion = of_process(subject(told=told), WELL)
    assert (opinion.verdict, opinion.reason) == (verdict, reason)


def test_one_that_ended_unasked_is_unhealthy() -> None:
    told = process("a", "stopped", last_exit="exit 3")
    assert of_process(subject(told=told, ended_unasked=True), WELL) == Opinion("unhealthy", "ended: exit 3")


def test_one_that_cannot_be_asked_goes_by_its_supervisors_word() -> None:
    told = process("a", probe="none")
    assert of_process(subject((), told=told), WELL) == Opinion("healthy", "ready, as its supervisor says")
    assert of_process(subject((), told=None), WELL).verdict == "unknown"
    assert of_process(subject(()), WELL) is UNASKED


def test_the_worst_of_probes_heartbeats_and_work_counts() -> None:
    late = agent("a", liveness="expired", heard_s=31.0)
    assert of_process(subject(told=None, agent=late), WELL).verdict == "unhealthy", "it is merely connected to"
    assert of_process(subject(agent=late), WELL).verdict == "degraded", "it answers"
    assert of_process(subject(agent=late), WELL).reason == "its heartbeat is overdue: 31 s for 10 s promised"
    assert of_process(subject(agent=agent("a", liveness="suspect", ttl_s=None)), WELL).verdict == "degraded"
    assert of_process(subject(agent=agent("a")), WELL) == WELL
    assert of_process(subject(work="do is stuck"), WELL) == Opinion("degraded", "do is stuck")
    assert of_process(subject(LOST, work="do is stuck"), WELL).verdict == "unreachable"


def test_what_is_behind_a_host_that_is_gone_is_unreachable_because_of_it() -> None:
    behind = Opinion("unreachable", "unreachable because pc2 is unreachable", "pc2")
    assert of_process(subject(LOST), GONE) == behind
    assert of_process(subject((), told=process("a", probe="none")), GONE) == behind
    assert of_process(subject(HEARD), GONE) == WELL


def test_a_missed_process_waits_for_its_host_to_be_looked_at() -> None:
    one = subject((Weight.WELL, Weight.MISS))
    assert must_wait(one, seen(Weight.WELL, begin=0.5), 1.1)
    assert not must_wait(one, seen(Weight.WELL, begin=1.5), 1.6)
    assert not must_wait(one, seen(*LOST, begin=-9.0), 1.1)
    assert not must_wait(one, seen(Weight.WELL), 1.0 + HOST_WAIT_S)
    assert not must_wait(subject(), seen(Weight.WELL), 1.1)
    one.told = process("a", "starting")
    assert not must_wait(one, seen(Weight.WELL, begin=0.5), 1.1)
    supervisor = Subject("pc2", "supervisor", "supervisor", True, evidence=seen(Weight.WELL, Weight.MISS))
    assert not must_wait(supervisor, supervisor.evidence, 1.1)


def test_how_long_a_missed_process_waits_is_counted_from_its_first_miss() -> None:
    one = subject()
    one.evidence = seen(Weight.WELL, Weight.MISS, begin=1_000.0)
    assert must_wait(one, seen(Weight.WELL, begin=1_000.5), 1_001.1)


def test_a_missed_process_waits_while_its_supervisor_is_being_missed() -> None:
    one = subject((Weight.WELL, Weight.MISS))
    missed = seen(Weight.WELL, Weight.MISS, begin=0.5)
    assert must_wait(one, missed, 1.6 + HOST_WAIT_S)
    assert must_wait(one, seen(Weight.WELL, Weight.MISS, begin=1.1), 2.2), "it answered just before it was missed"
    assert not must_wait(one, missed, 1.5 + HOST_DECIDED_S)


def test_a_host_is_as_well_as_its_supervisor_and_its_vitals() -> None:
    assert of_host(seen(), [], None) is UNASKED
    assert of_host(seen(*HEARD), [], vitals("pc2")) == WELL
    full = of_host(seen(*HEARD), [], vitals("pc2", disk_free_bytes=2))
    assert full == Opinion("degraded", "its disk is 98% full")
    assert of_host(seen(*HEARD), [], vitals("pc2", memory_used_bytes=97)).reason == "its memory is 97% in use"
    nothing = vitals("pc2", disk_total_bytes=0, memory_total_bytes=0)
    assert of_host(seen(*HEARD), [], nothing) == WELL
    assert of_host(seen(Weight.WEAK), [], None) == Opinion("degraded", "its supervisor: why")


def test_a_host_whose_processes_answer_is_not_gone_with_its_supervisor() -> None:
    lost = seen(*LOST)
    assert of_host(lost, [seen(*LOST), seen(Weight.WELL, begin=0.5)], None).verdict == "unreachable"
    there = of_host(lost, [seen(*LOST), seen(Weight.WELL, begin=3.0)], None)
    assert (there.verdict, there.reason) == ("degraded", "its supervisor does not answer, 1 of its processes do: why")


def test_a_host_that_was_gone_is_there_by_a_second_answer_in_a_row() -> None:
    lost, back = seen(*LOST), (*LOST, Weight.WELL)
    assert of_host(lost, [seen(*back)], None).verdict == "unreachable"
    assert of_host(lost, [seen(*back, Weight.WELL)], None).verdict == "degraded"


def test_a_link_is_judged_by_both_its_ends() -> None:
    up = LinkSide(seen_from="Supervisor/pc2", up=True, round_trip_ms=1, heard_s=0)
    down = LinkSide(seen_from="Supervisor/mainpc", up=False, round_trip_ms=0, heard_s=9)
    assert of_link("mainpc", WELL, 0.001, [up]) == WELL
    assert of_link("mainpc", WELL, 0.5, [up]) == Opinion("degraded", "a round trip takes 500 ms")
    one_way = of_link("mainpc", WELL, 0.001, [up, down])
    assert one_way == Opinion("degraded", "Supervisor/mainpc says that it is down: no reason told")
    assert of_link("mainpc", GONE, 0.001, [up]).because == "mainpc"
    assert of_link("mainpc", Opinion("unknown"), 0.001, [up]) is UNASKED
