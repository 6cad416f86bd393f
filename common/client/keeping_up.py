"""Keeping up with a publisher for ever: its list, then its events from there on, and its list again when that is due.

One that says nothing for SILENT_S, not even a beat, is listed anew, and so is one whose events were lost. One that cannot be
listed or followed is away, and tried until it is not. What is heard is the listener's; nothing is decided here.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Final, NoReturn, Protocol

from common.api.words import Cursor
from common.client.aio import AsyncClient
from common.client.following import Event
from common.errors import TandemError

AGAIN_S: Final = 0.25
"""The pause between two tries."""
SILENT_S: Final = 3.5
"""Beats come once a second."""


class Listener(Protocol):
    """Who keeps up with a publisher."""

    async def look(self) -> Mapping[str, Cursor]:
        """Lists and takes in what there is; where the listed topics stood then. TandemError when the publisher is away."""
        ...

    def take(self, event: Event) -> None:
        """An event came."""
        ...

    def away(self, reason: str) -> None:
        """The publisher is away; told at every try until a look succeeds."""
        ...


async def keep_up(client: AsyncClient, target: str, topics: Sequence[str], listener: Listener) -> NoReturn:
    """Keep `listener` up with the topics of `target`, until cancelled.

    Only the topics that a look told of are listed anew when some of their events are lost; of others each event is whole.
    """
    while True:
        try:
            await _listen(client, target, topics, await listener.look(), listener)
        except TandemError as error:
            listener.away(error.message)
        except Exception as bug:
            logging.getLogger("tandem.client").exception("keeping up with %s failed", target)
            listener.away(f"{type(bug).__name__} while it was followed")
        await asyncio.sleep(AGAIN_S)


async def _listen(
    client: AsyncClient,
    target: str,
    topics: Sequence[str],
    since: Mapping[str, Cursor],
    listener: Listener,
) -> None:
    """Passes events on until some are lost or nothing is heard any more."""
    loop = asyncio.get_running_loop()
    with suppress(TimeoutError):
        async with asyncio.timeout(SILENT_S) as patience:

            def heard() -> None:
                patience.reschedule(loop.time() + SILENT_S)

            async for notice in client.events(target, topics, dict(since), heard=heard):
                if isinstance(notice, Event):
                    listener.take(notice)
                elif notice.topic in since:
                    return
