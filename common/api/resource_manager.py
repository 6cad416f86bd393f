"""ResourceManager's vocabulary: the lease verbs over both hosts' cards, and tasks."""

from __future__ import annotations

from common.api import leases, tasks
from common.api.words import AnyVerb, Topic

SERVICE = "ResourceManager"
PORT, EVENTS_PORT, HEALTH_PORT = 7001, 7501, 8001

VERBS: tuple[AnyVerb, ...] = (*leases.VERBS, leases.MARK_LEASE, *tasks.VERBS)
TOPICS: tuple[Topic, ...] = (leases.LEASE_CHANGED, *tasks.TOPICS)
