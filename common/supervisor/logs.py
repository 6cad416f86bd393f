"""A process's log: a current file and older ones named by the offset at which they begin; a full disk stops nobody.

An offset counts the bytes written since the log began, across rotations: `agent.log` follows `agent.log.0000000010485760`, which
holds the bytes from 10485760 on. So a reader's place stays true whatever is rotated, and no other file has to remember it.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from common.errors import Unavailable

TRIES: Final = 10
"""A piece is read again where the log was rotated meanwhile: its files have other names and places then."""

_ROTATED = re.compile(r"\.(\d{16})\Z")


class LogWriter:
    """Appends to a log, rotating at `max_bytes` and keeping `keep` older files; what cannot be written is counted."""

    def __init__(self, path: Path, max_bytes: int, keep: int) -> None:
        self.path = path
        self.max_bytes = max_bytes
        self.keep = keep
        self.dropped_bytes = 0
        self._untold = 0
        self._fd = -1
        self._size = 0

    def write(self, chunk: bytes) -> None:
        """Writes `chunk` through to the file; on an error the rest of it is dropped, and told of once writing works again."""
        view = memoryview(chunk)
        try:
            self._tell_of_loss()
            while view:
                view = view[self._append(view) :]
        except OSError:
            self.dropped_bytes += len(view)
            self._untold += len(view)

    def rotate(self) -> None:
        """Begins a new file, unless the current one is empty; the oldest beyond `keep` go."""
        start = _base(self.path)
        self.close()
        if self.path.exists() and self.path.stat().st_size:
            os.rename(self.path, f"{self.path}.{start:016d}")
        for _, old in _rotated(self.path)[: -self.keep]:
            old.unlink(missing_ok=True)

    def close(self) -> None:
        """Closes the file; a later write opens it again."""
        if self._fd >= 0:
            os.close(self._fd)
        self._fd, self._size = -1, 0

    def _append(self, view: memoryview) -> int:
        self._open()
        if self._size >= self.max_bytes:
            self.rotate()
            self._open()
        written = os.write(self._fd, view[: self.max_bytes - self._size])
        self._size += written
        return written

    def _open(self) -> None:
        if self._fd < 0:
            self._fd = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
            self._size = os.fstat(self._fd).st_size

    def _tell_of_loss(self) -> None:
        if self._untold:
            notice = memoryview(f"\n[{self._untold} bytes of this log could not be written]\n".encode())
            while notice:
                notice = notice[self._append(notice) :]
            self._untold = 0


@dataclass(frozen=True, slots=True)
class Piece:
    """A piece of a log: its bytes, where it begins and ends; `gap` when it begins later than was asked, as that part is gone."""

    chunk: bytes
    offset: int
    next_offset: int
    gap: bool

    @property
    def text(self) -> str:
        """The bytes as text; what is not UTF-8 shows as U+FFFD."""
        return self.chunk.decode(errors="replace")


def read_log(path: Path, offset: int, limit: int) -> Piece:
    """At most `limit` bytes of the log at `path` from `offset` on; a negative offset counts from the end.

    A place before the oldest file begins there, with `gap`; a place beyond the end means that the log began anew, so does too.
    A character cut in two at the end is left for the next piece. Unavailable where it is rotated faster than it can be read.
    """
    for _ in range(TRIES):
        files = _files(path)
        with suppress(FileNotFoundError):
            piece = _piece(files, offset, limit)
            if [start for start, _ in _files(path)] == [start for start, _ in files]:
                return piece
    raise Unavailable(f"{path.name} is rotated faster than it can be read", retry_after_ms=100)


def _piece(files: list[tuple[int, Path]], offset: int, limit: int) -> Piece:
    oldest = files[0][0]
    end = files[-1][0] + _size(files[-1][1])
    wanted = max(end + offset, oldest) if offset < 0 else offset
    begin = wanted if oldest <= wanted <= end else oldest
    chunk = _whole(b"".join(_chunks(files, begin, limit)), at_end=limit)
    return Piece(chunk, begin, begin + len(chunk), gap=begin != wanted)


def tail_lines(path: Path, count: int, limit: int = 8_192) -> tuple[str, ...]:
    """The last `count` lines among the log's last `limit` bytes."""
    return tuple(read_log(path, -limit, limit).text.splitlines()[-count:])


def _chunks(files: list[tuple[int, Path]], begin: int, limit: int) -> Iterator[bytes]:
    for start, file in files:
        size = _size(file)
        if start + size > begin and limit > 0:
            with file.open("rb") as opened:
                opened.seek(max(begin - start, 0))
                chunk = opened.read(min(limit, size - opened.tell()))
            limit -= len(chunk)
            yield chunk


def _whole(chunk: bytes, *, at_end: int) -> bytes:
    """`chunk` without the beginning of a character at its end, where the limit and not the log cut it."""
    if len(chunk) < max(at_end, 4):
        return chunk
    for back in range(1, 4):
        lead = chunk[-back]
        if lead >= 0xC0:
            needs = 2 if lead < 0xE0 else 3 if lead < 0xF0 else 4
            return chunk[:-back] if needs > back else chunk
        if lead < 0x80:
            return chunk
    return chunk


def _files(path: Path) -> list[tuple[int, Path]]:
    return [*_rotated(path), (_base(path), path)]


def _rotated(path: Path) -> list[tuple[int, Path]]:
    older = (old for old in path.parent.glob(f"{path.name}.*") if _ROTATED.search(old.name))
    return sorted((int(old.name[-16:]), old) for old in older)


def _base(path: Path) -> int:
    older = _rotated(path)
    return older[-1][0] + _size(older[-1][1]) if older else 0


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0
