"""The native header: one frame of byte 0xC1 and a msgpack array, one shape for calls and one for replies.

Arrays grow at their end: a reader ignores what it does not know and defaults what is not there, so either side may be newer.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Annotated, Final

import msgspec
from msgspec import Meta

from common.errors import BadRequest
from common.ids import MAX_WIRE_INT
from common.wire.frames import Buffer

PROTOCOL: Final = 1

_MARK: Final = b"\xc1"
_WireInt = Annotated[int, Meta(ge=0, le=MAX_WIRE_INT)]
_Names = Annotated[list[Annotated[str, Meta(max_length=128)]], Meta(max_length=64)]


class Codec(IntEnum):
    """How a native body is encoded; the reply comes in the codec of the call."""

    MSGPACK = 0
    JSON = 1


class CallKind(IntEnum):
    """What a caller's frame means."""

    CALL = 0
    WITHDRAW = 1
    BUNDLE = 5


class ReplyKind(IntEnum):
    """What an answerer's frame means; exactly one FINAL or ERROR ends every call."""

    FINAL = 2
    PART = 3
    ERROR = 4
    BUNDLE = 5


class CallHeader(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """The header of a call; `budget_ms` 0 means no deadline, `attachments` name the fields their frames belong to."""

    protocol: _WireInt
    kind: CallKind
    id: _WireInt
    verb: Annotated[str, Meta(max_length=128)] = ""
    budget_ms: _WireInt = 0
    codec: Codec = Codec.MSGPACK
    token: Annotated[str, Meta(max_length=8192)] | None = None
    trace: Annotated[str, Meta(max_length=128)] | None = None
    attachments: _Names | None = None


class ReplyHeader(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """The header of a reply, correlated by the call's id."""

    protocol: _WireInt
    kind: ReplyKind
    id: _WireInt
    codec: Codec = Codec.MSGPACK
    attachments: _Names | None = None


_encoder = msgspec.msgpack.Encoder()
_calls = msgspec.msgpack.Decoder(CallHeader)
_replies = msgspec.msgpack.Decoder(ReplyHeader)


def encode(header: CallHeader | ReplyHeader) -> bytes:
    """The header as one frame."""
    return _MARK + _encoder.encode(header)


def decode_call(frame: Buffer) -> CallHeader:
    """Read a call's header; BadRequest says what is wrong and where."""
    try:
        header = _calls.decode(frame[1:])
    except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
        raise BadRequest(f"the native header is not readable: {error}") from error
    if header.protocol != PROTOCOL:
        raise BadRequest(f"protocol {header.protocol} is not spoken here; this is protocol {PROTOCOL}")
    return header


def decode_reply(frame: Buffer) -> ReplyHeader:
    """Read a reply's header; BadRequest says what is wrong and where."""
    try:
        return _replies.decode(frame[1:])
    except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
        raise BadRequest(f"the reply's header is not readable: {error}") from error
