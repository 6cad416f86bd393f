"""Brings SecurityGateway's revocations into this host's keyring, where every process sees them; revokes nothing itself.

What was heard stays in force while the gateway is away, and over restarts. A storm of revocations is written as a few files, one
after the other beside the supervisor's loop.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from contextlib import suppress
from typing import Final, NoReturn

import msgspec

from common.api import security_gateway as api
from common.api.words import Cursor, Empty
from common.client.aio import AsyncClient
from common.client.following import Event
from common.client.keeping_up import keep_up
from common.errors import TandemError
from common.supervisor.links.keeper import Keeper

ASK_TIMEOUT_S: Final = 3.0
GATHER_S: Final = 0.05
"""So long after a revocation was heard it is written, with all that were heard meanwhile."""
AGAIN_S: Final = 0.25
"""What could not be written is tried again after this time."""
LACK: Final = "revocations"


class Revocations:
    """Follows the gateway for `keeper`; `lacks` has it, with the reason, while it is not heard."""

    def __init__(self, keeper: Keeper, client: AsyncClient, lacks: dict[str, str]) -> None:
        self._keeper = keeper
        self._client = client
        self._lacks = lacks
        self._tokens: dict[str, float] = {}
        self._identities: dict[str, float] = {}
        self._heard = asyncio.Event()

    async def follow(self) -> NoReturn:
        """Until cancelled."""
        writing = asyncio.create_task(self._keep_writing())
        try:
            await keep_up(self._client, api.SERVICE, [api.REVOCATIONS_CHANGED.name], self)
        finally:
            writing.cancel()
            if self._heard.is_set():
                with suppress(TandemError):  # the next life lists it
                    await self._keeper.aside(self._keeper.revoke, self._tokens, self._identities)

    async def look(self) -> Mapping[str, Cursor]:
        """Takes in all that is revoked."""
        told = await self._client.call(
            api.SERVICE, api.LIST_REVOCATIONS, Empty(), timeout_s=ASK_TIMEOUT_S, idempotent=False
        )
        await self._keeper.aside(self._keeper.revoke, told.tokens, told.identities)
        self._lacks.pop(LACK, None)
        return {api.REVOCATIONS_CHANGED.name: told.as_of}

    def take(self, event: Event) -> None:
        """Something was revoked; what was dropped from the gateway's list is dropped here in its own time."""
        with suppress(msgspec.MsgspecError, UnicodeError):
            changed = msgspec.json.decode(event.body, type=api.RevocationsChanged)
            if changed.change == "revoked":
                self._tokens |= changed.tokens
                for name, at in changed.identities.items():
                    self._identities[name] = max(at, self._identities.get(name, at))
                self._heard.set()

    async def _keep_writing(self) -> NoReturn:
        """Write what was heard, until cancelled; what comes during a write is in the next one."""
        while True:
            await self._heard.wait()
            await asyncio.sleep(GATHER_S)
            while not await self._write():
                await asyncio.sleep(AGAIN_S)

    async def _write(self) -> bool:
        tokens, identities = dict(self._tokens), dict(self._identities)
        try:
            await self._keeper.aside(self._keeper.revoke, tokens, identities)
        except Exception as error:
            if not isinstance(error, TandemError):
                logging.getLogger("tandem.supervisor").exception("writing revocations failed")
            self._lacks[LACK] = f"revocations are not kept: {error}"
            return False
        self._tokens = {jti: until for jti, until in self._tokens.items() if jti not in tokens}
        self._identities = {name: at for name, at in self._identities.items() if identities.get(name) != at}
        self._lacks.pop(LACK, None)
        if not self._tokens and not self._identities:
            self._heard.clear()
        return True

    def away(self, reason: str) -> None:
        """Tokens are checked without it; only what it revokes from now on is not heard."""
        self._lacks[LACK] = f"revocations are not heard: {reason}"
