"""The digital twin: folds everyone's events into one view, each fact with its source and age.

Facts lie in parts (hosts, services, agents, cards, leases, requests) under `entity/aspect`, for one entity is seen from several
sides: `whisper/registration` comes from the registry, `whisper/process` from the supervisor of its host. A source that falls
silent shows through the age of what it said. Events that come twice or late, by (epoch, seq) of their source and topic, are
ignored. What a source no longer has goes: by its event, or by `replace` with a list that it gave.

How to drive it: `fold` every event heard, the own ones included; `replace` with the reply of a list verb when a subscription
begins or `snapshot_required` came (the list's `as_of` then says which events are old); `observe` what was asked rather
than heard, such as health and heartbeats.

It owns nothing: whoever needs a fact in order to change it asks its owner.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import islice
from typing import Final, Literal

from common.api.basic import Health
from common.api.core_orchestrator import (
    AgentChanged,
    Field,
    Heartbeat,
    History,
    Metrics,
    RequestChanged,
    Twin,
)
from common.api.gpus import Card, CardsSampled
from common.api.leases import LeaseChanged
from common.api.supervisor import Process, ProcessChanged, Vitals
from common.api.words import Cursor, Message
from common.vram.lease_facts import ENDS
from common.wire.events import EventHeader
from main_pc.core_orchestrator.metric_history import MetricHistory
from main_pc.core_orchestrator.waiters import FINAL

Part = Literal["hosts", "services", "agents", "cards", "leases", "requests"]
PARTS: Final[tuple[Part, ...]] = ("hosts", "services", "agents", "cards", "leases", "requests")

MAX_FACTS: Final = 20_000
"""Facts kept in each part; beyond that the one unheard for longest is forgotten."""

MAX_AGENT_METRICS: Final = 64
"""Metrics taken from one heartbeat; the rest is passed over."""

LIVES_KEPT: Final = 8
"""Ended lives (epochs) remembered of each source and topic, so that their stragglers are known for what they are."""


@dataclass(slots=True)
class _Fact:
    value: Message
    source: str
    heard_at: float


@dataclass(slots=True)
class _Stream:
    """Where one topic of one source stands."""

    at: Cursor
    ended: deque[int] = field(default_factory=lambda: deque(maxlen=LIVES_KEPT))

    def accepts(self, epoch: int, seq: int) -> bool:
        """Moves on to (epoch, seq) unless it is old."""
        if epoch in self.ended or (epoch == self.at.epoch and seq <= self.at.seq):
            return False
        if epoch != self.at.epoch:
            self.ended.append(self.at.epoch)
        self.at = Cursor(epoch=epoch, seq=seq)
        return True


class TwinView:
    """The view itself. `now` is monotonic seconds; `source` names whoever said it, such as `supervisor@pc2`."""

    def __init__(self, max_facts: int = MAX_FACTS, metrics: MetricHistory | None = None) -> None:
        self._max_facts = max_facts
        self._metrics = metrics or MetricHistory()
        self._parts: dict[Part, dict[str, _Fact]] = {part: {} for part in PARTS}
        self._streams: dict[tuple[str, str], _Stream] = {}

    # taking in

    def fold(self, source: str, topic: str, header: EventHeader, event: Message, now: float) -> bool:
        """Takes an event in; False when it came before or late. Topics that the twin does not show are passed over."""
        stream = self._streams.get((source, topic))
        if stream is None:
            self._streams[source, topic] = _Stream(Cursor(epoch=header.epoch, seq=header.seq))
        elif not stream.accepts(header.epoch, header.seq):
            return False
        self._take(source, event, header.at, now)
        return True

    def replace(
        self, source: str, topic: str, as_of: Cursor, part: Part, aspect: str, values: Mapping[str, Message], now: float
    ) -> bool:
        """Takes in all that `source` has of one aspect, by entity; what it no longer has goes.

        Events of `topic` up to `as_of` are old from now on. False, and nothing changes, when later events were folded
        already: ask for the list again.
        """
        stream = self._streams.get((source, topic))
        if stream is None:
            self._streams[source, topic] = _Stream(as_of)
        elif stream.at != as_of and not stream.accepts(as_of.epoch, as_of.seq):
            return False
        self._replace(part, source, aspect, values, now)
        return True

    def observe(self, source: str, seen: Health | Heartbeat, at: str, now: float) -> None:
        """Takes in what was asked rather than heard: a service's health, or an agent's heartbeat with its metrics."""
        if isinstance(seen, Health):
            self._put("services", f"{source}/health", seen, source, now)
            return
        prefix = f"agents.{seen.agent_name}."
        said = dict(islice(seen.metrics.items(), MAX_AGENT_METRICS)) | {"load": seen.load}
        self._metrics.add(seen.agent_name, {prefix + key: value for key, value in said.items()}, at, now)

    # showing

    def show(self, part: Part | Literal[""], now: float) -> Twin:
        """The whole view, or one part."""
        parts = PARTS if part == "" else (part,)
        return Twin(parts={name: self._shown(name, now) for name in parts})

    def metrics(self, prefix: str, now: float) -> Metrics:
        """The latest value of each metric whose name begins with `prefix`."""
        return Metrics(metrics=self._metrics.latest(prefix, now))

    def history(self, metric: str, points: int) -> History:
        """Up to `points` latest points of a metric; NotFound when there is none of that name."""
        return self._metrics.history(metric, points)

    # inside

    def _take(self, source: str, event: Message, at: str, now: float) -> None:
        match event:
            case AgentChanged():
                self._agent(source, event, now)
            case ProcessChanged():
                self._process(source, event.process, now)
            case Vitals():
                self._put("hosts", f"{event.host}/vitals", event, source, now)
                self._metrics.add(source, _vital_metrics(event), at, now)
            case CardsSampled():
                self._cards(source, event, at, now)
            case LeaseChanged(change="may-return"):
                pass  # it shows the lease as it was before it made way
            case LeaseChanged():
                gone = event.change in ENDS
                self._put_or_drop(gone, "leases", f"{event.lease.lease_id}/lease", event.lease, source, now)
            case RequestChanged():
                gone = event.status.state in FINAL
                self._put_or_drop(gone, "requests", f"{event.status.request_id}/status", event.status, source, now)
            case _:
                pass

    def _agent(self, source: str, event: AgentChanged, now: float) -> None:
        name, gone = event.agent.agent_name, event.change == "deregistered"
        self._put_or_drop(gone, "agents", f"{name}/registration", event.agent, source, now)
        if gone:
            self._metrics.forget(name)

    def _process(self, source: str, process: Process, now: float) -> None:
        part: Part = "services" if process.kind == "service" else "agents"
        self._put(part, f"{process.name}/process", process, source, now)

    def _cards(self, source: str, event: CardsSampled, at: str, now: float) -> None:
        self._put_or_drop(not event.problem, "hosts", f"{event.host}/cards", event, source, now)
        self._replace("cards", source, "sample", {card.card_uuid: card for card in event.cards}, now)
        for card in event.cards:
            self._metrics.add(source, _card_metrics(card), at, now)

    def _put_or_drop(self, gone: bool, part: Part, key: str, value: Message, source: str, now: float) -> None:
        if gone:
            self._parts[part].pop(key, None)
        else:
            self._put(part, key, value, source, now)

    def _put(self, part: Part, key: str, value: Message, source: str, now: float) -> None:
        facts = self._parts[part]
        facts.pop(key, None)
        facts[key] = _Fact(value, source, now)
        if len(facts) > self._max_facts:
            del facts[next(iter(facts))]

    def _replace(self, part: Part, source: str, aspect: str, values: Mapping[str, Message], now: float) -> None:
        facts = self._parts[part]
        for key in [key for key, fact in facts.items() if fact.source == source and key.rpartition("/")[2] == aspect]:
            del facts[key]
        for entity, value in values.items():
            self._put(part, f"{entity}/{aspect}", value, source, now)

    def _shown(self, part: Part, now: float) -> dict[str, Field]:
        return {
            key: Field(value=fact.value, source=fact.source, age_s=max(0.0, now - fact.heard_at))
            for key, fact in sorted(self._parts[part].items())
        }


def _vital_metrics(vitals: Vitals) -> dict[str, float]:
    host = f"hosts.{vitals.host}"
    return {
        f"{host}.cpu_pct": vitals.cpu_pct,
        f"{host}.load_1m": vitals.load_1m,
        f"{host}.memory_used_bytes": vitals.memory_used_bytes,
        f"{host}.swap_used_bytes": vitals.swap_used_bytes,
        f"{host}.disk_free_bytes": vitals.disk_free_bytes,
        f"{host}.processes": vitals.processes,
    }


def _card_metrics(card: Card) -> dict[str, float]:
    name = f"cards.{card.host}:{card.card}"
    return {
        f"{name}.used_bytes": card.used_bytes,
        f"{name}.free_bytes": card.free_bytes,
        f"{name}.leased_bytes": card.leased_bytes,
        f"{name}.temperature_c": card.temperature_c,
        f"{name}.utilization_pct": card.utilization_pct,
    }
