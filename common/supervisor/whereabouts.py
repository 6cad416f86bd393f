"""Where this host's processes find every service and supervisor, as the startup file says it; never asks anyone.

Neighbours, the peers at an own address, are on this loopback. Services of other peers are at the peer's address, over CURVE, with
the host and the process whose key they must show; a host without peers finds everything on loopback. What the file does
not say is on its well-known port.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator, Mapping
from typing import Final

from common.api import core_orchestrator, error_bus, observability_hub, resource_manager, security_gateway
from common.config.schema import Peer, Ports, Startup

LOOPBACK = "127.0.0.1"
SUPERVISOR: Final = "supervisor"
GATEWAY_PROCESS: Final = "security_gateway"

WELL_KNOWN: Final[Mapping[str, tuple[str, Ports]]] = {
    name: (home, Ports(api.PORT, api.EVENTS_PORT, api.HEALTH_PORT))
    for name, home, api in (
        ("core_orchestrator", "mainpc", core_orchestrator),
        ("resource_manager", "pc2", resource_manager),
        ("observability_hub", "pc2", observability_hub),
        ("error_bus", "pc2", error_bus),
        ("security_gateway", "pc2", security_gateway),
    )
}
"""Each service by its name in a startup file: the host it is on where no file says, and its ports."""


def services_text(startup: Startup, supervisor: Ports) -> str:
    """This file's part of TANDEM_SERVICES; `supervisor` are the ports that the host's supervisor has in truth."""
    return ",".join(_pieces(startup, supervisor))


def services_of(startup: Startup, name: str) -> dict[str, Ports]:
    """The services of the peer `name`, by their names in its startup file, with their ports.

    What this file names under the peer is there; of the well-known services that neither this host nor any peer is said to
    have, a lone peer has all, and of several peers each has those that are at home on it.
    """
    named = {other: startup.peers[other].services for other in startup.peers}
    elsewhere = {service.name for service in startup.services} | {each for ports in named.values() for each in ports}
    found = {each: _or_well_known(each, ports) for each, ports in named[name].items()}
    for service, (home, ports) in WELL_KNOWN.items():
        if service not in elsewhere and (len(named) == 1 or home == name):
            found[service] = ports
    return found


def gateway_host(startup: Startup) -> str:
    """The host that SecurityGateway is on, and whose list alone says what its tokens are signed by; this host, where the file has
    it on none.
    """
    if any(service.name == GATEWAY_PROCESS for service in startup.services):
        return startup.host
    return next((peer for peer in startup.peers if GATEWAY_PROCESS in services_of(startup, peer)), startup.host)


def _or_well_known(service: str, ports: Ports) -> Ports:
    _, usual = WELL_KNOWN.get(service, ("", Ports()))
    return Ports(
        ports.port or usual.port,
        ports.events_port or usual.events_port,
        ports.health_check_port or usual.health_check_port,
    )


def _pieces(startup: Startup, supervisor: Ports) -> Iterator[str]:
    yield from _piece(f"Supervisor/{startup.host}", supervisor.port, supervisor.events_port, LOOPBACK)
    for service in startup.services:
        yield from _piece(public_name(service.name), service.port, service.events_port, LOOPBACK)
    near = neighbours(startup)
    for name, peer in startup.peers.items():
        where = peer.address if name in near else f"{peer.address}#{name}/{SUPERVISOR}"
        yield from _piece(f"Supervisor/{name}", peer.supervisor_port, peer.events_port, where)
        yield from _services(startup, name, peer, is_near=name in near)


def _services(startup: Startup, name: str, peer: Peer, *, is_near: bool) -> Iterator[str]:
    """A neighbour's that are not on their well-known ports; of a peer elsewhere, all."""
    for service, ports in (peer.services if is_near else services_of(startup, name)).items():
        where = LOOPBACK if is_near else f"{peer.address}#{name}/{service}"
        yield from _piece(public_name(service), ports.port, ports.events_port, where)


def _piece(name: str, port: int, events_port: int, host: str) -> Iterator[str]:
    """Nothing where the port is chosen by the system: then nobody can be told of it ahead."""
    if port:
        yield f"{name}={port}{f':{events_port}' if events_port else ''}@{host}"


def public_name(name: str) -> str:
    """A service's name on the wire, from its name in a startup file: `core_orchestrator` is `CoreOrchestrator`."""
    return "".join(word.capitalize() for word in name.split("_"))


def outward(startup: Startup) -> tuple[str, ...]:
    """The addresses at which other machines reach this host: those of `listen` beside loopback."""
    return tuple(address for address in startup.listen if not ipaddress.ip_address(address).is_loopback)


def neighbours(startup: Startup) -> frozenset[str]:
    """The peers on this same machine: those at one of this host's own addresses."""
    return frozenset(name for name, peer in startup.peers.items() if peer.address in (LOOPBACK, *startup.listen))
