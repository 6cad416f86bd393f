"""Every verb and topic of the fabric, by service; what the door shows, the documentation lists and tests compare with."""

from __future__ import annotations

from dataclasses import dataclass

from common.api import basic, core_orchestrator, resource_manager, supervisor
from common.api.words import AnyVerb, Topic


@dataclass(frozen=True, slots=True)
class ServiceSpec:
    """A service's name, its well-known ports (0: per host), its own verbs and topics; the basic ones go without saying."""

    name: str
    port: int
    events_port: int
    health_port: int
    verbs: tuple[AnyVerb, ...]
    topics: tuple[Topic, ...]

    def verb(self, name: str) -> AnyVerb | None:
        """The verb of that name, basic ones included."""
        return next((verb for verb in (*self.verbs, *basic.VERBS) if verb.name == name), None)


CORE_ORCHESTRATOR = ServiceSpec(
    core_orchestrator.SERVICE,
    core_orchestrator.PORT,
    core_orchestrator.EVENTS_PORT,
    core_orchestrator.HEALTH_PORT,
    core_orchestrator.VERBS,
    core_orchestrator.TOPICS,
)
RESOURCE_MANAGER = ServiceSpec(
    resource_manager.SERVICE,
    resource_manager.PORT,
    resource_manager.EVENTS_PORT,
    resource_manager.HEALTH_PORT,
    resource_manager.VERBS,
    resource_manager.TOPICS,
)
SUPERVISOR = ServiceSpec("Supervisor", 0, 0, 0, supervisor.VERBS, supervisor.TOPICS)

SERVICES = (CORE_ORCHESTRATOR, RESOURCE_MANAGER, SUPERVISOR)
TOPICS: dict[str, Topic] = {topic.name: topic for spec in SERVICES for topic in spec.topics} | {"beat": basic.BEAT}
