"""The world around one host's supervisor: the other hosts and services, and what they are asked by; decides nothing about them.

It holds the links, the relay and what it copies, the followed peers, the one client of them all, and what children are told of
where everything is.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

from common.client.aio import AsyncClient
from common.client.credentials import Credentials
from common.client.directory import SERVICES_VARIABLE, Directory
from common.client.opening import open_client
from common.client.settings import at_own_pace
from common.client.sync import Client
from common.config.schema import Ports, Startup
from common.config.settings import TOKEN
from common.reporting.receivers import TIMEOUT_S
from common.reporting.reporter import ErrorReporter
from common.service.shell import Shell
from common.supervisor.apart import Apart
from common.supervisor.elsewhere import Elsewhere
from common.supervisor.instructions import PeerHeard, PeerLost
from common.supervisor.links.keeper import SUPERVISOR, Keeper
from common.supervisor.links.links import Links
from common.supervisor.peers import Peer
from common.supervisor.whereabouts import services_text

ADOPT_S: Final = 5.0
"""How often the spools of processes that have ended are looked at."""


class Outside:
    """`home` is TANDEM_HOME, `environ` what the supervisor was started with; `changed` hears when a host's keys change."""

    def __init__(
        self,
        shell: Shell,
        startup: Startup,
        keeper: Keeper,
        home: Path,
        environ: Mapping[str, str],
        changed: Callable[[], None],
    ) -> None:
        self._shell = shell
        self._startup = startup
        self._keeper = keeper
        self._services = environ.get(SERVICES_VARIABLE, "")
        self.links = Links(shell, startup, keeper, changed)
        self._elsewhere = Elsewhere(shell, startup, home / startup.host, keeper.folder)
        self.reporter = ErrorReporter(
            SUPERVISOR, host=startup.host, home=home, connect=self._reporting_client, environ={}
        )
        self.reporter.show(shell.metrics)
        self._client: AsyncClient | None = None

    def add_routes(self) -> None:
        """Serves the verbs of links, relay and look-ups."""
        self.links.add_routes()
        self._elsewhere.add_routes()

    async def open(self) -> None:
        """The shell's ports are open: they are told, and what is elsewhere is offered here."""
        await self._keeper.aside(self._keeper.listen_on, self._shell.port, self._shell.events_port)
        self._elsewhere.open()

    def surroundings(self, environ: Mapping[str, str]) -> dict[str, str]:
        """What children inherit of `environ`: no token, nor a ban on compiled bytecode (a start would take five times longer)."""
        inherited = {key: value for key, value in environ.items() if key not in (TOKEN, "PYTHONDONTWRITEBYTECODE")}
        return {**inherited, SERVICES_VARIABLE: self._directory().render()}

    def follow(self, feed: Callable[[PeerHeard | PeerLost], None]) -> None:
        """Keep up with everyone, as long as the shell lives; `feed` hears of the peers' processes."""
        shell, clock = self._shell, self._shell.clock
        self._client = AsyncClient(self._directory(), clock, shell.rng, at_own_pace(), credentials=self._credentials())
        self.links.follow(self._client)
        self._elsewhere.follow(self._client)
        for host in self._startup.peers:
            peer = Peer(host, self._client, clock, feed, shell.lacks, self.links.unjoined)
            shell.spawn(peer.follow(), f"following {host}")
        Apart(shell, self.links.told).begin()
        shell.every(ADOPT_S, self.reporter.adopt_left_behind)

    async def close_relay(self) -> None:
        """Offer nothing of other hosts any more; before the shell closes."""
        await self._elsewhere.close()

    async def close(self) -> None:
        """Ask nobody any more, and spool what could not be reported; after the shell closed."""
        if self._client is not None:
            await self._client.close()
        await asyncio.to_thread(self.reporter.close)
        self._keeper.close()

    def _directory(self) -> Directory:
        shell = self._shell
        ports = Ports(shell.port, shell.events_port, shell.health_port)
        return Directory.parse(f"{self._services},{services_text(self._startup, ports)}")

    def _credentials(self) -> Credentials:
        return Credentials.of_process(self._keeper.process_file(SUPERVISOR), self._startup.host)

    def _reporting_client(self) -> Client:
        return open_client(at_own_pace(TIMEOUT_S), self._directory(), self._credentials())
