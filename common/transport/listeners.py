"""Whose program is at the other end of a plain port of this machine, as the kernel tells it; decides nothing about it.

Loopback has no keys: whoever binds a port first is spoken to. What a caller can know is the user behind the port. The kernel is
asked by netlink (sock_diag(7)), and by its tables in /proc/net (proc(5)), which it is slower to write, where that is not allowed.
"""

from __future__ import annotations

import os
import socket
import struct
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

_TABLES: Final = (Path("/proc/net/tcp"), Path("/proc/net/tcp6"))
_STANDS, _LISTENS = 1, 10
_SOCK_DIAG, _BY_FAMILY, _DUMP = 4, 20, 0x301
_ERROR, _DONE = 2, 3
_MAPPED: Final = bytes(10) + b"\xff\xff"
_ANSWER_S: Final = 1.0


class _Row(NamedTuple):
    """A TCP socket: IPv6 address (an IPv4 one mapped) and port in one, of either end."""

    local: bytes
    remote: bytes
    listens: bool
    user: int


def users_at(address: str) -> frozenset[int]:
    """The users (uid) who serve `tcp://127.0.0.1:PORT`: who listens, and who holds a connection that a program of ours made.

    Empty where nobody does, and for an address that is no IPv4 one of this machine's loopback. Takes some ms; that a port changes
    hands right after is not seen. A connection that nobody has accepted yet counts as root's.
    """
    host, _, number = address.removeprefix("tcp://").replace("localhost", "127.0.0.1").rpartition(":")
    if not host.startswith("127."):
        return frozenset()
    port = int(number)
    there = {ip + port.to_bytes(2, "big") for ip in (_MAPPED + socket.inet_aton(host), _MAPPED + bytes(4), bytes(16))}
    try:
        rows = [row for family in (socket.AF_INET, socket.AF_INET6) for row in _asked(family, port)]
    except OSError:
        rows = list(_read(port))
    ours = {(row.remote, row.local) for row in rows if not row.listens and row.user == os.geteuid()}
    return frozenset(
        row.user for row in rows if row.local in there and (row.listens or (row.local, row.remote) in ours)
    )


def _asked(family: int, port: int) -> Iterator[_Row]:
    """Who listens at the port, and the connections from and to it; OSError where the kernel does not say."""
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _SOCK_DIAG) as kernel:
        kernel.settimeout(_ANSWER_S)
        for states, own, other in ((1 << _LISTENS | 1 << _STANDS, port, 0), (1 << _STANDS, 0, port)):
            asked = struct.pack("=BBBxI", family, socket.IPPROTO_TCP, 0, states)
            asked += struct.pack("!HH", own, other) + bytes(36) + b"\xff" * 8
            kernel.send(struct.pack("=IHHII", 16 + len(asked), _BY_FAMILY, _DUMP, 1, 0) + asked)
            yield from _told(kernel)


def _told(kernel: socket.socket) -> Iterator[_Row]:
    while True:
        data = kernel.recv(65_536)
        while data:
            size, kind = struct.unpack_from("=IH", data)
            if kind == _DONE:
                return
            if kind == _ERROR:
                raise OSError(-struct.unpack_from("=i", data, 16)[0], "sock_diag")
            told = data[16:size]
            ports, ends = (told[4:6], told[6:8]), (told[8:24], told[24:40])
            local, remote = (_whole(ip, told[0]) + port for ip, port in zip(ends, ports, strict=True))
            yield _Row(local, remote, told[1] == _LISTENS, struct.unpack_from("=I", told, 64)[0])
            data = data[(size + 3) & ~3 :]


def _whole(ip: bytes, family: int) -> bytes:
    return ip if family == socket.AF_INET6 else _MAPPED + ip[:4]


def _read(port: int) -> Iterator[_Row]:
    """The same from the tables."""
    for table in _TABLES:
        try:
            lines = table.read_text().splitlines()[1:]
        except OSError:
            continue  # a machine without IPv6 has no table for it
        for line in lines:
            if f":{port:04X} " in line:
                _, local, remote, state, _, _, _, user, *_ = line.split()
                if int(state, 16) in (_STANDS, _LISTENS):
                    yield _Row(_spelled(local), _spelled(remote), int(state, 16) == _LISTENS, int(user))


def _spelled(text: str) -> bytes:
    """`0100007F:1BB2`: words of 32 bits in this machine's order, and the port."""
    ip, _, port = text.partition(":")
    words = (int(ip[at : at + 8], 16).to_bytes(4, sys.byteorder) for at in range(0, len(ip), 8))
    whole = b"".join(words)
    return (whole if len(whole) == 16 else _MAPPED + whole) + int(port, 16).to_bytes(2, "big")
