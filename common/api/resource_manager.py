"""ResourceManager's vocabulary: leases on both hosts' cards, models on both hosts, and tasks."""

from __future__ import annotations

from common.api import decisions, gpus, leases, models, tasks
from common.api.words import AnyVerb, Topic

SERVICE = "ResourceManager"
PORT, EVENTS_PORT, HEALTH_PORT = 7001, 7501, 8001

VERBS: tuple[AnyVerb, ...] = (
    *leases.VERBS,
    *gpus.VERBS,
    *decisions.VERBS,
    leases.MARK_LEASE,
    *models.VERBS,
    *tasks.VERBS,
)
TOPICS: tuple[Topic, ...] = (leases.LEASE_CHANGED, *tasks.TOPICS)
