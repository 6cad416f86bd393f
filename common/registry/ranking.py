"""The order in which agents are listed and found: healthy first, then the least busy, then by name."""

from __future__ import annotations

from common.api.core_orchestrator import Liveness
from common.dispatch.rule import LIVENESS_ORDER

Rank = tuple[int, int, str]


def rank(liveness: Liveness, in_flight: int, agent_name: str) -> Rank:
    """An agent's place among others, lowest first."""
    return LIVENESS_ORDER.index(liveness), in_flight, agent_name
