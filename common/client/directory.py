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
"""`Name=request_port[:events_port]@address`, separated by commas; overrides the defaults one by one.

A piece that ends in `#host/process` is reached over CURVE, by the key that the keyring has for that process of that host.
"""


@dataclass(frozen=True, slots=True)
class Place:
    """A service's request endpoint, and its events endpoint where it has one; `host` and `process` say whose key it must hold."""

    requests: Endpoint
    events: Endpoint | None = None
    host: str = ""
    process: str = ""


def _place(address: str, port: int, events_port: int, host: str = "", process: str = "") -> Place:
    events = Endpoint.tcp(address, events_port) if events_port else None
    return Place(Endpoint.tcp(address, port), events, host, process)


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

    def supervisors_here(self) -> list[str]:
        """The supervisors on this host's loopback: its own, and those of other hosts that a relay offers there."""
        places = ((name, place) for name, place in sorted(self._places.items()) if name.startswith("Supervisor/"))
        return [name for name, place in places if not place.process and _is_loopback(place.requests.address)]

    def render(self) -> str:
        """The form of SERVICES_VARIABLE, for a child process."""
        return ",".join(_render(name, place) for name, place in sorted(self._places.items()))


def _entry(piece: str) -> tuple[str, Place]:
    name, _, rest = piece.partition("=")
    ports, _, where = rest.partition("@")
    address, mark, whose = where.partition("#")
    host, _, process = whose.partition("/")
    port, _, events_port = ports.partition(":")
    is_whole = bool(name and address) and bool(mark) == bool(host and process)
    if not (is_whole and _is_port(port) and _is_port(events_port or "0")):
        raise BadRequest(f"{SERVICES_VARIABLE}: {piece!r} is not Name=port[:events_port]@address[#host/process]")
    return name, _place(address, int(port), int(events_port or 0), host, process)


def _is_loopback(address: str) -> bool:
    return address.startswith(("tcp://127.", "tcp://localhost:", "tcp://[::1]:"))


def _is_port(text: str) -> bool:
    return text.isascii() and text.isdigit() and int(text[:6]) <= 65_535


def _render(name: str, place: Place) -> str:
    address, _, port = place.requests.address.removeprefix("tcp://").rpartition(":")
    events = f":{place.events.address.rpartition(':')[2]}" if place.events is not None else ""
    whose = f"#{place.host}/{place.process}" if place.process else ""
    return f"{name}={port}{events}@{address}{whose}"
