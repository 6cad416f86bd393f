"""The other hosts' agents on this host's loopback: a port each, at the agent's own number where that is free and nobody's here.

What is offered follows the registry's copy; the ports are told by `list_relays` and on `relays.changed`, and an agent that comes
back gets the port that it had.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Final

from common.api import relays as api
from common.api.core_orchestrator import Agent
from common.client.aio import AsyncClient
from common.errors import Conflict, TandemError
from common.registry.location import Relayed
from common.service.call import Call
from common.service.shell import Shell
from common.supervisor.relay.forwarder import Forwarder
from common.supervisor.relay.offers import FarAgent, far_agents, local_ports
from common.supervisor.relay.passage import Locate, Passage
from common.supervisor.relay.reach import Reach, Since
from common.supervisor.relay.requests import Requests

_LACK: Final = "relayed agent "
_BEYOND: Final = "relayed agents beyond the limit"
OFFERED: Final = 512
"""Agents offered at most: each takes two sockets and a look now and then. Those offered already go first, then by name."""
REMEMBERED: Final = 4_096
"""Agents whose last ports are remembered."""


class Agents:
    """The agents offered here, at no number that is `spoken_for`; `supervisor` tells the port here of a far host's supervisor."""

    def __init__(
        self,
        shell: Shell,
        hosts: Mapping[str, str],
        locate: Locate,
        keyed: Callable[[], Iterable[tuple[str, str]]],
        client: AsyncClient,
        supervisor: Callable[[str], int],
        spoken_for: frozenset[int],
    ) -> None:
        self._shell = shell
        self._hosts = hosts
        self._locate = locate
        self._keyed = keyed
        self._client = client
        self._supervisor = supervisor
        self._spoken_for = spoken_for
        self._local: frozenset[int] = frozenset()
        self._offered: dict[str, tuple[FarAgent, Passage | Requests, api.Relay]] = {}
        self._last: dict[str, tuple[int, int]] = {}

    def relayed(self) -> dict[str, Relayed]:
        """Where each agent is offered."""
        return {name: Relayed(relay.port, 0, relay.events_port) for name, (_, _, relay) in self._offered.items()}

    def list(self, _asked: api.ListRelays, _call: Call) -> api.Relays:
        """Answer `list_relays`."""
        as_of = self._shell.publisher.cursor(api.RELAYS_CHANGED.name)
        found = [relay for _, _, relay in self._offered.values()]
        return api.Relays(host=self._shell.settings.host, relays=found, as_of=as_of)

    @property
    def is_short(self) -> bool:
        """Whether some agent could not be offered for want of a port."""
        return any(lack.startswith(_LACK) for lack in self._shell.lacks)

    def update(self, agents: Iterable[Agent], *, joined: Callable[[str], bool]) -> None:
        """Offer these agents, as far as they are elsewhere, and no others."""
        agents = list(agents)
        self._local = local_ports(agents, self._shell.settings.host)
        wanted = self._within_the_limit(far_agents(agents, self._hosts, self._keyed()))
        for lack in [lack for lack in self._shell.lacks if lack.startswith(_LACK) and lack[len(_LACK) :] not in wanted]:
            del self._shell.lacks[lack]
        for name in [name for name in self._offered if name not in wanted]:
            _, way, relay = self._offered.pop(name)
            way.close()
            self._tell("closed", relay)
        for name, agent in wanted.items():
            offered = self._offered.get(name)
            if offered is not None and _same_way(offered[0], agent):
                self._follow(name, agent, joined)
            else:
                self._offer(name, agent, joined)

    def _within_the_limit(self, wanted: dict[str, FarAgent]) -> dict[str, FarAgent]:
        self._shell.lacks.pop(_BEYOND, None)
        if len(wanted) <= OFFERED:
            return wanted
        beyond = len(wanted) - OFFERED
        self._shell.lacks[_BEYOND] = f"{beyond} agents of other hosts are not offered here: the relay offers {OFFERED}"
        first = sorted(wanted, key=lambda name: (name not in self._offered, name))[:OFFERED]
        return {name: wanted[name] for name in first}

    def _follow(self, name: str, agent: FarAgent, joined: Callable[[str], bool]) -> None:
        """The same way leads on, though perhaps to another place."""
        before, way, relay = self._offered[name]
        if before != agent:
            self._offered[name] = agent, way, relay
            if isinstance(way, Passage):
                way.far = agent.far
                way.refresh(host_joined=joined(agent.far.host))

    def _offer(self, name: str, agent: FarAgent, joined: Callable[[str], bool]) -> None:
        before = self._offered.pop(name, None)
        if before is not None:
            before[1].close()
        lack = _LACK + name
        try:
            way, relay = self._passage(agent, joined) if agent.over_curve else self._forwarded(agent)
        except TandemError as error:
            self._shell.lacks[lack] = f"{name} on {agent.far.host} is not offered here: {error.message}"
            if before is not None:
                self._tell("closed", before[2])
            return
        self._shell.lacks.pop(lack, None)
        self._offered[name] = agent, way, relay
        self._remember(relay)
        if before is None or before[2] != relay:
            self._tell("opened" if before is None else "moved", relay)

    def _passage(self, agent: FarAgent, joined: Callable[[str], bool]) -> tuple[Passage, api.Relay]:
        far, shell = agent.far, self._shell
        passage = Passage(shell.context, shell.clock, shell.settings.host, far, self._locate)
        last, last_events = self._last.get(far.process, (0, 0))
        try:
            self._bind(passage.open_requests, last, far.ports.port)
            if far.ports.events_port:
                self._bind(passage.open_events, last_events, far.ports.events_port)
        except TandemError:
            passage.close()
            raise
        passage.refresh(host_joined=joined(far.host))
        return passage, api.Relay(
            agent_name=far.process, host=far.host, port=passage.port, events_port=passage.events_port
        )

    def _forwarded(self, agent: FarAgent) -> tuple[Requests, api.Relay]:
        far, shell = agent.far, self._shell
        now = Since(shell.clock.monotonic(), shell.clock.timestamp())
        reach = Reach(far.service, far.host, shell.settings.host, now)
        requests = Requests(shell.context, shell.clock, reach)
        self._bind(requests.open, self._last.get(far.process, (0, 0))[0], far.ports.port)
        requests.lead(lambda own: Forwarder(self._client, far.process, lambda: self._supervisor(far.host), own))
        return requests, api.Relay(agent_name=far.process, host=far.host, port=requests.number)

    def _bind(self, opened: Callable[[int], None], *numbers: int) -> None:
        """Bind to the first of these numbers (0: none) that is free and nobody's here, else to one of the system's choosing."""
        for number in dict.fromkeys(numbers):
            if not number or number in self._spoken_for or number in self._local:
                continue
            try:
                opened(number)
            except Conflict:
                continue
            return
        opened(0)

    def _remember(self, relay: api.Relay) -> None:
        self._last.pop(relay.agent_name, None)
        self._last[relay.agent_name] = (relay.port, relay.events_port)
        if len(self._last) > REMEMBERED:
            del self._last[next(iter(self._last))]

    def _tell(self, change: str, relay: api.Relay) -> None:
        event = api.RelayChanged(change=change, relay=relay)  # type: ignore[arg-type]
        self._shell.publisher.publish(api.RELAYS_CHANGED, relay.agent_name, event)

    def refresh(self, *, joined: Callable[[str], bool], keys_changed: bool) -> None:
        """Follow the agents' keys."""
        for agent, way, _ in self._offered.values():
            if isinstance(way, Passage) and (keys_changed or way.is_restless):
                way.refresh(host_joined=joined(agent.far.host))

    def sweep(self) -> None:
        """End the calls whose time has passed."""
        for _, way, _ in self._offered.values():
            way.sweep()

    def close(self) -> None:
        """Offer nothing more."""
        for _, way, _ in self._offered.values():
            way.close()
        self._offered.clear()


def _same_way(before: FarAgent, now: FarAgent) -> bool:
    """Whether what was bound for one place of an agent serves for the other: a call passed on finds it by its name."""
    same = before.over_curve == now.over_curve and before.far.host == now.far.host
    return same and (not now.over_curve or bool(before.far.ports.events_port) == bool(now.far.ports.events_port))
