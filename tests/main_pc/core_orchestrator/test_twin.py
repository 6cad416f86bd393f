from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.api.basic import Health
from common.api.core_orchestrator import AgentChanged, Heartbeat, RegisterAgent, RequestChanged, RequestStatus, State
from common.api.gpus import Card, CardsSampled
from common.api.leases import Lease, LeaseChanged, Owner
from common.api.supervisor import Process, ProcessChanged, Vitals
from common.api.words import Cursor, Empty
from common.errors import NotFound
from common.wire.events import EventHeader
from main_pc.core_orchestrator.metric_history import MetricHistory
from main_pc.core_orchestrator.registry import Registry
from main_pc.core_orchestrator.twin import MAX_AGENT_METRICS, TwinView

PC2 = "supervisor@pc2"
SEQ = iter(range(1, 1_000_000))


def head(seq: int = 0, epoch: int = 1) -> EventHeader:
    return EventHeader(epoch, seq or next(SEQ), "noon", "")


def agent(name: str = "whisper", change: Any = "registered") -> AgentChanged:
    registry = Registry()
    asked = RegisterAgent(agent_name=name, host="127.0.0.1", port=1, capabilities=[])
    (fact,) = registry.register(asked, home="mainpc", at="noon")
    return AgentChanged(change=change, agent=registry.apply(fact, 0.0).agent)


def vitals(cpu_pct: float = 5.0) -> Vitals:
    return Vitals(
        host="pc2", cpu_pct=cpu_pct, load_1m=0.1, cores=2, memory_total_bytes=8, memory_used_bytes=4, swap_used_bytes=0,
        disk_total_bytes=9, disk_free_bytes=3, uptime_s=1.0, processes=7,
    )  # fmt: skip


def card(uuid: str = "GPU-1", index: int = 0) -> Card:
    return Card(
        host="pc2", card=index, card_uuid=uuid, name="x", total_bytes=10, free_bytes=6, leased_bytes=4, used_bytes=4,
        grantable_bytes=6, simulated=True,
    )  # fmt: skip


def lease(lease_id: str = "lease-1") -> Lease:
    return Lease(
        lease_id=lease_id, model="m", bytes=1, measured_bytes=1, verified=True, priority=50, host="pc2", card=0,
        card_uuid="GPU-1", fencing_token=1, owner=Owner(), identity="me", ttl_s=1.0, expires_in_s=1.0, granted_at="noon",
    )  # fmt: skip


def process(name: str, kind: Any) -> ProcessChanged:
    shown = Process(
        name=name, kind=kind, phase="ready", waiting_for="", pid=1, start_time=1, restarts=0, uptime_s=1.0, rss_bytes=1,
        cpu_pct=0.0, port=1, health_check_port=1, capabilities=[], last_exit="", stderr_tail=[], since="noon",
    )  # fmt: skip
    return ProcessChanged(process=shown, was="starting")


def keys(twin: TwinView, part: Any = "", now: float = 0.0) -> list[str]:
    return [key for facts in twin.show(part, now).parts.values() for key in facts]


def test_each_source_tells_its_side_and_every_fact_has_source_and_age() -> None:
    twin = TwinView()
    twin.fold("CoreOrchestrator", "agents.changed", head(), agent(), 1.0)
    twin.fold(PC2, "processes.changed", head(), process("whisper", "agent"), 2.0)
    twin.fold(PC2, "processes.changed", head(), process("ResourceManager", "service"), 2.0)
    twin.observe(
        "ResourceManager",
        Health(status="ok", ready=True, service="ResourceManager", version="1", uptime=1.0, boot="b"),
        "noon",
        3.0,
    )
    agents = twin.show("agents", 5.0).parts["agents"]
    assert {key: (fact.source, fact.age_s) for key, fact in agents.items()} == {
        "whisper/process": (PC2, 3.0),
        "whisper/registration": ("CoreOrchestrator", 4.0),
    }
    assert keys(twin, "services") == ["ResourceManager/health", "ResourceManager/process"]
    assert set(twin.show("", 5.0).parts) == {"hosts", "services", "agents", "cards", "leases", "requests"}


def test_vitals_and_cards_become_facts_and_metrics() -> None:
    twin = TwinView()
    twin.fold(PC2, "vitals.sampled", head(), vitals(5.0), 1.0)
    twin.fold(PC2, "vitals.sampled", head(), vitals(7.0), 2.0)
    twin.fold(PC2, "cards.sampled", head(), CardsSampled(host="pc2", cards=[card()]), 2.0)
    assert keys(twin) == ["pc2/vitals", "GPU-1/sample"]
    assert [point.value for point in twin.history("hosts.pc2.cpu_pct", 60).points] == [5.0, 7.0]
    assert twin.metrics("cards.pc2:0.used", 3.0).metrics["cards.pc2:0.used_bytes"].age_s == 1.0
    with pytest.raises(NotFound):
        twin.history("nothing", 1)


def test_a_card_that_is_gone_and_a_problem_that_is_mended_are_forgotten() -> None:
    twin = TwinView()
    twin.fold(PC2, "cards.sampled", head(), CardsSampled(host="pc2", cards=[card("GPU-1"), card("GPU-2", 1)]), 0.0)
    twin.fold("supervisor@mainpc", "cards.sampled", head(), CardsSampled(host="mainpc", cards=[card("GPU-3")]), 0.0)
    twin.fold(
        PC2, "cards.sampled", head(), CardsSampled(host="pc2", cards=[card("GPU-2", 1)], problem="NVML lost"), 0.0
    )
    assert keys(twin) == ["pc2/cards", "GPU-2/sample", "GPU-3/sample"]
    twin.fold(PC2, "cards.sampled", head(), CardsSampled(host="pc2", cards=[]), 0.0)
    assert keys(twin) == ["GPU-3/sample"]


def test_agents_leases_and_requests_go_when_they_end() -> None:
    twin = TwinView()
    twin.observe("CoreOrchestrator", Heartbeat(agent_name="whisper", load=0.5, metrics={"wer": 0.1}), "noon", 0.0)
    twin.fold("core", "agents.changed", head(), agent(), 0.0)
    twin.fold(PC2, "leases.changed", head(), LeaseChanged(change="granted", lease=lease()), 0.0)
    state: State
    for state in ("queued", "running"):
        status = RequestStatus(request_id="req-1", state=state, capability="text")
        twin.fold("core", "requests.changed", head(), RequestChanged(status=status), 0.0)
    assert keys(twin) == ["whisper/registration", "lease-1/lease", "req-1/status"]
    assert list(twin.metrics("agents.", 0.0).metrics) == ["agents.whisper.load", "agents.whisper.wer"]
    twin.fold("core", "agents.changed", head(), agent(change="deregistered"), 0.0)
    twin.fold(PC2, "leases.changed", head(), LeaseChanged(change="expired", lease=lease()), 0.0)
    done = RequestStatus(request_id="req-1", state="done", capability="text")
    twin.fold("core", "requests.changed", head(), RequestChanged(status=done), 0.0)
    assert keys(twin) == []
    assert twin.metrics("", 0.0).metrics == {}


def test_twice_and_late_are_ignored_within_a_life_and_from_a_life_that_ended() -> None:
    twin = TwinView()
    assert twin.fold(PC2, "vitals.sampled", head(5, epoch=7), vitals(1.0), 0.0)
    assert not twin.fold(PC2, "vitals.sampled", head(5, epoch=7), vitals(2.0), 0.0)
    assert not twin.fold(PC2, "vitals.sampled", head(4, epoch=7), vitals(2.0), 0.0)
    assert twin.fold(PC2, "vitals.sampled", head(1, epoch=3), vitals(3.0), 0.0)
    assert not twin.fold(PC2, "vitals.sampled", head(6, epoch=7), vitals(4.0), 0.0)
    assert [point.value for point in twin.history("hosts.pc2.cpu_pct", 60).points] == [1.0, 3.0]


def test_a_list_replaces_what_its_source_said_of_that_aspect() -> None:
    twin = TwinView()
    twin.fold(PC2, "processes.changed", head(3), process("gone", "agent"), 0.0)
    twin.fold("supervisor@mainpc", "processes.changed", head(3), process("other", "agent"), 0.0)
    twin.fold("core", "agents.changed", head(3), agent("gone"), 0.0)
    here = {"here": process("here", "agent").process}
    assert twin.replace(PC2, "processes.changed", Cursor(epoch=1, seq=5), "agents", "process", here, 1.0)
    assert keys(twin) == ["gone/registration", "here/process", "other/process"]
    assert not twin.fold(PC2, "processes.changed", head(5), process("late", "agent"), 1.0)
    assert twin.replace(PC2, "processes.changed", Cursor(epoch=1, seq=5), "agents", "process", {}, 1.0)
    assert not twin.replace(PC2, "processes.changed", Cursor(epoch=1, seq=4), "agents", "process", here, 1.0)
    assert keys(twin) == ["gone/registration", "other/process"]


def test_a_lease_is_shown_until_it_ends_and_not_when_it_may_return() -> None:
    twin = TwinView()
    for change in ("granted", "marked", "corrected", "expiring", "parked"):
        twin.fold(PC2, "leases.changed", head(), LeaseChanged(change=change, lease=lease()), 0.0)
        assert keys(twin) == ["lease-1/lease"]
    for change in ("evicted", "may-return"):
        twin.fold(PC2, "leases.changed", head(), LeaseChanged(change=change, lease=lease()), 0.0)
        assert keys(twin) == []


def test_a_first_list_begins_a_stream() -> None:
    twin = TwinView()
    assert twin.replace(PC2, "leases.changed", Cursor(epoch=1, seq=9), "leases", "lease", {"lease-1": lease()}, 0.0)
    assert not twin.fold(PC2, "leases.changed", head(9), LeaseChanged(change="released", lease=lease()), 0.0)
    assert keys(twin) == ["lease-1/lease"]


def test_events_it_does_not_show_are_passed_over() -> None:
    twin = TwinView()
    assert twin.fold(PC2, "other", head(1), Empty(), 0.0)
    assert keys(twin) == []


def test_facts_and_metrics_are_bounded() -> None:
    twin = TwinView(max_facts=2, metrics=MetricHistory(max_metrics=100))
    for name in ("a", "b", "a", "c"):
        twin.fold("core", "agents.changed", head(), agent(name), 0.0)
    assert keys(twin) == ["a/registration", "c/registration"]
    many = {f"m{n}": 1.0 for n in range(500)}
    twin.observe("core", Heartbeat(agent_name="a", metrics=many), "noon", 0.0)
    assert len(twin.metrics("agents.a.", 0.0).metrics) == MAX_AGENT_METRICS + 1


@given(st.lists(st.integers(1, 20), min_size=1))
def test_whatever_the_order_only_what_moves_forward_is_folded(seqs: list[int]) -> None:
    twin = TwinView()
    highest = 0
    for seq in seqs:
        folded = twin.fold(PC2, "vitals.sampled", head(seq), vitals(float(seq)), 0.0)
        assert folded is (seq > highest)
        highest = max(highest, seq)
    assert twin.metrics("hosts.pc2.cpu_pct", 0.0).metrics["hosts.pc2.cpu_pct"].value == highest
