"""The other hosts as this one's processes meet them: the relay, the registry's copy that feeds it, and calls passed on to here.

The copy also tells Prometheus of this host's own agents. It wires these to one shell and decides nothing.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Final

from common.client.aio import AsyncClient
from common.config.schema import Startup
from common.service.shell import Shell
from common.supervisor.lookups import Lookups
from common.supervisor.relay.forwarding import Forwarding
from common.supervisor.relay.service import FarKeys, Relay
from common.supervisor.scraped import ScrapedAgents

OFFER_S: Final = 0.05
"""So long after a change in the registry the relay follows, with all that changed meanwhile."""
LIST_S: Final = 1.0
"""How often the list of scraped agents follows, where something changed or it could not be written."""


class Elsewhere:
    """One host's ways to the others. `folder` is this host's home, `keys` the folder that its keys lie in."""

    def __init__(self, shell: Shell, startup: Startup, folder: Path, keys: Path) -> None:
        self._shell = shell
        self._offering: asyncio.TimerHandle | None = None
        self._relay = Relay(shell, startup, FarKeys(keys, startup.host))
        self._lookups = Lookups(shell, startup, self._relay.relayed, self._registered)
        self._forwarding = Forwarding(shell, self._lookups.agent)
        self._scraped = ScrapedAgents(folder, startup.host)
        self._listed = False

    def _registered(self) -> None:
        """Many changes at once are offered as one."""
        self._forwarding.registered()
        self._listed = False
        if self._offering is None:
            self._offering = self._shell.loop.call_later(OFFER_S, self._offer)

    def _offer(self) -> None:
        self._offering = None
        self._relay.registered(self._lookups.agents)

    def _list(self) -> None:
        self._listed = self._listed or self._scraped.keep(self._lookups.agents)

    def add_routes(self) -> None:
        """Serve the look-ups, `list_relays` and `forward`."""
        self._lookups.add_routes()
        self._relay.add_routes()
        self._forwarding.add_routes()

    def open(self) -> None:
        """Take in the copy that was kept, and offer what is elsewhere."""
        self._relay.open()
        self._lookups.open()

    def follow(self, client: AsyncClient) -> None:
        """Keep the copy in step by `client`, as long as the shell lives."""
        self._lookups.follow(client)
        self._shell.every(LIST_S, self._list)

    async def close(self) -> None:
        """Offer nothing more; to be called before the shell closes."""
        if self._offering is not None:
            self._offering.cancel()
        await self._relay.close()
