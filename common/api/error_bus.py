"""ErrorBus's vocabulary: errors, grouped."""

from __future__ import annotations

from common.api.words import AnyVerb, Topic

SERVICE = "ErrorBus"
PORT, EVENTS_PORT, HEALTH_PORT = 7003, 7503, 8003

VERBS: tuple[AnyVerb, ...] = ()
TOPICS: tuple[Topic, ...] = ()
