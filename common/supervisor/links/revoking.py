"""Brings SecurityGateway's revocations into this host's keyring, where every process sees them; revokes nothing itself.

What was heard stays in force while the gateway is away, and over restarts.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from typing import Final, NoReturn

import msgspec

from common.api import security_gateway as api
from common.api.words import Cursor, Empty
from common.client.aio import AsyncClient
from common.client.following import Event
from common.client.keeping_up import keep_up
from common.supervisor.links.keeper import Keeper

ASK_TIMEOUT_S: Final = 3.0
LACK: Final = "revocations"


class Revocations:
    """Follows the gateway for `keeper`; `lacks` has it, with the reason, while it is not heard."""

    def __init__(self, keeper: Keeper, client: AsyncClient, lacks: dict[str, str]) -> None:
        self._keeper = keeper
        self._client = client
        self._lacks = lacks

    async def follow(self) -> NoReturn:
        """Until cancelled."""
        await keep_up(self._client, api.SERVICE, [api.REVOCATIONS_CHANGED.name], self)

    async def look(self) -> Mapping[str, Cursor]:
        """Takes in all that is revoked."""
        told = await self._client.call(
            api.SERVICE, api.LIST_REVOCATIONS, Empty(), timeout_s=ASK_TIMEOUT_S, idempotent=False
        )
        self._keeper.revoke(told.tokens, told.identities)
        self._lacks.pop(LACK, None)
        return {api.REVOCATIONS_CHANGED.name: told.as_of}

    def take(self, event: Event) -> None:
        """Something was revoked; what was dropped from the gateway's list is dropped here in its own time.

        Where it cannot be written the gateway counts as away, and is asked until it can.
        """
        with suppress(msgspec.MsgspecError, UnicodeError):
            changed = msgspec.json.decode(event.body, type=api.RevocationsChanged)
            if changed.change == "revoked":
                self._keeper.revoke(changed.tokens, changed.identities)

    def away(self, reason: str) -> None:
        """Tokens are checked without it; only what it revokes from now on is not heard."""
        self._lacks[LACK] = f"revocations are not heard: {reason}"
