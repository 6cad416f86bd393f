"""Every verb and topic of the fabric, by service; what the door shows, the documentation lists and tests compare with."""

from __future__ import annotations

from dataclasses import dataclass

from common.api import (
    basic,
    core_orchestrator,
    error_bus,
    observability_hub,
    resource_manager,
    security_gateway,
    supervisor,
)
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
OBSERVABILITY_HUB = ServiceSpec(
    observability_hub.SERVICE,
    observability_hub.PORT,
    observability_hub.EVENTS_PORT,
    observability_hub.HEALTH_PORT,
    observability_hub.VERBS,
    observability_hub.TOPICS,
)
ERROR_BUS = ServiceSpec(
    error_bus.SERVICE,
    error_bus.PORT,
    error_bus.EVENTS_PORT,
    error_bus.HEALTH_PORT,
    error_bus.VERBS,
    error_bus.TOPICS,
)
SECURITY_GATEWAY = ServiceSpec(
    security_gateway.SERVICE,
    security_gateway.PORT,
    security_gateway.EVENTS_PORT,
    security_gateway.HEALTH_PORT,
    security_gateway.VERBS,
    security_gateway.TOPICS,
)
SUPERVISOR = ServiceSpec("Supervisor", 0, 0, 0, supervisor.VERBS, supervisor.TOPICS)

SERVICES = (CORE_ORCHESTRATOR, RESOURCE_MANAGER, OBSERVABILITY_HUB, ERROR_BUS, SECURITY_GATEWAY, SUPERVISOR)
TOPICS: dict[str, Topic] = {topic.name: topic for spec in SERVICES for topic in spec.topics} | {"beat": basic.BEAT}
