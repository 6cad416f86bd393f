"""Which services of which hosts the relay offers here, and on which ports; decided from the startup file and the keys told.

A service is offered where its host can only be reached over the network: never between neighbours. What a peer runs is said by
the startup file, by the peer's own list of keys, and, where there is one such peer alone, by what this host does not run: so a
well-known port answers, with the mend, before the other host has joined. It opens nothing.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final, NamedTuple

from common.api import supervisor as supervisor_api
from common.api.catalog import SERVICES, ServiceSpec
from common.config.schema import Peer, Ports, Startup
from common.security.keyring import Keyring
from common.supervisor.whereabouts import neighbours

SUPERVISOR: Final = "supervisor"
"""The process name of a host's supervisor in its list of keys."""


class Offer(NamedTuple):
    """One far service: its `process` in that host's file, its public name, and the ports that it has there and here (0: none)."""

    host: str
    process: str
    service: str
    address: str
    ports: Ports


def _process_of(spec: ServiceSpec) -> str:
    """`CoreOrchestrator` is `core_orchestrator` in a startup file."""
    return re.sub(r"(?<!^)(?=[A-Z])", "_", spec.name).lower()


WELL_KNOWN: Final = {_process_of(spec): spec for spec in SERVICES if spec.port}


def offers(startup: Startup, keyring: Keyring) -> list[Offer]:
    """What this host's relay is to offer now."""
    near = neighbours(startup)
    far = {host: peer for host, peer in startup.peers.items() if host not in near}
    own = {service.name for service in startup.services}
    return [offer for host, peer in far.items() for offer in _of(host, peer, keyring, own, alone=len(far) == 1)]


def _of(host: str, peer: Peer, keyring: Keyring, own: set[str], *, alone: bool) -> Iterator[Offer]:
    health_port = supervisor_api.PORTS[host][2] if host in supervisor_api.PORTS else 0
    ports = Ports(peer.supervisor_port, peer.events_port, health_port)
    yield Offer(host, SUPERVISOR, f"Supervisor/{host}", peer.address, ports)
    for process in sorted(_processes(host, peer, keyring, alone=alone) - own):
        spec, said = WELL_KNOWN.get(process), peer.services.get(process, Ports())
        if spec is not None:
            known = Ports(
                said.port or spec.port,
                said.events_port or spec.events_port,
                said.health_check_port or spec.health_port,
            )
            yield Offer(host, process, spec.name, peer.address, known)
        elif said.port:
            yield Offer(host, process, process, peer.address, said)


def _processes(host: str, peer: Peer, keyring: Keyring, *, alone: bool) -> set[str]:
    told = keyring.hosts.get(host)
    listed = {key.name for key in told.keys if key.kind == "service"} if told is not None else set()
    if not listed and alone:
        listed = set(WELL_KNOWN)
    return listed | set(peer.services)
