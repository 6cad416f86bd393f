"""The relay's shell: offers every far service and agent on this host's loopback, and follows keys as they change.

A port that is taken here is lacked and tried again; everything else goes on. It decides nothing about a call.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Final

from common.api import relays
from common.api.core_orchestrator import Agent
from common.client.aio import AsyncClient
from common.client.directory import Directory
from common.client.settings import at_own_pace
from common.config.schema import Startup
from common.errors import TandemError
from common.registry.location import Relayed
from common.security import keyfiles
from common.security.keyfiles import KeyfileRefused, KeyringFile, ProcessKeys
from common.service.call import Call
from common.service.shell import Shell
from common.supervisor.relay.agents import Agents
from common.supervisor.relay.far_health import FarHealth
from common.supervisor.relay.offers import Far, far_hosts, offers, spoken_for
from common.supervisor.relay.passage import Passage
from common.supervisor.whereabouts import SUPERVISOR
from common.transport.sockets import Endpoint, Keys

SWEEP_S: Final = 0.25
REFRESH_S: Final = 0.25
RETRY_PORT_S: Final = 1.0
RELAY: Final = "relay"


class FarKeys:
    """By which keys far processes are reached now: the relay's own pair, and the host's keyring."""

    def __init__(self, folder: Path, own_host: str) -> None:
        self._own_file = folder / f"{RELAY}.json"
        self._keyring = KeyringFile(folder / keyfiles.KEYRING_FILE, own_host)
        self._own: Keys | None = None
        self.problem = ""

    def refresh(self) -> bool:
        """Look at the files, cheap while nothing changed; whether other keys are known now."""
        changed = self._keyring.refresh()
        if self._own is None:
            try:
                pair = keyfiles.read(self._own_file, ProcessKeys)
            except KeyfileRefused as error:
                self.problem = error.message
            else:
                self._own, self.problem = Keys(pair.public.encode(), pair.secret.encode()), ""
                changed = True
        return changed

    def has_joined(self, host: str) -> bool:
        """Whether that host's keys are known here."""
        return host in self._keyring.current.hosts

    def known(self) -> Iterator[tuple[str, str]]:
        """The processes, as host and name, whose keys are known."""
        for host, told in self._keyring.current.hosts.items():
            for key in told.keys:
                yield host, key.name

    def locate(self, far: Far, port: int) -> Endpoint | None:
        """Where a port of a far process is reached over CURVE; None while its key is not known here."""
        server_key = self._keyring.current.server_key(far.host, far.process)
        if server_key is None or self._own is None:
            return None
        return Endpoint(f"tcp://{far.address}:{port}", server_key, self._own)


class Relay:
    """One host's relay to the hosts that it reaches over the network; it offers nothing where there are none."""

    def __init__(self, shell: Shell, startup: Startup, keys: FarKeys) -> None:
        self._shell = shell
        self._startup = startup
        self._keys = keys
        self._hosts = far_hosts(startup)
        self._passages: list[Passage] = []
        self._healths: list[FarHealth] = []
        self._client: AsyncClient | None = None
        self._agents: Agents | None = None
        self._registered: Sequence[Agent] = ()
        self._missing: dict[str, Callable[[], None]] = {}

    def add_routes(self) -> None:
        """Serve `list_relays`."""
        self._shell.handle(relays.LIST_RELAYS, self._list)

    def _list(self, asked: relays.ListRelays, call: Call) -> relays.Relays:
        if self._agents is not None:
            return self._agents.list(asked, call)
        as_of = self._shell.publisher.cursor(relays.RELAYS_CHANGED.name)
        return relays.Relays(host=self._startup.host, relays=[], as_of=as_of)

    def relayed(self) -> Mapping[str, Relayed]:
        """Where agents of other hosts are offered here, by name."""
        return self._agents.relayed() if self._agents is not None else {}

    def registered(self, agents: Sequence[Agent]) -> None:
        """These agents are registered now, wherever they are."""
        self._registered = agents
        if self._agents is not None:
            self._agents.update(agents, joined=self._keys.has_joined)

    def open(self) -> None:
        """Offer what the startup file says, as far as the ports here are free."""
        if not self._hosts:
            return
        shell = self._shell
        self._client = client = AsyncClient(Directory(), shell.clock, shell.rng, at_own_pace(), shell.context)
        self._keys.refresh()
        self._agents = Agents(
            shell,
            self._hosts,
            self._keys.locate,
            self._keys.known,
            client,
            self._supervisor_port,
            spoken_for(self._startup),
        )
        for far in offers(self._startup):
            passage = Passage(shell.context, shell.clock, self._startup.host, far, self._keys.locate)
            self._passages.append(passage)
            self._offer(f"relay {far.service}", partial(passage.open_requests, far.ports.port))
            if far.ports.events_port:
                self._offer(f"relay {far.service} events", partial(passage.open_events, far.ports.events_port))
            if far.ports.health_check_port:
                self._offer(f"relay {far.service} health", partial(self._open_health, passage))
        for passage in self._passages:
            passage.refresh(host_joined=self._keys.has_joined(passage.far.host))
        self.registered(self._registered)
        shell.every(SWEEP_S, self._sweep)
        shell.every(REFRESH_S, self._refresh)
        shell.every(RETRY_PORT_S, self._retry)
        shell.metrics.read_gauge(
            "tandem_relay_calls",
            "Calls under way to other hosts.",
            lambda: sum(one.under_way for one in self._passages),
        )
        shell.metrics.read_gauge(
            "tandem_relay_links_up",
            "Far services that are connected to.",
            lambda: sum(one.reach.is_up for one in self._passages),
        )

    def _offer(self, what: str, bind: Callable[[], None]) -> None:
        try:
            bind()
        except TandemError as error:
            self._missing[what] = bind
            self._shell.lacks[what] = f"the {what} port is not offered here: {error.message}"
        else:
            self._missing.pop(what, None)
            self._shell.lacks.pop(what, None)

    def _retry(self) -> None:
        for what, bind in list(self._missing.items()):
            self._offer(what, bind)
        if self._agents is not None and self._agents.is_short:
            self.registered(self._registered)

    def _open_health(self, passage: Passage) -> None:
        assert self._client is not None
        far = passage.far
        health = FarHealth(far.service, far.host, far.ports.health_check_port, far.ports.port, self._client)
        self._healths.append(health)
        self._shell.spawn(health.ask(), f"asking {far.service} on {far.host}")

    def _supervisor_port(self, host: str) -> int:
        ports = [one.port for one in self._passages if (one.far.host, one.far.process) == (host, SUPERVISOR)]
        return ports[0] if ports else 0

    def _refresh(self) -> None:
        changed = self._keys.refresh()
        if changed:
            self.registered(self._registered)
        if self._agents is not None:
            self._agents.refresh(joined=self._keys.has_joined, keys_changed=changed)
        for passage in self._passages:
            if changed or passage.is_restless:
                passage.refresh(host_joined=self._keys.has_joined(passage.far.host))

    def _sweep(self) -> None:
        for passage in self._passages:
            passage.sweep()
        if self._agents is not None:
            self._agents.sweep()
        for health in self._healths:
            health.heartbeat()

    async def close(self) -> None:
        """Offer nothing more; to be called before the shell closes."""
        for health in self._healths:
            health.close()
        if self._client is not None:
            await self._client.close()
        if self._agents is not None:
            self._agents.close()
        for passage in self._passages:
            passage.close()
