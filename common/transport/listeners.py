"""Whose program is at the other end of a plain port of this machine, as /proc/net/tcp tells it; decides nothing about it.

Loopback has no keys: whoever binds a port first is spoken to. What a caller can know is the user behind the port.
"""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

_TABLES: Final = (Path("/proc/net/tcp"), Path("/proc/net/tcp6"))
_LISTENS: Final = "0A"
_STANDS: Final = "01"
_ANY: Final = ("0" * 8, "0" * 32)


class _Row(NamedTuple):
    local: str
    remote: str
    state: str
    user: int


def users_at(address: str) -> frozenset[int]:
    """The users (uid) who serve `tcp://127.0.0.1:PORT`: who listens, and who holds a connection that a program of ours made.

    Empty where nobody does, and for an address that is no IPv4 one of this machine's loopback. One read of the kernel's table,
    some ms at thousands of connections; that a port changes hands right after is not seen. A connection that nobody has accepted
    yet counts as root's.
    """
    host, _, port = address.removeprefix("tcp://").replace("localhost", "127.0.0.1").rpartition(":")
    if not host.startswith("127."):
        return frozenset()
    number = f"{int(port):04X}"
    names = {f"{each}:{number}" for each in (*_spellings(host), *_ANY)}
    rows = list(_rows(f":{number} "))
    ours = {(row.local, row.remote) for row in rows if row.state == _STANDS and row.user == os.geteuid()}
    return frozenset(
        row.user
        for row in rows
        if row.local in names and (row.state == _LISTENS or (row.state == _STANDS and (row.remote, row.local) in ours))
    )


def _spellings(host: str) -> tuple[str, str]:
    """An IPv4 address as the tables for TCP and TCP6 have it: words of 32 bits in this machine's order."""
    number = f"{int.from_bytes(socket.inet_aton(host), sys.byteorder):08X}"
    mapped = f"{int.from_bytes(bytes.fromhex('0000ffff'), sys.byteorder):08X}"
    return number, "0" * 16 + mapped + number


def _rows(wanted: str) -> Iterator[_Row]:
    for table in _TABLES:
        try:
            lines = table.read_text().splitlines()[1:]
        except OSError:
            continue  # a machine without IPv6 has no table for it
        for line in lines:
            if wanted in line:
                fields = line.split()
                yield _Row(fields[1], fields[2], fields[3], int(fields[7]))
