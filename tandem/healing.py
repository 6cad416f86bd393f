"""What came of hosts that were apart: their separations together, and whether anything they did alone is in conflict.

Answers in, one document out; it asks nobody and prints nothing.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping

import msgspec

from common.api import core_orchestrator, gpus, leases, links
from common.api.separations import Separation, SeparationList
from common.config.units import format_bytes


class Alone(Separation, frozen=True, kw_only=True):
    """A separation, and whose it is."""

    host: str


class Healed(msgspec.Struct, kw_only=True):
    """The newest separations of all hosts, what is in conflict now, and what could not be looked at; `ok` without either."""

    ok: bool = True
    separations: list[Alone] = []
    conflicts: list[str] = []
    missing: dict[str, str] = {}


def separations(answers: Iterable[SeparationList], limit: int) -> list[Alone]:
    """Every host's separations as one list, the newest first."""
    found = [Alone(host=answer.host, **msgspec.structs.asdict(one)) for answer in answers for one in answer.separations]
    return sorted(found, key=lambda one: one.began_at, reverse=True)[:limit]


def conflicts(
    cards: Iterable[gpus.Card],
    held: Iterable[leases.Lease],
    registry: core_orchestrator.Agents | None,
    copies: Mapping[str, core_orchestrator.Agents],
    linked: Iterable[links.Links],
) -> list[str]:
    """Everything on which two hosts do not agree, a sentence each; `held` is as the cards' own supervisors tell it."""
    return [
        *_twice(held := list(held)),
        *_too_full(cards, held),
        *_copies_that_differ(registry, copies),
        *_cut(linked),
    ]


def _twice(held: list[leases.Lease]) -> Iterable[str]:
    places: dict[str, list[leases.Lease]] = defaultdict(list)
    for lease in held:
        places[lease.lease_id].append(lease)
    for lease_id, found in places.items():
        if len(found) > 1:
            yield f"lease {lease_id} is on {' and on '.join(f'{one.host}:{one.card}' for one in found)}"


def _too_full(cards: Iterable[gpus.Card], held: list[leases.Lease]) -> Iterable[str]:
    leased: dict[str, int] = defaultdict(int)
    for lease in held:
        leased[lease.card_uuid] += lease.bytes
    for card in cards:
        if leased[card.card_uuid] > card.total_bytes:
            sizes = format_bytes(leased[card.card_uuid]), format_bytes(card.total_bytes)
            yield f"card {card.host}:{card.card} has leases of {sizes[0]}, and {sizes[1]} in all"


def _copies_that_differ(
    registry: core_orchestrator.Agents | None, copies: Mapping[str, core_orchestrator.Agents]
) -> Iterable[str]:
    if registry is None:
        return
    known = _places(registry)
    for host, copy in copies.items():
        seen = _places(copy)
        for name in sorted(known.keys() | seen.keys()):
            if known.get(name) != seen.get(name):
                yield f"agent {name}: {_said(known.get(name))} by the registry, {_said(seen.get(name))} by {host}'s copy"


def _places(agents: core_orchestrator.Agents) -> dict[str, str]:
    return {agent.agent_name: f"at {agent.location or agent.host}, port {agent.port}" for agent in agents.agents}


def _said(place: str | None) -> str:
    return place if place is not None else "not there"


def _cut(linked: Iterable[links.Links]) -> Iterable[str]:
    for each in linked:
        for link in each.links:
            if not link.up:
                yield f"{each.host} does not reach {link.host} yet: {link.why or 'it does not answer'}"
