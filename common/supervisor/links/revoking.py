"""Brings SecurityGateway's revocations into this host's keyring, where every process sees them; revokes nothing itself.

What was heard stays in force while the gateway is away, and over restarts. A storm of revocations is written as a few files, each
of which is flushed to the disk on the supervisor's loop.
"""

from __future__ import annotations

import asyncio
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
        self._writing: asyncio.TimerHandle | None = None

    async def follow(self) -> NoReturn:
        """Until cancelled."""
        try:
            await keep_up(self._client, api.SERVICE, [api.REVOCATIONS_CHANGED.name], self)
        finally:
            if self._writing is not None:
                self._writing.cancel()
                with suppress(TandemError):  # the next life lists it
                    self._keeper.revoke(self._tokens, self._identities)

    async def look(self) -> Mapping[str, Cursor]:
        """Takes in all that is revoked."""
        told = await self._client.call(
            api.SERVICE, api.LIST_REVOCATIONS, Empty(), timeout_s=ASK_TIMEOUT_S, idempotent=False
        )
        self._keeper.revoke(told.tokens, told.identities)
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
                self._write_in(GATHER_S)

    def _write_in(self, seconds: float) -> None:
        if self._writing is None:
            self._writing = asyncio.get_running_loop().call_later(seconds, self._write)

    def _write(self) -> None:
        self._writing = None
        try:
            self._keeper.revoke(self._tokens, self._identities)
        except TandemError as error:
            self._lacks[LACK] = f"revocations are not kept: {error.message}"
            self._write_in(AGAIN_S)
        else:
            self._tokens, self._identities = {}, {}
            self._lacks.pop(LACK, None)

    def away(self, reason: str) -> None:
        """Tokens are checked without it; only what it revokes from now on is not heard."""
        self._lacks[LACK] = f"revocations are not heard: {reason}"
