"""The file that a bundle travels in: for its owner's eyes alone, never over another file, and emptied once it was used."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from types import TracebackType
from typing import Self

from common.api.links import Bundle
from common.errors import BadRequest, Conflict, NotFound, Unavailable
from common.supervisor.links import bundle
from common.supervisor.links.bundle import MAX_BYTES, Spent
from tandem.output import json_document


class NewFile:
    """A file that is there for nobody else (0600) before anything secret is written; it goes again where nothing was written.

    Conflict where there is a file already.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._written = False
        try:
            self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        except FileExistsError:
            raise Conflict(f"{path} is there already", mend="remove it, or name another with --out") from None
        except OSError as error:
            raise Unavailable(f"{path} cannot be written: {error.strerror}", mend="name another with --out") from None

    def write(self, made: Bundle) -> None:
        """The bundle, on disk."""
        os.fchmod(self._fd, 0o600)
        _write_all(self._fd, _text(made))
        self._written = True

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _at: TracebackType | None
    ) -> None:
        os.close(self._fd)
        if not self._written:
            self._path.unlink(missing_ok=True)


def read(path: Path) -> Bundle:
    """The bundle in a file that its owner alone may read.

    NotFound, BadRequest for what is none or may be read by others, Conflict for one that was used; each with the mend.
    """
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)  # a pipe would have it wait for a writer
    except FileNotFoundError:
        raise NotFound(f"there is no file {path}", mend="`tandem invite` on the other host writes one") from None
    except OSError as error:
        raise Unavailable(f"{path} cannot be read: {error.strerror}", mend="check who may read it") from None
    try:
        found = os.fstat(fd)
        if not stat.S_ISREG(found.st_mode) or found.st_size > MAX_BYTES:
            raise BadRequest(f"{path} is no bundle", mend="name the file that `tandem invite` wrote")
        raw = os.read(fd, MAX_BYTES)
    finally:
        os.close(fd)
    read = bundle.read(raw, str(path))
    if found.st_mode & 0o077:
        mode = f"{stat.S_IMODE(found.st_mode):04o}"
        mend = (
            f"run `chmod 600 {path}`; where others use this machine, take a new bundle with `tandem invite {read.host}`"
        )
        raise BadRequest(f"{path} can be read by others (mode {mode})", mend=mend)
    return read


def spend(path: Path, spent: Spent) -> None:
    """Leave in the file only that it was used; OSError where it cannot be written."""
    fresh = path.with_name(f".{path.name}.{os.getpid()}")
    fd = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        try:
            _write_all(fd, _text(spent))
        finally:
            os.close(fd)
        fresh.replace(path)
    except OSError:
        fresh.unlink(missing_ok=True)
        raise


def _text(value: object) -> bytes:
    return json_document(value, indented=True).encode() + b"\n"


def _write_all(fd: int, text: bytes) -> None:
    view = memoryview(text)
    while view:
        view = view[os.write(fd, view) :]
    os.fsync(fd)
