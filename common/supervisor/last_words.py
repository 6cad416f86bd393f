"""What a process's last lines on standard error say of its end: of log records only those that warn, and of these the message.

A process that was killed from outside had nothing to say, and its last record about something else is no reason. The lines may be
cut. It decides nothing and reads no log.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

import msgspec

_RECORD: Final = re.compile(r'\{"at":"[^"]*","level":"([^"]*)","logger":"[^"]*","message":"((?:[^"\\]|\\.)*)')
"""A record as this house's own programs log it, from its beginning to its message or to where that is cut."""
QUIET: Final = ("debug", "info")


def telling(tail: Iterable[str]) -> tuple[str, ...]:
    """The lines that may say why a process ended, oldest first."""
    return tuple(line for line in tail if line.strip() and not _is_quiet(line))


def last_line(tail: Iterable[str]) -> str:
    """The last of them as people read it, of a record its message on one line; empty where there is none."""
    lines = telling(tail)
    found = _RECORD.match(lines[-1]) if lines else None
    if found is None:
        return lines[-1] if lines else ""
    try:
        message: str = msgspec.json.decode(f'"{found[2]}"', type=str)
    except msgspec.DecodeError:
        return lines[-1]
    return " ".join(message.split())


def _is_quiet(line: str) -> bool:
    found = _RECORD.match(line)
    return found is not None and found[1] in QUIET
