"""Telling the dresses apart: which frames of a message are envelope, native header, body and attachments.

Never decodes a body and never looks at a socket. docs/protocol.md, "Framing", is the contract this file keeps.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

from common.errors import BadRequest

Buffer = bytes | memoryview

NATIVE: Final = 0xC1
"""First byte of a native header: never the first byte of JSON, of UTF-8 text or of a msgpack value."""

_CORRELATE_BYTES: Final = 4
"""REQ_CORRELATE's frame; a native header is at least five bytes, so the two cannot be confused."""


class Native(NamedTuple):
    """A message in native dress; `envelope` is what was dropped and is echoed before the reply."""

    envelope: tuple[Buffer, ...]
    header: Buffer
    body: Buffer
    attachments: Sequence[Buffer]


class Plain(NamedTuple):
    """A message in plain dress: one frame."""

    envelope: tuple[Buffer, ...]
    body: Buffer


class Malformed(NamedTuple):
    """A message in no dress at all, with the one error it gets."""

    envelope: tuple[Buffer, ...]
    error: BadRequest


Framed = Native | Plain | Malformed


def framed(frames: Sequence[Buffer]) -> Framed:
    """Sort a message's frames (those after the routing id; at least one).

    A leading empty frame with more behind it is a delimiter; a four-byte frame and an empty one are REQ_CORRELATE.
    """
    first = frames[0]
    if len(frames) > 1 and len(first) > _CORRELATE_BYTES and first[0] == NATIVE:
        return Native((), first, frames[1], frames[2:])
    envelope, frames = _enveloped(frames)
    if not frames:
        return Malformed(envelope, BadRequest("the message ends after its envelope; put one JSON object behind it"))
    first = frames[0]
    if len(first) and first[0] == NATIVE:
        if len(frames) == 1:
            return Malformed(envelope, BadRequest("a native header came without a body frame"))
        return Native(envelope, first, frames[1], frames[2:])
    if len(frames) == 1:
        return Plain(envelope, first)
    reason = f"{len(frames)} frames in no known dress; send one JSON object in one frame, or a native header first"
    return Malformed(envelope, BadRequest(reason, frames=len(frames)))


def _enveloped(frames: Sequence[Buffer]) -> tuple[tuple[Buffer, ...], Sequence[Buffer]]:
    if len(frames) > 1:
        if not len(frames[0]):
            return (frames[0],), frames[1:]
        if len(frames[0]) == _CORRELATE_BYTES and not len(frames[1]):
            return (frames[0], frames[1]), frames[2:]
    return (), frames
