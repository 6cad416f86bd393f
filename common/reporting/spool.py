"""One spool on disk: records are appended, read in order, and go once they are acknowledged; sends nothing, decides no pace.

    <folder>/lock                 held by the process whose life writes here; it goes with the process, however that ends
    <folder>/acknowledged.json    the last record acknowledged, and how many were lost and not told yet
    <folder>/<epoch>-<seq>.seg    the records, oldest first

An append is one write(2): it survives kill -9 of the process at once. `sync` makes what was written survive a power cut; whoever
delivers calls it while records wait, for those that were delivered are durable elsewhere. Beyond `most_bytes` the oldest
segment goes, and what it held undelivered is counted as lost. Safe to use from any thread.
"""

from __future__ import annotations

import fcntl
import os
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple

import msgspec

from common.errors import Conflict
from common.ids import MAX_WIRE_INT
from common.reporting import spool_log
from common.reporting.spool_log import HEADER_BYTES, MAX_PAYLOAD, RECORD_BYTES, Held, Place, Standing

MOST_BYTES: Final = 16 * 1024 * 1024
SEGMENT_BYTES: Final = 1024 * 1024

_LOCK: Final = "lock"
_ACKNOWLEDGED: Final = "acknowledged.json"


class Batch(NamedTuple):
    """Records that follow each other, and the number of the first."""

    first: Place
    payloads: list[bytes]

    @property
    def last(self) -> Place:
        """The number of the last one."""
        return Place(self.first.epoch, self.first.seq + len(self.payloads) - 1)


@dataclass(slots=True, eq=False)
class _Segment:
    """A segment, and how far it is read: `offset` is where record `next_seq` begins."""

    path: Path
    first: Place
    size: int
    offset: int
    next_seq: int
    synced: int = 0


class Spool:
    """The spool in `folder`, claimed by this process while it is open."""

    def __init__(self, folder: Path, most_bytes: int = MOST_BYTES, segment_bytes: int = SEGMENT_BYTES) -> None:
        self.folder = folder
        self.damaged_bytes = 0
        self._most_bytes = most_bytes
        self._segment_bytes = segment_bytes
        self._mutex = threading.Lock()
        self._lock = -1
        self._fd = -1
        self._segments: list[_Segment] = []
        self._standing = Standing()
        self._epoch = 0
        self._seq = 0

    def open(self, wall: float) -> None:
        """Claims the folder and finds what an earlier life left; Conflict where another life has it, OSError as it comes."""
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        fd = os.open(self.folder / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._find(wall)
        except BlockingIOError:
            os.close(fd)
            raise Conflict(f"the spool {self.folder} is another process's") from None
        except BaseException:
            os.close(fd)
            raise
        self._lock = fd

    def _find(self, wall: float) -> None:
        with suppress(FileNotFoundError, msgspec.MsgspecError):
            self._standing = msgspec.json.decode((self.folder / _ACKNOWLEDGED).read_bytes(), type=Standing)
        places = [(first, path) for path in self.folder.iterdir() if (first := spool_log.begins_with(path.name))]
        self._segments = [
            _Segment(path, first, path.stat().st_size, HEADER_BYTES, first.seq) for first, path in sorted(places)
        ]
        self._epoch = spool_log.next_epoch([self._standing.epoch, *(first.epoch for first, _ in places)], wall)
        self._seq = 0

    @property
    def acknowledged(self) -> Place:
        """The last record acknowledged."""
        return self._standing.place

    @property
    def lost(self) -> int:
        """Records that went undelivered for want of room, and were not told of yet."""
        return self._standing.lost

    @property
    def kept_bytes(self) -> int:
        """What the segments take on disk."""
        with self._mutex:
            return sum(segment.size for segment in self._segments)

    def append(self, payload: bytes) -> Place:
        """Writes one record through to the file; its number. ValueError where it is too long, OSError where it was not."""
        with self._mutex:
            seq = self._seq + 1
            record = spool_log.encode_record(seq, payload)
            segment = self._writable(len(record))
            self._write(segment, record)
            self._seq = seq
            return Place(self._epoch, seq)

    def _writable(self, wanted: int) -> _Segment:
        if self._fd >= 0 and self._segments[-1].size + wanted <= self._segment_bytes:
            return self._segments[-1]
        self._end_segment()
        held = [Held(str(segment.path), segment.size) for segment in self._segments]
        gone = spool_log.overflow(
            [*held, Held("", HEADER_BYTES + wanted)], self._most_bytes - self._segment_bytes + wanted
        )
        for _ in gone:
            self._lose(self._segments[0])
        first = Place(self._epoch, self._seq + 1)
        segment = _Segment(self.folder / spool_log.segment_name(first), first, 0, HEADER_BYTES, first.seq)
        self._fd = os.open(segment.path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND | os.O_CLOEXEC, 0o600)
        self._segments.append(segment)
        try:
            self._write(segment, spool_log.encode_header(first))
        except OSError:
            self._end_segment()
            self._remove(segment)
            raise
        return segment

    def _write(self, segment: _Segment, chunk: bytes) -> None:
        """All of `chunk` or nothing: what was written of it is taken back, and where that fails too the segment ends here."""
        try:
            written = os.write(self._fd, chunk)
            if written < len(chunk):
                written += os.write(self._fd, memoryview(chunk)[written:])
            if written < len(chunk):
                raise OSError(f"{segment.path} takes no more")
        except OSError:
            try:
                os.ftruncate(self._fd, segment.size)
            except OSError:
                self._end_segment()
            raise
        segment.size += len(chunk)

    def _end_segment(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _lose(self, segment: _Segment) -> None:
        """The segment goes to make room, and what it held undelivered is counted."""
        lost, done = 0, self._done(segment)
        while (batch := self._next_of(segment, 10_000, self._segment_bytes)) is not None:
            lost += max(0, batch.last.seq - max(done, batch.first.seq - 1))
            _pass(segment, batch)
        self._remove(segment)
        if lost:
            self._stand(msgspec.structs.replace(self._standing, lost=self._standing.lost + lost))

    def _done(self, segment: _Segment) -> int:
        """The last number of this segment's epoch that was acknowledged."""
        place = self._standing.place
        if place.epoch == segment.first.epoch:
            return place.seq
        return MAX_WIRE_INT if place.epoch > segment.first.epoch else 0

    def read(self, most: int, most_bytes: int) -> Batch | None:
        """The oldest records that are not acknowledged, of one epoch and without a gap; None where there are none.

        A batch that was sent before, and of which nothing was heard, comes again with the same bounds.
        """
        with self._mutex:
            while self._segments:
                segment = self._segments[0]
                done = self._done(segment)
                batch = self._next_of(segment, most, most_bytes)
                if batch is None:
                    if segment is self._segments[-1] and self._fd >= 0:
                        return None
                    self._remove(segment)
                elif batch.last.seq <= done:
                    _pass(segment, batch)
                else:
                    return self._bounded(batch, done)
            return None

    def _bounded(self, batch: Batch, done: int) -> Batch:
        """What of `batch` is not acknowledged, up to the end of the batch that was sent before."""
        skipped = max(0, done + 1 - batch.first.seq)
        first = Place(batch.first.epoch, batch.first.seq + skipped)
        sent = self._standing.sent
        end = sent.seq - batch.first.seq + 1 if sent.epoch == first.epoch and sent >= first else None
        return Batch(first, batch.payloads[skipped:end])

    def sending(self, last: Place) -> None:
        """A batch that ends with `last` is about to be sent; where that cannot be written down, this life alone knows."""
        with self._mutex:
            self._stand(msgspec.structs.replace(self._standing, sent_epoch=last.epoch, sent_seq=last.seq))

    def withdraw(self) -> None:
        """The batch that was sent last was refused whole, so the next may have other bounds."""
        with self._mutex:
            self._stand(msgspec.structs.replace(self._standing, sent_epoch=0, sent_seq=0))

    def _next_of(self, segment: _Segment, most: int, most_bytes: int) -> Batch | None:
        """The records from where the segment is read to; what is torn or damaged ends it."""
        if segment.offset == HEADER_BYTES and not self._sound(segment):
            segment.offset = segment.size
        chunk = _read(segment.path, segment.offset, min(segment.size - segment.offset, most_bytes))
        found = spool_log.find_records(chunk, segment.next_seq, most)
        if not found.payloads and not found.damaged and segment.size - segment.offset > len(chunk):
            chunk = _read(segment.path, segment.offset, MAX_PAYLOAD + RECORD_BYTES)
            found = spool_log.find_records(chunk, segment.next_seq, 1)
        if not found.payloads:
            self.damaged_bytes += segment.size - segment.offset
            segment.offset = segment.size
            return None
        return Batch(Place(segment.first.epoch, segment.next_seq), found.payloads)

    def _sound(self, segment: _Segment) -> bool:
        return spool_log.decode_header(_read(segment.path, 0, HEADER_BYTES)) == segment.first

    def acknowledge(self, place: Place) -> None:
        """Everything up to `place` is the receiver's. Where that cannot be written down, a later life delivers it again."""
        with self._mutex:
            if place > self._standing.place:
                self._stand(msgspec.structs.replace(self._standing, epoch=place.epoch, seq=place.seq))

    def lose(self, count: int) -> None:
        """`count` more records are lost; a negative count: so many were told of."""
        with self._mutex:
            self._stand(msgspec.structs.replace(self._standing, lost=max(0, self._standing.lost + count)))

    def _stand(self, standing: Standing) -> None:
        self._standing = standing
        beside = self.folder / f"{_ACKNOWLEDGED}.new"
        with suppress(OSError):
            beside.write_bytes(msgspec.json.encode(standing))
            os.replace(beside, self.folder / _ACKNOWLEDGED)

    def sync(self) -> None:
        """What was appended so far survives a power cut from now on; OSError where it may not."""
        with self._mutex:
            waiting = [(segment, segment.size) for segment in self._segments if segment.synced < segment.size]
        for segment, size in waiting:
            with suppress(FileNotFoundError):
                _flush(segment.path, os.fdatasync)
            segment.synced = size
        if waiting:
            _flush(self.folder, os.fsync)

    def close(self) -> None:
        """Gives the folder back, with what is not acknowledged in it; `open` may follow."""
        with self._mutex:
            self._end_segment()
            for segment in list(self._segments):
                if segment.offset == segment.size:
                    self._remove(segment)
            if self._lock >= 0:
                os.close(self._lock)
                self._lock = -1

    def abandon(self) -> None:
        """In a forked child: the files are the parent's. Its lock stays, for a description that is shared is closed alone."""
        for fd in (self._fd, self._lock):
            if fd >= 0:
                os.close(fd)
        self._fd = self._lock = -1
        self._mutex = threading.Lock()
        self._segments = []

    def _remove(self, segment: _Segment) -> None:
        self._segments.remove(segment)
        segment.path.unlink(missing_ok=True)


def _pass(segment: _Segment, batch: Batch) -> None:
    segment.offset += sum(len(payload) + RECORD_BYTES for payload in batch.payloads)
    segment.next_seq += len(batch.payloads)


def _read(path: Path, offset: int, most: int) -> bytes:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.pread(fd, most, offset)
    finally:
        os.close(fd)


def _flush(path: Path, how: Callable[[int], None]) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        how(fd)
    finally:
        os.close(fd)
