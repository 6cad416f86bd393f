"""Watching the other services: their events and lists go into the twin, their processes tell which agents to expect.

Each source is followed for ever and looked at every LOOK_S; one that is away shows as a lack and through the age of what it
said, and what was known of it still holds. When a subscription (again) stands or events were lost, its lists are asked for anew.

It decides nothing about agents: whoever is interested is told of every process.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Final

import msgspec

from common.api import basic, gpus, leases, resource_manager, supervisor
from common.api.catalog import TOPICS
from common.api.supervisor import Process, ProcessChanged
from common.api.words import Cursor, Empty, Message, Topic
from common.client.aio import AsyncClient
from common.client.directory import Directory
from common.client.following import Event
from common.errors import TandemError
from common.service.shell import Shell
from common.wire.events import EventHeader
from main_pc.core_orchestrator.turns import Turns
from main_pc.core_orchestrator.twin import Part, TwinView

LOOK_S: Final = 2.0
ASK_S: Final = 1.0
"""What a source's answer may take."""
FOLLOW_AGAIN_S: Final = 1.0

JOINING_S: Final = 30.0
"""A process is expected to register within this time of being ready."""

SUPERVISOR: Final = "Supervisor/"
SUPERVISORS_TOPICS: Final = (
    supervisor.PROCESS_CHANGED,
    supervisor.VITALS_SAMPLED,
    gpus.CARDS_SAMPLED,
    leases.LEASE_CHANGED,
)


@dataclass(slots=True)
class Source:
    """One service that is watched."""

    name: str
    topics: tuple[Topic, ...]
    follows: bool
    stale: bool = True
    wake: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def host(self) -> str:
        """The host that a supervisor speaks for; empty for any other service."""
        return self.name.removeprefix(SUPERVISOR) if self.name.startswith(SUPERVISOR) else ""

    def ask_again(self) -> None:
        """Its lists may have changed unheard."""
        self.stale = True
        self.wake.set()


@dataclass(frozen=True, slots=True)
class Seen:
    """A process as its supervisor told, and when (monotonic seconds)."""

    process: Process
    at: float


class Watching:
    """All sources of the directory. `told` hears of every process: its host and what its supervisor says of it."""

    def __init__(
        self,
        shell: Shell,
        turns: Turns,
        twin: TwinView,
        client: AsyncClient,
        directory: Directory,
        told: Callable[[str, Process], None],
    ) -> None:
        self._shell = shell
        self._turns = turns
        self._twin = twin
        self._client = client
        self._told = told
        self._sources = list(_sources(directory))
        self._processes: dict[str, dict[str, Seen]] = {}

    def begin(self) -> None:
        """Watch until the shell ends."""
        for source in self._sources:
            self._shell.spawn(self._attend(source), f"looking at {source.name}")
            if source.follows:
                self._shell.spawn(self._follow(source), f"following {source.name}")

    def expects(self, capability: str) -> bool:
        """Whether an agent that is configured or restarting will offer the capability."""
        now = self._turns.now()
        return any(
            capability in seen.process.capabilities and _will_join(seen, now)
            for processes in self._processes.values()
            for seen in processes.values()
        )

    def remind(self) -> None:
        """Tell of every process again: whoever listened has lost its memory."""
        for host, processes in self._processes.items():
            for seen in list(processes.values()):
                self._told(host, seen.process)

    # one source

    async def _attend(self, source: Source) -> None:
        while True:
            source.wake.clear()
            try:
                await self._look(source)
            except TandemError as away:
                self._shell.lacks[source.name] = f"{source.name}: {away.message}"
            except Exception as bug:
                self._shell.log.exception("looking at %s failed", source.name)
                self._shell.lacks[source.name] = f"{source.name}: {type(bug).__name__} while it was looked at"
            else:
                self._shell.lacks.pop(source.name, None)
            with suppress(TimeoutError):
                async with asyncio.timeout(LOOK_S):
                    await source.wake.wait()

    async def _look(self, source: Source) -> None:
        health = await self._client.call(source.name, basic.HEALTH_CHECK, Empty(), timeout_s=ASK_S)
        self._twin.observe(source.name, health, self._turns.at(), self._turns.now())
        if source.stale:
            source.stale = False
            try:
                source.stale = not await self._list(source)
            except TandemError:
                source.stale = True
                raise

    async def _list(self, source: Source) -> bool:
        """Take in the lists of a source; False when events overtook one, which is then to be asked for again."""
        current = True
        if source.host:
            told = await self._client.call(
                source.name, supervisor.LIST_PROCESSES, supervisor.ListProcesses(), timeout_s=ASK_S
            )
            current = self._replace_processes(source, told)
        held = await self._client.call(source.name, leases.LIST_LEASES, leases.ListLeases(), timeout_s=ASK_S)
        by_id = {lease.lease_id: lease for lease in held.leases}
        return self._replace(source, leases.LEASE_CHANGED, held.as_of, "leases", "lease", by_id) and current

    async def _follow(self, source: Source) -> None:
        topics = [topic.name for topic in source.topics]
        told = False
        while True:
            try:
                async for notice in self._client.events(source.name, topics, live=source.ask_again):
                    told = False
                    if isinstance(notice, Event):
                        self._take(source, notice)
                    else:
                        source.ask_again()
            except TandemError as error:
                if not told:  # once for each time that it is away
                    self._shell.log.info("%s is not followed for now: %s", source.name, error.message)
                told = True
            except Exception:
                self._shell.log.exception("following %s failed", source.name)
                source.ask_again()
            await asyncio.sleep(FOLLOW_AGAIN_S)

    # what it said

    def _take(self, source: Source, event: Event) -> None:
        try:
            said: Any = msgspec.json.decode(event.body, type=TOPICS[event.topic].event)
        except (msgspec.MsgspecError, UnicodeError) as error:
            self._shell.log.warning("an event of %s from %s cannot be read: %s", event.topic, source.name, error)
            return
        header = EventHeader(event.cursor.epoch, event.cursor.seq, event.at, event.entity)
        fresh = self._twin.fold(source.name, event.topic, header, said, self._turns.now())
        if fresh and isinstance(said, ProcessChanged):
            self._learn(source.host, said.process)

    def _learn(self, host: str, process: Process) -> None:
        self._processes.setdefault(host, {})[process.name] = Seen(process, self._turns.now())
        self._told(host, process)

    def _replace_processes(self, source: Source, told: supervisor.Processes) -> bool:
        topic = supervisor.PROCESS_CHANGED
        services = {process.name: process for process in told.processes if process.kind == "service"}
        agents = {process.name: process for process in told.processes if process.kind == "agent"}
        if not self._replace(source, topic, told.as_of, "services", "process", services):
            return False
        self._replace(source, topic, told.as_of, "agents", "process", agents)
        known, now = self._processes.get(source.host, {}), self._turns.now()
        self._processes[source.host] = {
            process.name: _seen(process, known.get(process.name), now) for process in told.processes
        }
        for process in told.processes:
            self._told(source.host, process)
        return True

    def _replace(
        self, source: Source, topic: Topic, as_of: Cursor, part: Part, aspect: str, values: Mapping[str, Message]
    ) -> bool:
        return self._twin.replace(source.name, topic.name, as_of, part, aspect, values, self._turns.now())


def _sources(directory: Directory) -> Iterable[Source]:
    """The supervisors and ResourceManager, of whose tasks the twin shows nothing.

    One whose events port is not known is looked at and not followed.
    """
    for name in directory.names():
        supervises = name.startswith(SUPERVISOR)
        place = directory.place(name)
        if supervises or name == resource_manager.SERVICE:
            topics = SUPERVISORS_TOPICS if supervises else (leases.LEASE_CHANGED,)
            yield Source(name, topics, place is not None and place.events is not None)


def _seen(process: Process, known: Seen | None, now: float) -> Seen:
    """A process that is still in the same phase has been in it since it was first seen there."""
    same = known is not None and (known.process.phase, known.process.pid) == (process.phase, process.pid)
    return Seen(process, known.at if same and known is not None else now)


def _will_join(seen: Seen, now: float) -> bool:
    phase = seen.process.phase
    return phase in ("starting", "draining") or (phase == "ready" and now - seen.at < JOINING_S)
