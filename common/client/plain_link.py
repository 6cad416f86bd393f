"""Calling an agent that speaks the plain dress only: one JSON object out, one in, one call at a time on a connection.

A connection whose call was not answered in time is thrown away, so that a late answer can never meet another call.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from functools import partial
from typing import Any, Final

import msgspec
import zmq

from common.api.words import AnyVerb
from common.clock import Clock
from common.errors import BadRequest, DeadlineExceeded, Interrupted, TandemError, Unavailable
from common.resilience.budget import remaining_ms
from common.transport.channel import Channel
from common.transport.sockets import Endpoint
from common.wire.codec import ErrorBody, bounded, encode_json, error_from, is_struct
from common.wire.frames import Buffer

IDLE_KEPT: Final = 4

Ended = Callable[[Buffer | TandemError], None]
"""Hears how a call ended: the reply's body, or the error."""

_objects = msgspec.json.Decoder(dict[str, Any])


def plain_call(verb: str, request: Any, budget_ms: int, token: str | None = None) -> bytes:
    """A request in plain dress."""
    fields = (
        msgspec.to_builtins(request, builtin_types=(bytes, memoryview)) if not isinstance(request, dict) else request
    )
    shown = {} if token is None else {"_token": token}
    return encode_json({**fields, "action": verb, "_deadline_ms": budget_ms, **shown})


def plain_reply(body: Buffer, verb: AnyVerb) -> Any:
    """The verb's reply, its fields where the verb is known by name only; raises the error it carries, BadRequest when it
    is not of the verb's shape.
    """
    try:
        fields = _objects.decode(body)
    except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
        raise BadRequest(f"the agent's reply is not a JSON object: {error}") from error
    bounded(fields, "reply")
    if fields.get("status") == "error":
        raise _error(fields)
    if not is_struct(verb.reply):
        return fields
    try:
        return msgspec.convert(fields, verb.reply)
    except msgspec.ValidationError as error:
        raise BadRequest(f"the reply is not of this verb's shape: {error}") from error


def _error(fields: dict[str, Any]) -> TandemError:
    """The error of a reply whose author may know nothing of Tandem: what is there of it, and no more."""
    text = str(fields.get("message") or fields.get("error") or "the agent answered with an error")
    after, details = fields.get("retry_after_ms"), fields.get("details")
    return error_from(
        ErrorBody(
            code=str(fields.get("code", "internal")),
            error=text,
            message=text,
            retryable=False,
            retry_after_ms=after if type(after) is int and after >= 0 else None,
            details=details if isinstance(details, dict) else {},
        )
    )


class PlainLine:
    """One connection with at most one call on it."""

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]], endpoint: Endpoint) -> None:
        self._ended: Ended | None = None
        self._channel = Channel(context, endpoint, self)

    def ask(self, body: bytes, ended: Ended) -> None:
        """Send a call; `ended` hears once of its reply, or of the error that ended it."""
        self._ended = ended
        self._channel.send((b"", body))

    def message(self, frames: list[Buffer]) -> None:
        """The reply came; one that nobody waits for is passed over."""
        self._end(frames[-1])

    def connected(self) -> None:
        """The connection stands."""

    def lost(self, reason: str) -> None:
        """The connection ended: what was called may or may not have been done."""
        self._end(Interrupted(f"{reason} before the call was answered"))

    def refused(self, reason: str, unsent: int) -> None:
        """Nobody is there: nothing was done."""
        self._end(Unavailable(reason))

    def _end(self, how: Buffer | TandemError) -> None:
        ended, self._ended = self._ended, None
        if ended is not None:
            ended(how)

    def close(self) -> None:
        """Disconnect; a call under way is not heard of any more."""
        self._ended = None
        self._channel.close()


def _settle(future: asyncio.Future[Buffer], how: Buffer | TandemError) -> None:
    if future.done():
        return
    if isinstance(how, TandemError):
        future.set_exception(how)
    else:
        future.set_result(how)


class PlainLink:
    """The connections to one plain agent."""

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]], endpoint: Endpoint, clock: Clock) -> None:
        self._context = context
        self._endpoint = endpoint
        self._clock = clock
        self._idle: list[PlainLine] = []
        self._busy: set[PlainLine] = set()
        self._rested = False

    def has_rested(self) -> bool:
        """Whether no call was under way since this was asked last."""
        rested, self._rested = self._rested, True
        return rested and not self._busy

    async def call(
        self,
        verb: AnyVerb,
        request: Any,
        deadline: float,
        _part: Callable[[Any], None] | None = None,
        token: str | None = None,
    ) -> Any:
        """The reply, of which there are no parts; raises the error that ended the call."""
        line = self._idle.pop() if self._idle else PlainLine(self._context, self._endpoint)
        self._busy.add(line)
        self._rested = False
        now = self._clock.monotonic()
        try:
            async with asyncio.timeout(max(0.0, deadline - now)):
                budget_ms = max(1, remaining_ms(deadline, now))
                ended: asyncio.Future[Buffer] = asyncio.get_running_loop().create_future()
                line.ask(plain_call(verb.name, request, budget_ms, token), partial(_settle, ended))
                body = await ended
        except BaseException as error:
            line.close()
            if isinstance(error, TimeoutError):
                raise DeadlineExceeded(
                    f"{verb.name} had no answer from {self._endpoint.address} in its time"
                ) from error
            raise
        finally:
            self._busy.discard(line)
        if len(self._idle) < IDLE_KEPT:
            self._idle.append(line)
        else:
            line.close()
        return plain_reply(body, verb)

    async def stream(
        self, verb: AnyVerb, request: Any, deadline: float, token: str | None = None
    ) -> AsyncGenerator[Any, None]:
        """The one reply."""
        yield await self.call(verb, request, deadline, token=token)

    def close(self) -> None:
        """Disconnect."""
        for line in (*self._idle, *self._busy):
            line.lost("the client was closed")
            line.close()
