"""Which services and agents of which hosts the relay offers here, and on which ports; it opens nothing.

A service is offered where its host can only be reached over the network, never between neighbours, and before that host has
joined too: its port answers, with the mend.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

from common.api import supervisor as supervisor_api
from common.api.core_orchestrator import Agent
from common.config.schema import Ports, Startup
from common.registry.location import is_own_host
from common.supervisor.whereabouts import SUPERVISOR, WELL_KNOWN, neighbours, public_name, services_of


class Far(NamedTuple):
    """One far process: its name in that host's startup file, what people call it, where it is, and its ports there (0: none)."""

    host: str
    process: str
    service: str
    address: str
    ports: Ports


def far_hosts(startup: Startup) -> dict[str, str]:
    """The peers that are reached over the network, with their addresses."""
    near = neighbours(startup)
    return {host: peer.address for host, peer in startup.peers.items() if host not in near}


def offers(startup: Startup) -> list[Far]:
    """What this host's relay offers."""
    return [offer for host, address in far_hosts(startup).items() for offer in _of(startup, host, address)]


def spoken_for(startup: Startup) -> frozenset[int]:
    """Numbers on this loopback that are never an agent's from elsewhere, even while nobody has them.

    They are those of every well-known service and supervisor, of what else runs here by the startup file, of the neighbours,
    and of what is offered here: whoever comes back finds its port free, and whoever calls it finds it and nobody else.
    """
    near = [startup.peers[name] for name in neighbours(startup)]
    ports = [
        *(usual for _, usual in WELL_KNOWN.values()),
        *(Ports(*usual) for usual in supervisor_api.PORTS.values()),
        startup.supervisor,
        *(Ports(entry.port, entry.events_port, entry.health_check_port) for entry in startup.entries),
        *(Ports(peer.supervisor_port, peer.events_port) for peer in near),
        *(each for peer in near for each in peer.services.values()),
        *(far.ports for far in offers(startup)),
    ]
    return frozenset(number for each in ports for number in (each.port, each.events_port, each.health_check_port))


def _of(startup: Startup, host: str, address: str) -> Iterator[Far]:
    peer = startup.peers[host]
    usual = supervisor_api.PORTS.get(host, (0, 0, 0))
    ports = Ports(peer.supervisor_port, peer.events_port, usual[2])
    yield Far(host, SUPERVISOR, f"Supervisor/{host}", address, ports)
    own = {service.name for service in startup.services}
    for process, there in services_of(startup, host).items():
        if there.port and process not in own:
            yield Far(host, process, public_name(process), address, there)


class FarAgent(NamedTuple):
    """One far agent; `over_curve`: it has an encrypted port of its own, where the others are reached through their supervisor."""

    far: Far
    over_curve: bool


def far_agents(
    agents: Iterable[Agent], hosts: Mapping[str, str], keyed: Iterable[tuple[str, str]]
) -> dict[str, FarAgent]:
    """The agents that this host's relay offers: all on the loopback of a far host that are not known to be gone.

    `hosts` are the far hosts with their addresses, `keyed` the processes, as host and name, whose keys are known.
    """
    known = set(keyed)
    return {
        agent.agent_name: FarAgent(
            Far(
                agent.location,
                agent.agent_name,
                agent.agent_name,
                hosts[agent.location],
                Ports(agent.port, agent.events_port),
            ),
            bool(agent.server_key) and (agent.location, agent.agent_name) in known,
        )
        for agent in agents
        if agent.location in hosts and agent.liveness != "expired" and is_own_host(agent.host)
    }


def local_ports(agents: Iterable[Agent], host: str) -> frozenset[int]:
    """The numbers that agents of `host` itself are registered with on its loopback."""
    here = [agent for agent in agents if agent.location == host and is_own_host(agent.host)]
    return frozenset(port for agent in here for port in (agent.port, agent.events_port, agent.health_check_port))
