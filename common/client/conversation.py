"""A client's side of the wire on one channel, sans IO: calls become frames, frames become somebody's reply.

It keeps the table of calls under way and knows no socket and no clock; both faces of the client talk through it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Final, Generic, TypeVar

import msgspec

from common.api.words import AnyVerb
from common.errors import BadRequest, Cancelled, TandemError
from common.wire import bundle, codec, header
from common.wire.calls import CallTable
from common.wire.codec import BodyDecoder, is_struct
from common.wire.frames import Buffer, Native, framed
from common.wire.header import PROTOCOL, CallHeader, CallKind, Codec, ReplyHeader, ReplyKind

W = TypeVar("W")

ATTACH_FROM: Final = 16_384
"""A binary field of this many bytes or more travels as a frame of its own, uncopied."""

PARTS_KEPT: Final = 10_000
"""Parts of a stream kept for a caller that takes them slowly; beyond that the call is withdrawn."""


class Answer(msgspec.Struct, Generic[W]):
    """The end of a call: its waiter, and the reply or the error."""

    waiter: W
    value: Any
    error: TandemError | None = None


class Part(msgspec.Struct, Generic[W]):
    """A piece of a streamed reply."""

    waiter: W
    value: Any


class _Shape:
    """What a verb's replies decode to, and which fields of its request are binary."""

    __slots__ = ("blobs", "final", "part")

    def __init__(self, verb: AnyVerb) -> None:
        self.final: BodyDecoder[Any] = BodyDecoder(verb.reply)
        self.part: BodyDecoder[Any] = BodyDecoder(verb.part if verb.part is not None else verb.reply)
        fields = msgspec.structs.fields(verb.request) if is_struct(verb.request) else ()
        self.blobs = tuple(field.name for field in fields if field.type is memoryview)

    def detach(self, request: Any) -> tuple[Any, list[str] | None, list[Buffer]]:
        """The request without its large binary fields, their names, and their bytes."""
        names = [name for name in self.blobs if len(getattr(request, name)) >= ATTACH_FROM]
        if not names:
            return request, None, []
        frames: list[Buffer] = [getattr(request, name) for name in names]
        return msgspec.structs.replace(request, **{name: memoryview(b"") for name in names}), names, frames


SHAPES_KEPT: Final = 8_192
"""Verbs may be made for one call each; whoever makes more than this pays for their shapes again."""

_shapes: dict[AnyVerb, _Shape] = {}


def _shape(verb: AnyVerb) -> _Shape:
    shape = _shapes.get(verb)
    if shape is None:
        if len(_shapes) >= SHAPES_KEPT:
            _shapes.clear()
        shape = _shapes[verb] = _Shape(verb)
    return shape


def too_slow(verb: str) -> Cancelled:
    """What ends a stream whose caller does not take its parts."""
    return Cancelled(f"{verb} was withdrawn: {PARTS_KEPT} of its parts wait to be taken")


class Conversation(Generic[W]):
    """The calls under way on one channel, each with its waiter."""

    def __init__(self) -> None:
        self._calls: CallTable[tuple[W, _Shape]] = CallTable()
        self.strays = 0

    def __len__(self) -> int:
        return len(self._calls)

    def call(
        self, verb: AnyVerb, request: Any, waiter: W, budget_ms: int, deadline: float | None, token: str | None = None
    ) -> tuple[int, Sequence[Buffer]]:
        """Open a call: its id, and the frames to send."""
        shape = _shape(verb)
        request, names, attached = shape.detach(request) if shape.blobs else (request, None, [])
        codec_ = Codec.JSON if isinstance(request, dict) else Codec.MSGPACK
        body = codec.encode(codec_, request)
        call_id = self._calls.open((waiter, shape), deadline)
        head = CallHeader(PROTOCOL, CallKind.CALL, call_id, verb.name, budget_ms, codec_, token, None, names)
        return call_id, (header.encode(head), body, *attached)

    def withdraw(self, call_id: int) -> Sequence[Buffer] | None:
        """Close a call that is not wanted any more: the frames that say so, None when it had ended."""
        if self._calls.close(call_id) is None:
            return None
        return (header.encode(CallHeader(PROTOCOL, CallKind.WITHDRAW, call_id)), b"")

    def accept(self, frames: Sequence[Buffer]) -> list[Answer[W] | Part[W]]:
        """Take a message in: the answers and parts in it; a reply that nobody waits for (any more) is counted, no more.

        Raises BadRequest when it is no reply at all.
        """
        message = framed(frames)
        if type(message) is not Native:
            self.strays += 1
            return []
        head = header.decode_reply(message.header)
        if head.kind is not ReplyKind.BUNDLE:
            heard = self._heard(head, message.body)
            return [] if heard is None else [heard]
        pairs = bundle.unbundled(message.body)
        found = [self._heard(header.decode_reply(inner), body) for inner, body in pairs]
        return [heard for heard in found if heard is not None]

    def _heard(self, head: ReplyHeader, body: Buffer) -> Answer[W] | Part[W] | None:
        entry = self._calls.waiter(head.id) if head.kind is ReplyKind.PART else self._calls.close(head.id)
        if entry is None:
            self.strays += 1
            return None
        waiter, shape = entry
        return self._read(waiter, shape, head.kind, head.codec, body)

    def _read(self, waiter: W, shape: _Shape, kind: ReplyKind, codec_: Codec, body: Buffer) -> Answer[W] | Part[W]:
        try:
            if kind is ReplyKind.FINAL:
                return Answer(waiter, shape.final.decode(codec_, body))
            if kind is ReplyKind.PART:
                return Part(waiter, shape.part.decode(codec_, body))
            return Answer(waiter, None, codec.decode_error(codec_, body))
        except BadRequest as error:
            return Answer(waiter, None, BadRequest(f"the reply is not of this verb's shape: {error.message}"))

    def overdue(self, now: float) -> list[tuple[int, W]]:
        """Take out the calls whose deadline has passed."""
        return [(call_id, waiter) for call_id, (waiter, _) in self._calls.overdue(now)]

    def first_deadline(self) -> float | None:
        """When the next call's deadline passes; None where no call has one."""
        return self._calls.first_deadline()

    def take_all(self) -> Iterator[W]:
        """Take out every call: the channel is gone."""
        for _, (waiter, _) in self._calls.take_all():
            yield waiter
