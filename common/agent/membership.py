"""An agent's membership of the fabric: it registers, promises heartbeats and keeps them, and registers again when it must.

It is ready without the registry and says that it lacks it; nothing it does waits for it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

from common.api import core_orchestrator as core
from common.client.aio import AsyncClient
from common.errors import NotFound, TandemError
from common.service.shell import Shell

TTL_S: Final = 15.0
"""The promise; a heartbeat leaves every third of it."""

RETRY_S: Final = 0.25
RETRY_MAX_S: Final = 5.0
LACK: Final = "registry"


class Membership:
    """Keeps one registration alive; `load` is the calls under way, sent with each heartbeat."""

    def __init__(
        self,
        shell: Shell,
        client: AsyncClient,
        registration: Callable[[], core.RegisterAgent],
        load: Callable[[], float],
    ) -> None:
        self._shell = shell
        self._client = client
        self._registration = registration
        self._load = load
        self._registry_boot = ""

    @property
    def registered(self) -> bool:
        """Whether the registry knows this agent, as far as it was heard last."""
        return bool(self._registry_boot)

    async def keep(self) -> None:
        """Register, then beat until cancelled; a registry that began a new life or forgot is told anew."""
        pause_s = RETRY_S
        while True:
            try:
                await self._once()
            except TandemError as error:
                self._shell.lacks[LACK] = error.message
            except Exception as bug:
                self._shell.log.exception("the registration failed")
                self._shell.lacks[LACK] = f"{type(bug).__name__} while it was told of this agent"
            else:
                pause_s = RETRY_S
                self._shell.lacks.pop(LACK, None)
                await asyncio.sleep(TTL_S / 3)
                continue
            await asyncio.sleep(pause_s)
            pause_s = min(RETRY_MAX_S, pause_s * 2)

    async def _once(self) -> None:
        if not self._registry_boot:
            answer = await self._client.call(core.SERVICE, core.REGISTER_AGENT, self._registration(), timeout_s=2.0)
            self._registry_boot = answer.boot
            return
        beat = core.Heartbeat(agent_name=self._registration().agent_name, load=self._load())
        try:
            answer = await self._client.call(core.SERVICE, core.HEARTBEAT, beat, timeout_s=2.0)
        except NotFound:
            self._registry_boot = ""
            await self._once()
            return
        if answer.boot != self._registry_boot:
            self._registry_boot = ""
            await self._once()

    async def leave(self) -> None:
        """Take the agent off the registry; it goes without a word when the registry is away."""
        if not self._registry_boot:
            return
        try:
            gone = core.AgentName(agent_name=self._registration().agent_name)
            await self._client.call(core.SERVICE, core.DEREGISTER_AGENT, gone, timeout_s=1.0)
        except TandemError as error:
            self._shell.log.info("left without telling the registry: %s", error.message)
