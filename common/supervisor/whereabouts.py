"""Where this host's processes find every service and supervisor, as the startup file says it; never asks anyone.

Services of other hosts are on this host's loopback: on a shared address they listen there, else the relay does. What the file
does not say is on its well-known port.
"""

from __future__ import annotations

from collections.abc import Iterator

from common.config.schema import Ports, Startup

LOOPBACK = "127.0.0.1"


def services_text(startup: Startup, supervisor: Ports) -> str:
    """This file's part of TANDEM_SERVICES; `supervisor` are the ports that the host's supervisor has in truth."""
    return ",".join(_pieces(startup, supervisor))


def _pieces(startup: Startup, supervisor: Ports) -> Iterator[str]:
    yield from _piece(f"Supervisor/{startup.host}", supervisor.port, supervisor.events_port, LOOPBACK)
    for service in startup.services:
        yield from _piece(_public(service.name), service.port, service.events_port, LOOPBACK)
    for name, peer in startup.peers.items():
        yield from _piece(f"Supervisor/{name}", peer.supervisor_port, peer.events_port, peer.address)
        for service_name, ports in peer.services.items():
            yield from _piece(_public(service_name), ports.port, ports.events_port, LOOPBACK)


def _piece(name: str, port: int, events_port: int, host: str) -> Iterator[str]:
    """Nothing where the port is chosen by the system: then nobody can be told of it ahead."""
    if port:
        yield f"{name}={port}{f':{events_port}' if events_port else ''}@{host}"


def _public(name: str) -> str:
    """A service's name on the wire, from its name in a startup file: `core_orchestrator` is `CoreOrchestrator`."""
    return "".join(word.capitalize() for word in name.split("_"))


def neighbours(startup: Startup) -> frozenset[str]:
    """The peers on this same machine: those at one of this host's own addresses."""
    return frozenset(name for name, peer in startup.peers.items() if peer.address in (LOOPBACK, *startup.listen))
