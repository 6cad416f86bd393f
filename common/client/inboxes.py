"""The events that an asynchronous client follows: a subscription and an inbox each, gaps filled by asking the publisher.

It finds no publisher and makes no call of its own: the client hands in how.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from functools import partial
from typing import Final

import zmq

from common.api import basic
from common.api.words import Cursor
from common.client.directory import Place
from common.client.following import Event, Fill, Following, Lost, Notice, taken
from common.errors import BadRequest, Interrupted, SnapshotRequired, TandemError, Unavailable
from common.transport.events import Subscription
from common.transport.sockets import Endpoint

INBOX: Final = 10_000
"""Events kept for a follower that is slow; what came beyond them is a gap, and filled when it has caught up."""

_Inbox = asyncio.Queue[tuple[bytes, bytes, bytes] | None]


class Inboxes:
    """One client's. `find` says where a publisher is, `again` where it is by the keys of now, `ask` has past events of it."""

    def __init__(
        self,
        context: zmq.Context[zmq.Socket[bytes]],
        find: Callable[[str], Awaitable[Place]],
        again: Callable[[str, Endpoint], Endpoint],
        ask: Callable[[str, basic.EventsSince], Awaitable[basic.Events]],
    ) -> None:
        self._context = context
        self._find = find
        self._again = again
        self._ask = ask
        self._open: dict[Subscription, _Inbox] = {}
        self._closed = False

    async def follow(
        self,
        target: str,
        topics: Sequence[str],
        since: dict[str, Cursor] | None,
        live: Callable[[], None],
        heard: Callable[[], None],
    ) -> AsyncGenerator[Event | Lost, None]:
        """As `AsyncClient.events`."""
        place = await self._find(target)
        if place.events is None:
            raise BadRequest(f"{target} publishes no events")
        if self._closed:
            raise Unavailable("the client was closed")
        following = Following(topics, since)
        inbox: _Inbox = asyncio.Queue()

        def keep(topic: bytes, head: bytes, body: bytes) -> None:
            if inbox.qsize() < INBOX:
                inbox.put_nowait((topic, head, body))

        current = partial(self._again, target, place.events)
        subscription = Subscription(self._context, place.events, [*topics, basic.BEAT.name], keep, live, current)
        self._open[subscription] = inbox
        try:
            while (frames := await inbox.get()) is not None:
                notices = taken(following, *frames)
                heard()
                while notices:
                    notice = notices.pop(0)
                    if isinstance(notice, Fill):
                        notices += await self._fill(target, following, notice)
                    else:
                        yield notice
            raise Interrupted(f"the client was closed; {target}'s events are not followed any more")
        finally:
            self._open.pop(subscription, None)
            subscription.close()

    async def _fill(self, target: str, following: Following, gap: Fill) -> list[Notice]:
        asked = basic.EventsSince(topic=gap.topic, epoch=gap.since.epoch, seq=gap.since.seq)
        try:
            return following.filled(gap.topic, await self._ask(target, asked))
        except SnapshotRequired:
            return following.not_filled(gap.topic, for_good=True)
        except TandemError:
            return following.not_filled(gap.topic, for_good=False)

    def close(self) -> None:
        """Hear nothing more; whoever follows events is told so."""
        self._closed = True
        for subscription, inbox in self._open.items():
            subscription.close()
            inbox.put_nowait(None)
