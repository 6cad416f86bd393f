"""The relay's shell: offers every far service on this host's loopback at its own port numbers, and follows keys as they change.

A port that is taken here is lacked and tried again; everything else goes on. It decides nothing about a call.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Final

from common.client.aio import AsyncClient
from common.client.directory import Directory
from common.client.settings import at_own_pace
from common.config.schema import Startup
from common.errors import TandemError
from common.security import keyfiles
from common.security.keyfiles import KeyfileRefused, KeyringFile, ProcessKeys
from common.service.shell import Shell
from common.supervisor.relay.far_health import FarHealth
from common.supervisor.relay.offers import Far, far_hosts, offers
from common.supervisor.relay.passage import Passage
from common.transport.sockets import Endpoint, Keys

SWEEP_S: Final = 0.1
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

    def refresh(self) -> None:
        """Look at the files; cheap while nothing changed."""
        self._keyring.refresh()
        if self._own is None:
            try:
                pair = keyfiles.read(self._own_file, ProcessKeys)
            except KeyfileRefused as error:
                self.problem = error.message
            else:
                self._own, self.problem = Keys(pair.public.encode(), pair.secret.encode()), ""

    def has_joined(self, host: str) -> bool:
        """Whether that host's keys are known here."""
        return host in self._keyring.current.hosts

    def knows(self, host: str, process: str) -> bool:
        """Whether the key of that process is known here."""
        return self._keyring.current.server_key(host, process) is not None

    def locate(self, far: Far, port: int) -> Endpoint | None:
        """Where a port of a far process is reached over CURVE; None while its key is not known here."""
        server_key = self._keyring.current.server_key(far.host, far.process)
        if server_key is None or self._own is None:
            return None
        return Endpoint(f"tcp://{far.address}:{port}", server_key, self._own)


class Relay:
    """One host's relay to the services of the hosts that it reaches over the network; nothing where there are none."""

    def __init__(self, shell: Shell, startup: Startup, keys: FarKeys) -> None:
        self._shell = shell
        self._startup = startup
        self._keys = keys
        self._hosts = far_hosts(startup)
        self._passages: list[Passage] = []
        self._healths: list[FarHealth] = []
        self._client: AsyncClient | None = None
        self._missing: dict[str, Callable[[], None]] = {}

    def open(self) -> None:
        """Offer what the startup file says, as far as the ports here are free."""
        if not self._hosts:
            return
        shell = self._shell
        self._client = AsyncClient(Directory(), shell.clock, shell.rng, at_own_pace(), shell.context)
        for far in offers(self._startup):
            passage = Passage(shell.context, shell.clock, self._startup.host, far, self._keys.locate)
            self._passages.append(passage)
            self._offer(f"relay {far.service}", partial(passage.open_requests, far.ports.port))
            if far.ports.events_port:
                self._offer(f"relay {far.service} events", partial(passage.open_events, far.ports.events_port))
            if far.ports.health_check_port:
                self._offer(f"relay {far.service} health", partial(self._open_health, passage))
        self._refresh()
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

    def _open_health(self, passage: Passage) -> None:
        assert self._client is not None
        far = passage.far
        health = FarHealth(far.service, far.host, far.ports.health_check_port, far.ports.port, self._client)
        self._healths.append(health)
        self._shell.spawn(health.ask(), f"asking {far.service} on {far.host}")

    def _refresh(self) -> None:
        self._keys.refresh()
        for passage in self._passages:
            passage.refresh(host_joined=self._keys.has_joined(passage.far.host))

    def _sweep(self) -> None:
        for passage in self._passages:
            passage.sweep()
        for health in self._healths:
            health.heartbeat()

    async def close(self) -> None:
        """Offer nothing more; to be called before the shell closes."""
        for health in self._healths:
            health.close()
        if self._client is not None:
            await self._client.close()
        for passage in self._passages:
            passage.close()
