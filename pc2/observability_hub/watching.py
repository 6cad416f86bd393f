"""Watching those who know: each supervisor's processes and vitals, and the registry's agents, listed and then followed for ever.

What they say goes to the ward. One that is away shows as a lack; what it said still holds, and its probes say the rest.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

import msgspec

from common.api import core_orchestrator as registry
from common.api.supervisor import (
    GET_VITALS,
    LIST_PROCESSES,
    PROCESS_CHANGED,
    VITALS_SAMPLED,
    GetVitals,
    ListProcesses,
    ProcessChanged,
    Vitals,
)
from common.api.words import Cursor, Empty
from common.client.aio import AsyncClient
from common.client.following import Event
from common.client.keeping_up import keep_up
from common.errors import TandemError
from common.service.shell import Shell
from pc2.observability_hub.subjects import Subject, Way
from pc2.observability_hub.ward import Instruction, Ward

ASK_S: Final = 2.0
RELAYS_AT_ONCE: Final = 32
"""Look-ups of agents of other hosts in one go; the rest waits for the next."""

Perform = Callable[[Iterable[Instruction]], None]

_EVENTS: Final[dict[str, Any]] = {topic.name: topic.event for topic in (PROCESS_CHANGED, VITALS_SAMPLED)}


class WatchedHost:
    """One supervisor; `vitals` hears of what it samples."""

    def __init__(
        self,
        host: str,
        shell: Shell,
        ward: Ward,
        client: AsyncClient,
        perform: Perform,
        vitals: Callable[[Vitals], None],
    ) -> None:
        self.target = f"Supervisor/{host}"
        self._host = host
        self._shell = shell
        self._clock = shell.clock
        self._ward = ward
        self._client = client
        self._perform = perform
        self._vitals = vitals

    def begin(self) -> None:
        """Follow it until the shell ends."""
        self._shell.spawn(keep_up(self._client, self.target, tuple(_EVENTS), self), f"following {self.target}")

    async def look(self) -> Mapping[str, Cursor]:
        """Takes in its processes and vitals."""
        listed = await self._client.call(self.target, LIST_PROCESSES, ListProcesses(), timeout_s=ASK_S)
        vitals = await self._client.call(self.target, GET_VITALS, GetVitals(), timeout_s=ASK_S)
        clock = self._clock
        self._perform(self._ward.listed(self._host, listed.processes, clock.monotonic(), clock.wall()))
        self._vitals(vitals)
        self._shell.lacks.pop(self.target, None)
        return {PROCESS_CHANGED.name: listed.as_of}

    def take(self, event: Event) -> None:
        """A process changed, or the vitals were sampled; what cannot be read is passed over, the next list has it."""
        try:
            said: ProcessChanged | Vitals = msgspec.json.decode(event.body, type=_EVENTS[event.topic])
        except (msgspec.MsgspecError, UnicodeError) as error:
            self._shell.log.warning("an event of %s from %s cannot be read: %s", event.topic, self._host, error)
            return
        if isinstance(said, Vitals):
            self._vitals(said)
        else:
            now, wall = self._clock.monotonic(), self._clock.wall()
            self._perform(self._ward.told(self._host, said.process, said.was, now, wall))

    def away(self, reason: str) -> None:
        """It is lacked."""
        self._shell.lacks[self.target] = f"{self._host}'s supervisor is not heard: {reason}"


class WatchedRegistry:
    """CoreOrchestrator's agents; `home` is the host of those that name none."""

    def __init__(self, home: str, shell: Shell, ward: Ward, client: AsyncClient, perform: Perform) -> None:
        self._home = home
        self._shell = shell
        self._clock = shell.clock
        self._ward = ward
        self._client = client
        self._perform = perform

    def begin(self) -> None:
        """Follow it until the shell ends."""
        topics = (registry.AGENTS_CHANGED.name,)
        self._shell.spawn(keep_up(self._client, registry.SERVICE, topics, self), "following the registry")

    async def look(self) -> Mapping[str, Cursor]:
        """Takes in all agents."""
        listed = await self._client.call(registry.SERVICE, registry.LIST_AGENTS, Empty(), timeout_s=ASK_S)
        clock = self._clock
        self._perform(self._ward.registered(listed.agents, self._home, clock.monotonic(), clock.wall()))
        self._shell.lacks.pop(registry.SERVICE, None)
        return {registry.AGENTS_CHANGED.name: listed.as_of}

    def take(self, event: Event) -> None:
        """An agent changed."""
        try:
            said = msgspec.json.decode(event.body, type=registry.AgentChanged)
        except (msgspec.MsgspecError, UnicodeError) as error:
            self._shell.log.warning("an event of the registry cannot be read: %s", error)
            return
        agent = said.agent
        if said.change == "deregistered":
            self._ward.deregistered(f"{agent.location or self._home}/{agent.agent_name}")
        else:
            self._perform(self._ward.agent(agent, self._home, self._clock.monotonic(), self._clock.wall()))

    def away(self, reason: str) -> None:
        """It is lacked; supervised agents are watched all the same."""
        self._shell.lacks[registry.SERVICE] = f"the registry is not heard: {reason}"

    async def find_ways(self) -> None:
        """Asks where plain agents behind a link are reached from here; without a way they go by their supervisor's word."""
        unknown = [one for one in self._ward if not one.near and one.relayed is None and _is_plain(one)]
        for subject in unknown[:RELAYS_AT_ONCE]:
            asked = registry.LocateAgent(agent_name=subject.name)
            try:
                at = await self._client.call(registry.SERVICE, registry.GET_AGENT_ENDPOINT, asked, timeout_s=ASK_S)
            except TandemError as error:
                self._shell.log.debug("no way to %s: %s", subject.key, error.message)
                continue
            if at.health_check_port:
                self._ward.relayed(subject.key, Way("zmq", at.host, at.health_check_port))


def _is_plain(subject: Subject) -> bool:
    return subject.agent is not None and subject.agent.dress == "plain" and bool(subject.agent.health_check_port)
