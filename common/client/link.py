"""A client's connection to one endpoint on a loop: calls with their futures and streams, over one channel.

Each call ends exactly once: by its answer, its deadline, its withdrawal, or the loss of the connection.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence
from typing import Any, Final

import msgspec
import zmq

from common.api.words import AnyVerb
from common.client.conversation import PARTS_KEPT, Answer, Conversation, Part, too_slow
from common.clock import Clock
from common.errors import BadRequest, DeadlineExceeded, Interrupted, Overloaded, TandemError, Unavailable
from common.resilience.budget import remaining_ms
from common.transport.channel import OUTBOX, Channel
from common.transport.sockets import Endpoint
from common.wire import bundle
from common.wire.frames import Buffer

SWEEP_S: Final = 0.1
"""Least time between two looks for calls whose deadline has passed; they are made only when one may have."""

ROUNDED_S: Final = 0.001
"""A loop's timers may be early by this."""
_NEVER: Final = float("inf")


class Waiter(msgspec.Struct, eq=False):
    """Who waits for one call: a future for its end, and who takes its parts where they are wanted."""

    verb: AnyVerb
    ended: asyncio.Future[Any]
    part: Callable[[Any], None] | None

    def fail(self, error: TandemError) -> None:
        """End it with an error, unless it has ended."""
        if not self.ended.done():
            self.ended.set_exception(error)


class Link:
    """The calls under way to one endpoint."""

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]], endpoint: Endpoint, clock: Clock) -> None:
        self._loop = asyncio.get_running_loop()
        self._clock = clock
        self._address = endpoint.address
        self._talk: Conversation[Waiter] = Conversation()
        self._turn: dict[int, Sequence[Buffer]] = {}
        self._sweeping: asyncio.TimerHandle | None = None
        self._sweep_at = _NEVER
        self._rested = False
        self._channel = Channel(context, endpoint, self)

    def has_rested(self) -> bool:
        """Whether no call was under way since this was asked last."""
        rested, self._rested = self._rested, True
        return rested and not len(self._talk)

    def begin(
        self,
        verb: AnyVerb,
        request: Any,
        now: float,
        deadline: float,
        part: Callable[[Any], None] | None = None,
        token: str | None = None,
    ) -> tuple[int, asyncio.Future[Any]]:
        """Send a call: its id, and the future of its reply. Whoever stops waiting for it calls `withdraw`."""
        ended: asyncio.Future[Any] = self._loop.create_future()
        budget_ms = remaining_ms(deadline, now) or 1
        call_id, frames = self._talk.call(verb, request, Waiter(verb, ended, part), budget_ms, deadline, token)
        if self._channel.backlog + len(self._turn) >= OUTBOX:
            self._talk.withdraw(call_id)
            raise Overloaded(f"{OUTBOX} messages wait for {self._address}", retry_after_ms=100)
        self._rested = False
        if deadline < self._sweep_at:
            self._sweep_by(deadline, now)
        if len(self._talk) == 1 and self._channel.is_connected:
            self._channel.send(frames)  # a lone call has nothing to travel with
            return call_id, ended
        self._turn[call_id] = frames
        if len(self._turn) == 1:
            self._loop.call_soon(self._send_turn)
        return call_id, ended

    def _send_turn(self) -> None:
        """Send what this turn of the loop called, small calls bundled; what nobody wants any more by the time that the
        connection stands never leaves.
        """
        if not self._channel.is_connected:
            return
        turn, self._turn = self._turn, {}
        small: list[Buffer] = []
        for frames in turn.values():
            if len(turn) > 1 and bundle.fits(frames):
                small += frames
                if len(small) == 2 * bundle.MAX_MESSAGES:
                    self._channel.send(bundle.calls(small))
                    small = []
            else:
                self._channel.send(frames)
        if small:
            self._channel.send(bundle.calls(small))

    async def call(
        self,
        verb: AnyVerb,
        request: Any,
        deadline: float,
        part: Callable[[Any], None] | None = None,
        token: str | None = None,
    ) -> Any:
        """The reply, after `part` was called with each part of it; raises the error that ended the call."""
        call_id, ended = self.begin(verb, request, self._clock.monotonic(), deadline, part, token)
        try:
            return await ended
        except BaseException:
            self.withdraw(call_id)
            raise

    async def stream(
        self, verb: AnyVerb, request: Any, deadline: float, token: str | None = None
    ) -> AsyncGenerator[Any, None]:
        """The parts, then the reply as the last item; raises the error that ended the call."""
        parts: asyncio.Queue[Any] = asyncio.Queue()

        def keep(part: Any) -> None:
            if parts.qsize() >= PARTS_KEPT:
                self.withdraw(call_id)
                raise too_slow(verb.name)
            parts.put_nowait(part)

        call_id, ended = self.begin(verb, request, self._clock.monotonic(), deadline, keep, token)
        ended.add_done_callback(lambda _: parts.put_nowait(_END))
        try:
            while (item := await parts.get()) is not _END:
                yield item
            yield await ended
        finally:
            self.withdraw(call_id)
            if ended.done() and not ended.cancelled():
                ended.exception()

    def withdraw(self, call_id: int) -> None:
        """Nobody waits for this call any more: say so, unless it has ended."""
        frames = self._talk.withdraw(call_id)
        if frames is None or self._turn.pop(call_id, None) is not None:
            return
        if self._channel.is_connected:
            self._channel.send(frames)

    def _sweep(self) -> None:
        """End the calls whose deadline has passed, and look again when that of another one has."""
        now = self._clock.monotonic()
        for call_id, waiter in self._talk.overdue(now):
            self._turn.pop(call_id, None)
            waiter.fail(DeadlineExceeded(f"{waiter.verb.name} had no answer from {self._address} in its time"))
        self._sweep_at, first = _NEVER, self._talk.first_deadline()
        if first is not None:
            self._sweep_by(max(first, now + SWEEP_S), now)

    def _sweep_by(self, at: float, now: float) -> None:
        if self._sweeping is not None:
            self._sweeping.cancel()
        self._sweep_at = at
        self._sweeping = self._loop.call_later(max(0.0, at - now) + ROUNDED_S, self._sweep)

    def message(self, frames: list[Buffer]) -> None:
        """A message came."""
        try:
            heard = self._talk.accept(frames)
        except BadRequest:
            return
        for item in heard:
            self._take(item)

    def _take(self, heard: Answer[Waiter] | Part[Waiter]) -> None:
        waiter = heard.waiter
        if type(heard) is Part:
            if waiter.part is not None and not waiter.ended.done():
                self._hand_over(waiter, waiter.part, heard.value)
        elif heard.error is not None:  # type: ignore[union-attr]
            waiter.fail(heard.error)  # type: ignore[union-attr]
        elif not waiter.ended.done():
            waiter.ended.set_result(heard.value)

    def _hand_over(self, waiter: Waiter, part: Callable[[Any], None], value: Any) -> None:
        """Who cannot take a part ends the call with that, and no other call of the same message is harmed."""
        try:
            part(value)
        except Exception as error:
            waiter.ended.set_exception(error)

    def connected(self) -> None:
        """The connection stands; what waited for it leaves now."""
        self._send_turn()

    def lost(self, reason: str) -> None:
        """The connection ended with calls under way: they may or may not have been done."""
        self._turn.clear()
        for waiter in self._talk.take_all():
            waiter.fail(Interrupted(f"{reason} before {waiter.verb.name} was answered"))

    def refused(self, reason: str, unsent: int) -> None:
        """Nobody is there: nothing was done."""
        self._turn.clear()
        for waiter in self._talk.take_all():
            waiter.fail(Unavailable(reason))

    def close(self) -> None:
        """Disconnect; calls under way end as interrupted."""
        self.lost("the client was closed")
        if self._sweeping is not None:
            self._sweeping.cancel()
        self._channel.close()


_END = object()
