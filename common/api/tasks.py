"""The durable tasks of ResourceManager."""

from __future__ import annotations

from common.api.words import AnyVerb, Topic

VERBS: tuple[AnyVerb, ...] = ()
TOPICS: tuple[Topic, ...] = ()
