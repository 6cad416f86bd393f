"""Where an agent answers, as seen from the asker: look-ups are relative.

A loopback address means the registrant's own host. On that host it is good as it is; elsewhere who speaks CURVE gets the
host's LAN address with the agent's server key, and everyone else a port of the relay on the asker's own loopback. Where both
hosts are one machine there is no way to go, and loopback is good everywhere.

It opens nothing and knows no topology: addresses and relay ports are passed in.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from ipaddress import ip_address
from typing import Final, NamedTuple, Protocol

from msgspec import structs

from common.api.core_orchestrator import Agent, Endpoint, Liveness, RegisterAgent
from common.errors import Unavailable

LOOPBACK: Final = "127.0.0.1"
OWN_HOST: Final = frozenset({"localhost", "*", "0.0.0.0", "::"})
"""Names of the registrant's own host beside the loopback addresses; a wildcard says no more than that."""


class Located(Protocol):
    """An agent as whoever keeps it knows it: what it registered with, and its liveness."""

    @property
    def asked(self) -> RegisterAgent | Agent:
        """Its registration."""
        ...

    @property
    def liveness(self) -> Liveness:
        """Whether it is alive."""
        ...


class Relayed(NamedTuple):
    """Ports on the asker's loopback behind which the relay offers an agent; 0: not offered."""

    port: int
    health_check_port: int = 0
    events_port: int = 0


@dataclass(frozen=True, slots=True)
class Asker:
    """Who asks: its host, and whether it speaks CURVE and so can cross hosts by itself."""

    host: str
    curve: bool = False


@dataclass(frozen=True, slots=True)
class Routes:
    """Ways between hosts: each host's address on the LAN, what the relay of a host offers of an agent elsewhere, and the hosts
    that are this machine.
    """

    addresses: Mapping[str, str] = field(default_factory=dict)
    relayed: Mapping[tuple[str, str], Relayed] = field(default_factory=dict)
    near: frozenset[str] = frozenset()

    def one_machine(self, here: str, there: str) -> bool:
        """Whether both hosts are known to be one machine: this one, or one at the same address."""
        if here in self.near and there in self.near:
            return True
        return here in self.addresses and self.addresses[here] == self.addresses.get(there)


def is_foreign_loopback(asked: RegisterAgent, caller_host: str, routes: Routes) -> bool:
    """Whether a caller names the loopback of another machine: calls would be passed on there, so only who is on it may."""
    location = asked.location or caller_host
    if location == caller_host or location not in routes.addresses or not is_own_host(asked.host):
        return False
    return not routes.one_machine(caller_host, location)


def endpoint_for(entry: Located, asker: Asker, routes: Routes) -> Endpoint:
    """Where `asker` finds the agent; Unavailable when no way leads from its host to the agent's."""
    asked = entry.asked
    near = Endpoint(
        agent_name=asked.agent_name,
        host=LOOPBACK if asked.host in OWN_HOST else asked.host,
        port=asked.port,
        health_check_port=asked.health_check_port,
        events_port=asked.events_port,
        capabilities=asked.capabilities,
        liveness=entry.liveness,
        dress=asked.dress,
        location=asked.location,
    )
    if not is_own_host(asked.host):
        return structs.replace(near, server_key=asked.server_key)
    if asker.host == asked.location or routes.one_machine(asker.host, asked.location):
        return near
    address = routes.addresses.get(asked.location)
    if asker.curve and asked.server_key and address:
        return structs.replace(near, host=address, server_key=asked.server_key, health_check_port=0)
    relayed = routes.relayed.get((asker.host, asked.agent_name))
    if relayed is None:
        raise Unavailable(f"{asked.agent_name} is on {asked.location} and no relay on {asker.host} leads there")
    return structs.replace(near, host=LOOPBACK, **relayed._asdict())


@lru_cache(maxsize=4_096)
def is_own_host(host: str) -> bool:
    """Whether an address that someone registered means its own host: loopback, or a wildcard."""
    if host in OWN_HOST:
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False
