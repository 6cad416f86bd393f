"""The startup file changed: judged before it takes the old one's place, in one step, with the old one kept beside it.

A file that somebody changed meanwhile, or that would not be read as what was meant, is not replaced.
"""

from __future__ import annotations

import difflib
import os
import tempfile
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec

from common.config.document import Document, Problem
from common.config.loader import MAX_FILE_BYTES, load, read
from common.config.schema import Startup
from common.errors import BadRequest, Conflict, Unavailable
from tandem.adopting.proposal import Proposal
from tandem.adopting.rendering import with_models

BACKUP: Final = ".before-adopt"


@dataclass(frozen=True, slots=True)
class StartupFile:
    """A startup file as it was read: its text, and what it means."""

    path: Path
    text: str
    document: Document
    startup: Startup


def opened(path: Path) -> StartupFile:
    """The startup file at `path` (through links). BadRequest tells the first of its problems; adopting mends none."""
    real = path.resolve()
    try:
        text = real.read_bytes().decode()
    except (OSError, UnicodeDecodeError):
        text = ""  # read tells it, with its place
    document, startup = read(real), load(real)
    if isinstance(document, Problem):
        raise BadRequest(f"{path}:{document.line}: {document.message}", mend=document.mend or "mend it first")
    if isinstance(startup, list):
        mend = f"`tandem check {path}` tells them all"
        raise BadRequest(f"{path} has {len(startup)} problems; the first: {startup[0]}", mend=mend)
    return StartupFile(real, text, document, startup)


def planned(file: StartupFile, added: list[Proposal]) -> str:
    """The file's text with these models. BadRequest where it would be too long, have a problem, or not mean just that."""
    text = with_models(file.text, added)
    if len(text.encode()) > MAX_FILE_BYTES:
        mend = "adopt fewer at a time, or share the work with another host"
        raise BadRequest(f"with {len(added)} models more {file.path} is larger than {MAX_FILE_BYTES} bytes", mend=mend)
    judged = _judged(file.path, text)
    if isinstance(judged, list):
        raise BadRequest(f"with the models {file.path} would have a problem: {judged[0]}", mend="mend it at its source")
    meant = msgspec.structs.replace(file.startup, models=[*file.startup.models, *(each.model for each in added)])
    if judged != meant:
        raise BadRequest(
            f"{file.path} is written so that nothing can be added safely", mend="write models: as a list of its own"
        )
    return text


def difference(file: StartupFile, text: str) -> str:
    """What would change, as a unified diff; empty for nothing."""
    before, after = file.text.splitlines(keepends=True), text.splitlines(keepends=True)
    pieces = difflib.unified_diff(before, after, str(file.path), f"{file.path} (adopted)")
    return "".join(line if line.endswith("\n") else f"{line}\n\\ No newline at end of file\n" for line in pieces)


def replaced(file: StartupFile, text: str) -> Path:
    """Puts the text in the file's place and returns where the old one is kept. Conflict where the file changed meanwhile."""
    fresh = _beside(file.path, text)
    try:
        fresh.chmod(file.path.stat().st_mode & 0o7777)
        backup = _kept(file)
        if file.path.read_bytes() != file.text.encode():
            raise Conflict(f"{file.path} was changed meanwhile", mend="look at the difference anew")
        fresh.replace(file.path)
        _on_disk(file.path.parent)
    except OSError as error:
        raise Unavailable(
            f"{file.path} cannot be replaced: {error.strerror}", mend="check who may write there"
        ) from None
    finally:
        fresh.unlink(missing_ok=True)
    return backup


def _kept(file: StartupFile) -> Path:
    """The old text in a file of its own that was not there before."""
    for number in range(1, 1000):
        backup = file.path.with_name(f"{file.path.name}{BACKUP}" + (f".{number}" if number > 1 else ""))
        with suppress(FileExistsError), backup.open("xb") as kept:
            kept.write(file.text.encode())
            os.fchmod(kept.fileno(), file.path.stat().st_mode & 0o7777)
            os.fsync(kept.fileno())
            return backup
    raise Unavailable(f"{file.path.parent} holds 999 backups already", mend="remove the old ones")


def _judged(path: Path, text: str) -> Startup | list[Problem]:
    """The text judged as if it stood in the file's place."""
    with tempfile.TemporaryDirectory(prefix="tandem-adopt-") as folder:
        fresh = Path(folder) / path.name
        fresh.write_bytes(text.encode())
        found = load(fresh)
    if isinstance(found, Startup):
        return found
    return [Problem(str(path), each.line, each.place, each.message, each.mend) for each in found]


def _beside(path: Path, text: str) -> Path:
    """The text on disk in a new file of the same folder."""
    try:
        descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        with os.fdopen(descriptor, "wb") as fresh:
            fresh.write(text.encode())
            fresh.flush()
            os.fsync(fresh.fileno())
    except OSError as error:
        raise Unavailable(
            f"{path.parent} cannot be written to: {error.strerror}", mend="check who may write there"
        ) from None
    return Path(name)


def _on_disk(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
