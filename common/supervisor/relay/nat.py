"""The relay's table: whose call is under way to a service of another host, and what each message becomes on its way.

Every call gets a number of this link's own. It goes out before the call as a four-byte frame and an empty one, which the far
port echoes (docs/protocol.md, "Framing"), and takes the place of the call's id in a native header, so that no two callers meet
under one id on the connection that they share. Everything behind the header passes as it came; of a plain body the envelope
fields alone are read. Native bundles are taken apart and answered one by one, since the far port takes none in an envelope.

Every call ends exactly once: by the far side's answer, its deadline, the loss of the link, or a refusal here. It never sends,
waits or reads a clock: messages in, messages out.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

import msgspec

from common.errors import BadRequest, DeadlineExceeded, Internal, Overloaded, TandemError
from common.resilience.bulkhead import Bulkhead, BulkheadSettings
from common.wire import bundle, codec, header, plain
from common.wire.frames import NATIVE, Buffer, Malformed, Native, Plain, framed
from common.wire.header import PROTOCOL, CallHeader, CallKind, Codec, ReplyHeader, ReplyKind

ROOM: Final = BulkheadSettings(total=16_384, per_identity=4_096, guaranteed=16, reserved=4_096)
"""Calls under way to one service, shared by this host's connections; beyond it a call is `overloaded`."""

GRACE_S: Final = 0.25
"""The far side ends a call at its deadline by itself; its word on that gets this long to arrive."""

UNPROMISED_S: Final = 900.0
"""A call without a time budget whose far side says nothing for this long is given up."""

LONGEST_S: Final = 86_400.0
"""A longer time budget counts as this."""

_NUMBERS: Final = 2**32
_NUMBER_BYTES: Final = 4
_EMPTY: Final = b""
_NATIVE: Final = bytes([NATIVE])


class Forward(NamedTuple):
    """Send this to the far service: a number, an empty frame, the message. Its answer is waited for `patience_s` seconds."""

    frames: Sequence[Buffer]
    patience_s: float = 0.0


class Deliver(NamedTuple):
    """Send this to a caller; `part_of` is the call's number where more is to come, so that its caller's absence can be told."""

    route: bytes
    frames: Sequence[Buffer]
    part_of: int | None = None


Step = Forward | Deliver


class Pending(msgspec.Struct, frozen=True, gc=False):
    """One call under way. `call_id` is the caller's own: a native id, or the JSON of `_id`."""

    route: bytes
    envelope: tuple[Buffer, ...]
    call_id: int | bytes
    codec: Codec
    deadline: float
    patience_s: float
    promised: bool

    def refusal(self, error: TandemError) -> Deliver:
        """An error in the caller's own dress."""
        if isinstance(self.call_id, bytes):
            return _plain_refusal(self.route, self.envelope, self.call_id, error)
        head = header.encode(ReplyHeader(PROTOCOL, ReplyKind.ERROR, self.call_id, self.codec))
        return Deliver(self.route, (*self.envelope, head, codec.encode(self.codec, codec.error_body(error))))


def _plain_refusal(route: bytes, envelope: tuple[Buffer, ...], call_id: Buffer, error: TandemError) -> Deliver:
    return Deliver(route, (*envelope, plain.failure(error, call_id)))


class Nat:
    """The calls under way to one far service, called `far` in what its callers are told. Times are monotonic seconds."""

    def __init__(self, far: str, room: BulkheadSettings = ROOM) -> None:
        self._far = far
        self._room = Bulkhead(room)
        self._pending: dict[int, Pending] = {}
        self._by_call: dict[tuple[bytes, int], int] = {}
        self._last = 0
        self.strays = 0

    def __len__(self) -> int:
        return len(self._pending)

    def called(
        self, route: bytes, frames: Sequence[Buffer], now: float, barred: TandemError | None = None
    ) -> list[Step]:
        """A caller's message (frames behind its routing id); `barred` is why nothing can be sent to the far side, if so."""
        message = framed(frames) if frames else Malformed((), BadRequest("a message without frames"))
        if isinstance(message, Plain):
            return [self._plain(route, message, now, barred)]
        if isinstance(message, Malformed):
            return [_plain_refusal(route, message.envelope, _EMPTY, message.error)]
        try:
            return list(self._native(route, message, now, barred))
        except BadRequest as error:
            return [_plain_refusal(route, message.envelope, _EMPTY, error)]

    def _plain(self, route: bytes, message: Plain, now: float, barred: TandemError | None) -> Step:
        budget_ms, call_id = 0, b""
        if not plain.asks_health(message.body):
            try:
                call = plain.decode_call(message.body)
            except BadRequest as error:
                return _plain_refusal(route, message.envelope, plain.id_of(message.body), error)
            budget_ms, call_id = call.deadline_ms, bytes(call.id)
        pending = _pending(route, message.envelope, call_id, Codec.JSON, budget_ms, now)
        number = self._open(pending, barred)
        if isinstance(number, Deliver):
            return number
        return Forward((_frame(number), _EMPTY, message.body), pending.patience_s)

    def _native(self, route: bytes, message: Native, now: float, barred: TandemError | None) -> Iterator[Step]:
        head = header.decode_call(message.header)
        if head.kind is not CallKind.BUNDLE:
            return self._calls(route, message.envelope, [(head, (message.body, *message.attachments))], now, barred)
        if message.envelope:
            raise BadRequest("a bundle travels without an envelope; send its calls one by one")
        calls = [(header.decode_call(inner), (body,)) for inner, body in bundle.unbundled(message.body)]
        return self._calls(route, (), calls, now, barred)

    def _calls(
        self,
        route: bytes,
        envelope: tuple[Buffer, ...],
        calls: Sequence[tuple[CallHeader, tuple[Buffer, ...]]],
        now: float,
        barred: TandemError | None,
    ) -> Iterator[Step]:
        for head, rest in calls:
            if head.kind is CallKind.WITHDRAW:
                yield from self._withdraw(route, head.id)
            else:
                yield self._call(route, envelope, head, rest, now, barred)

    def _call(
        self,
        route: bytes,
        envelope: tuple[Buffer, ...],
        head: CallHeader,
        rest: tuple[Buffer, ...],
        now: float,
        barred: TandemError | None,
    ) -> Step:
        pending = _pending(route, envelope, head.id, head.codec, head.budget_ms, now)
        number = self._open(pending, barred)
        if isinstance(number, Deliver):
            return number
        self._by_call[route, head.id] = number
        head = msgspec.structs.replace(head, id=number, kind=CallKind.CALL)
        return Forward((_frame(number), _EMPTY, header.encode(head), *rest), pending.patience_s)

    def _open(self, pending: Pending, barred: TandemError | None) -> int | Deliver:
        """The call's number, or the refusal it gets."""
        if barred is not None:
            return pending.refusal(barred)
        if not self._room.enter(_holder(pending.route)):
            full = f"{len(self._pending)} calls of this host are under way to {self._far}"
            return pending.refusal(Overloaded(full, retry_after_ms=100))
        number = (self._last + 1) % _NUMBERS
        while number in self._pending:
            number = (number + 1) % _NUMBERS
        self._last = number
        self._pending[number] = pending
        return number

    def _withdraw(self, route: bytes, call_id: int) -> Iterator[Step]:
        """The call stays open: its last word, that it was withdrawn or that it was done, is the far side's."""
        number = self._by_call.get((route, call_id))
        if number is not None:
            yield _withdrawal(number)

    def replied(self, frames: Sequence[Buffer], now: float) -> Deliver | None:
        """A message of the far service, as its caller gets it; None (and counted) when nobody waits for it any more."""
        number = _number(frames)
        pending = self._pending.get(number) if number is not None else None
        if number is None or pending is None:
            self.strays += 1
            return None
        first = frames[2]
        if isinstance(pending.call_id, bytes):
            self._close(number)
            return Deliver(pending.route, (*pending.envelope, *frames[2:]))
        try:
            head = header.decode_reply(first)
        except BadRequest as error:
            return self._unreadable(number, error.message)
        if bytes(first[:1]) != _NATIVE or head.kind is ReplyKind.BUNDLE:
            return self._unreadable(number, "it is no native reply to one call")
        own = header.encode(msgspec.structs.replace(head, id=pending.call_id))
        answer = (*pending.envelope, own, *frames[3:])
        if head.kind is ReplyKind.PART:
            self._pending[number] = _heard(pending, now)
            return Deliver(pending.route, answer, number)
        self._close(number)
        return Deliver(pending.route, answer)

    def _unreadable(self, number: int, reason: str) -> Deliver:
        return self._close(number).refusal(Internal(f"the answer of {self._far} could not be read: {reason}"))

    def caller_gone(self, number: int) -> list[Step]:
        """A part could not be delivered: nobody waits for the rest, and the far side is told so."""
        if number not in self._pending:
            return []
        self._close(number)
        return [_withdrawal(number)]

    def failed(self, number_frame: Buffer, error: TandemError) -> list[Step]:
        """A Forward came to nothing: its caller gets `error`, if it still waits."""
        number = int.from_bytes(number_frame, "big")
        return [self._close(number).refusal(error)] if number in self._pending else []

    def overdue(self, now: float) -> list[Step]:
        """End the calls whose time has passed, and withdraw those that had no end of their own; called ten times a second."""
        if not self._pending:
            return []
        late = [(number, pending) for number, pending in self._pending.items() if pending.deadline <= now]
        steps: list[Step] = []
        for number, pending in late:
            self._close(number)
            silent = f"{self._far} did not answer within {pending.patience_s:.3f} s; it may still do what was asked"
            steps.append(pending.refusal(DeadlineExceeded(silent)))
            if not isinstance(pending.call_id, bytes):
                steps.append(_withdrawal(number))
        return steps

    def end_all(self, error: TandemError) -> list[Step]:
        """The link is gone: everyone gets `error`."""
        return [self._close(number).refusal(error) for number in list(self._pending)]

    def _close(self, number: int) -> Pending:
        pending = self._pending.pop(number)
        self._room.leave(_holder(pending.route))
        if not isinstance(pending.call_id, bytes) and self._by_call.get((pending.route, pending.call_id)) == number:
            del self._by_call[pending.route, pending.call_id]
        return pending


def _pending(
    route: bytes, envelope: tuple[Buffer, ...], call_id: int | bytes, codec_: Codec, budget_ms: int, now: float
) -> Pending:
    patience_s = min(budget_ms / 1000, LONGEST_S) if budget_ms else UNPROMISED_S
    return Pending(route, envelope, call_id, codec_, now + patience_s + GRACE_S, patience_s, bool(budget_ms))


def _heard(pending: Pending, now: float) -> Pending:
    """A stream without a time budget lives as long as its far side says something."""
    return pending if pending.promised else msgspec.structs.replace(pending, deadline=now + UNPROMISED_S)


def _withdrawal(number: int) -> Forward:
    return Forward((_frame(number), _EMPTY, header.encode(CallHeader(PROTOCOL, CallKind.WITHDRAW, number)), _EMPTY))


def _frame(number: int) -> bytes:
    return number.to_bytes(_NUMBER_BYTES, "big")


def _number(frames: Sequence[Buffer]) -> int | None:
    """The number that a far message is about; None when it is of no form that answers ours."""
    if len(frames) < 3 or len(frames[0]) != _NUMBER_BYTES or len(frames[1]):
        return None
    return int.from_bytes(frames[0], "big")


def _holder(route: bytes) -> str:
    return route.hex()
