"""Bundles: several small calls, or replies, of one turn in one message, so that each does not cost a wake-up of its own.

A bundle's body is a msgpack array of header and body, header and body, each as it would have travelled alone. Replies are
bundled only to who sent a bundle; messages with attachments never are.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Annotated, Final

import msgspec
from msgspec import Meta

from common.errors import BadRequest
from common.wire import header
from common.wire.frames import Buffer

MAX_MESSAGES: Final = 32
"""Messages in a bundle; few enough that nobody else waits long behind one."""

MAX_BODY_BYTES: Final = 4_096
"""A larger body travels alone."""

_CALLS: Final = header.encode(header.CallHeader(header.PROTOCOL, header.CallKind.BUNDLE, 0))
_REPLIES: Final = header.encode(header.ReplyHeader(header.PROTOCOL, header.ReplyKind.BUNDLE, 0))

_encode = msgspec.msgpack.Encoder().encode
_decoder = msgspec.msgpack.Decoder(Annotated[list[bytes], Meta(min_length=2, max_length=2 * MAX_MESSAGES)])


def fits(frames: Sequence[Buffer]) -> bool:
    """Whether a message may travel in a bundle."""
    return len(frames) == 2 and len(frames[1]) <= MAX_BODY_BYTES


def calls(pairs: Sequence[Buffer]) -> tuple[bytes, bytes]:
    """Headers and bodies of calls, by turns, as one message."""
    return _CALLS, _encode(pairs)


def replies(pairs: Sequence[Buffer]) -> tuple[bytes, bytes]:
    """Headers and bodies of replies, by turns, as one message."""
    return _REPLIES, _encode(pairs)


def unbundled(body: Buffer) -> Iterator[tuple[bytes, bytes]]:
    """The header and body of each message in a bundle; BadRequest when it is not one."""
    try:
        frames = _decoder.decode(body)
    except (msgspec.MsgspecError, UnicodeError) as error:
        raise BadRequest(f"not a bundle: {error}") from error
    if len(frames) % 2:
        raise BadRequest(f"not a bundle: {len(frames)} items, and the last header has no body")
    return zip(frames[::2], frames[1::2], strict=True)
