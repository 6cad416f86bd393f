"""ObservabilityHub's vocabulary: health verdicts of every process, and the history of metrics."""

from __future__ import annotations

from common.api.words import AnyVerb, Topic

SERVICE = "ObservabilityHub"
PORT, EVENTS_PORT, HEALTH_PORT = 7002, 7502, 8002

VERBS: tuple[AnyVerb, ...] = ()
TOPICS: tuple[Topic, ...] = ()
