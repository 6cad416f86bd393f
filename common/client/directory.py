"""Where the well-known services are, for this process: defaults, what the environment says, and what the caller says.

Names: the services' own (`CoreOrchestrator`), `Supervisor/<host>`; anything else is an agent and is asked of the registry.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from common.api import core_orchestrator, error_bus, observability_hub, resource_manager, security_gateway, supervisor
from common.errors import BadRequest
from common.transport.sockets import Endpoint

SERVICES_VARIABLE: Final = "TANDEM_SERVICES"
"""`Name=request_port[:events_port]@host`, separated by commas; overrides the defaults one by one."""


@dataclass(frozen=True, slots=True)
class Place:
    """A service's request endpoint, and its events endpoint where it has one."""

    requests: Endpoint
    events: Endpoint | None = None


def _place(host: str, port: int, events_port: int) -> Place:
    return Place(Endpoint.tcp(host, port), Endpoint.tcp(host, events_port) if events_port else None)


DEFAULTS: Final[Mapping[str, Place]] = {
    **{
        service.SERVICE: _place("127.0.0.1", service.PORT, service.EVENTS_PORT)
        for service in (core_orchestrator, resource_manager, observability_hub, error_bus, security_gateway)
    },
    **{f"Supervisor/{host}": _place("127.0.0.1", ports[0], ports[1]) for host, ports in supervisor.PORTS.items()},
}


class Directory:
    """The well-known places; `places` override the defaults."""

    def __init__(self, places: Mapping[str, Place] | None = None) -> None:
        self._places = {**DEFAULTS, **(places or {})}

    @classmethod
    def parse(cls, text: str) -> Directory:
        """From the form of SERVICES_VARIABLE; BadRequest names the piece that is wrong."""
        return cls(dict(_entry(piece.strip()) for piece in text.split(",") if piece.strip()))

    def place(self, name: str) -> Place | None:
        """Where a well-known service is, or an address `tcp://host:port` given as a name; None: ask the registry."""
        if name.startswith(("tcp://", "ipc://")):
            return Place(Endpoint(name))
        return self._places.get(name)

    def names(self) -> list[str]:
        """The well-known names."""
        return sorted(self._places)

    def render(self) -> str:
        """The form of SERVICES_VARIABLE, for a child process."""
        return ",".join(_render(name, place) for name, place in sorted(self._places.items()))


def _entry(piece: str) -> tuple[str, Place]:
    name, _, rest = piece.partition("=")
    ports, _, host = rest.partition("@")
    port, _, events_port = ports.partition(":")
    if not (name and host and _is_port(port) and _is_port(events_port or "0")):
        raise BadRequest(f"{SERVICES_VARIABLE}: {piece!r} is not Name=port[:events_port]@host")
    return name, _place(host, int(port), int(events_port or 0))


def _is_port(text: str) -> bool:
    return text.isascii() and text.isdigit() and int(text[:6]) <= 65_535


def _render(name: str, place: Place) -> str:
    host, _, port = place.requests.address.removeprefix("tcp://").rpartition(":")
    events = f":{place.events.address.rpartition(':')[2]}" if place.events is not None else ""
    return f"{name}={port}{events}@{host}"
