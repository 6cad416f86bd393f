"""A spool's log as bytes: how records lie in a segment, what a torn segment still holds, and what goes when all is too much.

    segment = "TSPOOL1\\n", epoch, first_seq, crc32 of these | record*          record = length, crc32 of seq and payload, payload

A record's number is its place: the segment's first one and so on. Every life of a sender begins a segment of a new, higher epoch
and nothing is ever written behind a torn record, so (epoch, seq) rises with time and names one record for ever. Integers are
big-endian. It reads no file and knows nothing of what a payload says.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple
from zlib import crc32

import msgspec

from common.api.words import Count
from common.ids import MAX_WIRE_INT

MAX_PAYLOAD: Final = 256 * 1024
"""Bytes of one record at most; a length beyond it is damage."""

_MAGIC: Final = b"TSPOOL1\n"
_HEADER: Final = struct.Struct(">8sQQI")
_RECORD: Final = struct.Struct(">II")
_SEQ: Final = struct.Struct(">Q")
_NAME: Final = re.compile(r"([0-9a-f]{16})-([0-9a-f]{16})\.seg\Z")

HEADER_BYTES: Final = _HEADER.size
RECORD_BYTES: Final = _RECORD.size
"""What a record takes beside its payload."""


class Place(NamedTuple):
    """One record's number; they compare in the order in which the records were written."""

    epoch: int
    seq: int


class Standing(msgspec.Struct, frozen=True):
    """What the file beside the segments says: the last record acknowledged, the last of the batch that was sent behind it (it
    may have arrived; where nobody knows, it is sent again as it was), and how many records were lost and not told yet.
    """

    epoch: Count = 0
    seq: Count = 0
    sent_epoch: Count = 0
    sent_seq: Count = 0
    lost: Count = 0

    @property
    def place(self) -> Place:
        """The last record acknowledged."""
        return Place(self.epoch, self.seq)

    @property
    def sent(self) -> Place:
        """The last record of the batch that was sent and of which nothing was heard; not above `place` where there is none."""
        return Place(self.sent_epoch, self.sent_seq)


class Found(NamedTuple):
    """What a chunk of a segment held: whole records, the bytes they took, and whether what follows is damaged."""

    payloads: list[bytes]
    taken: int
    damaged: bool


@dataclass(frozen=True, slots=True)
class Held:
    """A segment as overflow is judged: its bytes."""

    name: str
    size: int


def segment_name(first: Place) -> str:
    """The file of the segment that begins with `first`; names sort as their records do."""
    return f"{first.epoch:016x}-{first.seq:016x}.seg"


def begins_with(name: str) -> Place | None:
    """The first record of the segment in that file, None where no segment of ours has such a name."""
    match = _NAME.match(name)
    found = Place(int(match[1], 16), int(match[2], 16)) if match else None
    return found if found is not None and max(found) <= MAX_WIRE_INT else None


def encode_header(first: Place) -> bytes:
    """How a segment begins."""
    body = _HEADER.pack(_MAGIC, first.epoch, first.seq, 0)[:-4]
    return body + struct.pack(">I", crc32(body))


def decode_header(raw: bytes) -> Place | None:
    """The first record's number, None where the header is torn or damaged."""
    if len(raw) < HEADER_BYTES:
        return None
    magic, epoch, seq, check = _HEADER.unpack_from(raw)
    sound = magic == _MAGIC and check == crc32(raw[: HEADER_BYTES - 4])
    return Place(epoch, seq) if sound else None


def encode_record(seq: int, payload: bytes) -> bytes:
    """One record; ValueError where the payload is longer than MAX_PAYLOAD."""
    if len(payload) > MAX_PAYLOAD:
        raise ValueError(f"a record of {len(payload)} bytes; {MAX_PAYLOAD} is the most")
    return _RECORD.pack(len(payload), _check(seq, payload)) + payload


def find_records(chunk: bytes, seq: int, most: int) -> Found:
    """Up to `most` records from the beginning of `chunk`, the first of which has number `seq`.

    It stops before a record that is not whole, which is torn where no more bytes follow, and before one that is damaged.
    """
    payloads: list[bytes] = []
    at = 0
    while len(payloads) < most and len(chunk) - at >= RECORD_BYTES:
        length, check = _RECORD.unpack_from(chunk, at)
        if length > MAX_PAYLOAD:
            return Found(payloads, at, damaged=True)
        end = at + RECORD_BYTES + length
        if end > len(chunk):
            break
        payload = chunk[at + RECORD_BYTES : end]
        if check != _check(seq + len(payloads), payload):
            return Found(payloads, at, damaged=True)
        payloads.append(payload)
        at = end
    return Found(payloads, at, damaged=False)


def overflow(segments: Sequence[Held], most_bytes: int) -> list[Held]:
    """The oldest segments, which go so that the rest takes `most_bytes`; `segments` come oldest first, and the last one stays."""
    excess = sum(segment.size for segment in segments) - most_bytes
    gone: list[Held] = []
    for segment in segments[:-1]:
        if excess <= 0:
            break
        gone.append(segment)
        excess -= segment.size
    return gone


def next_epoch(known: Sequence[int], wall: float) -> int:
    """The epoch of a new life: above every known one, and above those of a spool that was deleted, unless the clock stepped."""
    return max([int(wall * 1000), *(epoch + 1 for epoch in known)])


def _check(seq: int, payload: bytes) -> int:
    return crc32(payload, crc32(_SEQ.pack(seq)))
