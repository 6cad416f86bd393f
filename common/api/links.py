"""The links between hosts, as supervisors speak of them: keys, joining, the relay."""

from __future__ import annotations

from common.api.words import AnyVerb, Topic

VERBS: tuple[AnyVerb, ...] = ()
TOPICS: tuple[Topic, ...] = ()
