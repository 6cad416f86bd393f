"""SecurityGateway's vocabulary: identities, tokens and revocations."""

from __future__ import annotations

from common.api.words import AnyVerb, Topic

SERVICE = "SecurityGateway"
PORT, EVENTS_PORT, HEALTH_PORT = 7005, 7505, 8005

VERBS: tuple[AnyVerb, ...] = ()
TOPICS: tuple[Topic, ...] = ()
