"""The server's half of ZMTP 3 as the health port needs it: bytes in, instructions out; no socket, no clock.

It decides when a message is complete and which frames its reply must echo. It never keeps a body, because the answer does not
depend on it: a peer's bytes cost no memory whatever their size or number of frames. Only the NULL mechanism is spoken.

This is not libzmq behind a splice, because libzmq's listener on ipc aborts the whole process when it runs out of descriptors, and
a health port has to outlive exactly such days.

Source: ZMTP 3.1, https://rfc.zeromq.org/spec/37/
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto
from typing import Final

MAX_MESSAGE_BYTES: Final = 64 * 1024 * 1024
MAX_COMMAND_BYTES: Final = 4096

_SIGNATURE: Final = b"\xff" + bytes(8) + b"\x7f"
_GREETING: Final = _SIGNATURE + b"\x03\x01" + b"NULL".ljust(20, b"\0") + bytes(32)
_MORE, _LONG, _COMMAND, _RESERVED = 0x01, 0x02, 0x04, 0xF8
_ASKERS: Final = frozenset({b"REQ", b"DEALER", b"ROUTER"})


class ZmtpRefused(Exception):
    """The peer does not speak this protocol, or too much of it; the connection is to be closed."""


@dataclass(frozen=True, slots=True)
class Asked:
    """One whole message arrived; its one reply starts with the frames of `envelope`."""

    envelope: tuple[bytes, ...]


class _Step(Enum):
    OPENING = auto()
    GREETING = auto()
    READY = auto()
    HEADER = auto()
    BODY = auto()


def answer(asked: Asked, body: bytes) -> bytes:
    """The bytes that answer one message: its envelope, then `body` as the last frame."""
    return b"".join(_frame(part, _MORE) for part in asked.envelope) + _frame(body, 0)


def _frame(body: bytes, flags: int) -> bytes:
    if len(body) > 255:
        return bytes((flags | _LONG,)) + len(body).to_bytes(8, "big") + body
    return bytes((flags, len(body))) + body


def _command(name: bytes, content: bytes) -> bytes:
    return _frame(bytes((len(name),)) + name + content, _COMMAND)


def _property(name: bytes, value: bytes) -> bytes:
    return bytes((len(name),)) + name + len(value).to_bytes(4, "big") + value


_READY: Final = _command(b"READY", _property(b"Socket-Type", b"ROUTER") + _property(b"Identity", b""))

Instruction = bytes | Asked


class ZmtpServer:
    """One connection: greeting, READY, then messages without end; `feed` takes what the peer sent."""

    def __init__(self) -> None:
        self._held = bytearray()
        self._step = _Step.OPENING
        self._envelope: tuple[bytes, ...] = ()
        self._start_message()

    @property
    def shaken(self) -> bool:
        """Whether the handshake is done."""
        return self._step in (_Step.HEADER, _Step.BODY)

    def feed(self, chunk: bytes) -> list[Instruction]:
        """What to do about `chunk`, in order: bytes to send as they are, and messages to answer.

        Raises ZmtpRefused when the peer breaks the protocol; instructions of the same chunk are then void.
        """
        self._held += chunk
        instructions: list[Instruction] = []
        while (done := _STEPS[self._step](self)) is not None:
            instructions += done
        return instructions

    def _open(self) -> list[Instruction] | None:
        self._step = _Step.GREETING
        return [_GREETING]

    def _greet(self) -> list[Instruction] | None:
        if len(self._held) >= 10 and (self._held[0] != 0xFF or self._held[9] != 0x7F):
            raise ZmtpRefused("no ZMTP signature")
        if len(self._held) >= 11 and self._held[10] < 3:
            raise ZmtpRefused("a version before ZMTP 3")
        if len(self._held) < len(_GREETING):
            return None
        greeting = self._take(len(_GREETING))
        if greeting[12:32].rstrip(b"\0") != b"NULL":
            raise ZmtpRefused("a mechanism other than NULL")
        self._step = _Step.READY
        return [_READY]

    def _shake(self) -> list[Instruction] | None:
        if (header := self._header()) is None:
            return None
        flags, length, size = header
        if not flags & _COMMAND:
            raise ZmtpRefused("a message before READY")
        if (command := self._command_body(length, size)) is None:
            return None
        if _socket_type(command) not in _ASKERS:
            raise ZmtpRefused("not a REQ, DEALER or ROUTER")
        self._step = _Step.HEADER
        return []

    def _begin_frame(self) -> list[Instruction] | None:
        if (header := self._header()) is None:
            return None
        flags, length, size = header
        if flags & _COMMAND:
            command = self._command_body(length, size)
            return None if command is None else _pong(command)
        more = bool(flags & _MORE)
        if self._frames == 0 and more and size == 4 and len(self._held) < length + size:
            return None
        self._message_bytes += length + size
        if self._message_bytes > MAX_MESSAGE_BYTES:
            raise ZmtpRefused(f"a message above {MAX_MESSAGE_BYTES} bytes")
        self._note_envelope(more, bytes(self._held[length : length + 4]), size)
        self._frames += 1
        self._last = not more
        self._unread = size
        self._take(length)
        self._step = _Step.BODY
        return []

    def _note_envelope(self, more: bool, start: bytes, size: int) -> None:
        """An empty first frame is a delimiter; four bytes before an empty second frame are REQ_CORRELATE's."""
        if self._frames == 0 and more and size == 4:
            self._first = start
        elif self._frames == 0 and more and size == 0:
            self._envelope = (b"",)
        elif self._frames == 1 and size == 0 and self._first:
            self._envelope = (self._first, b"")

    def _skip_body(self) -> list[Instruction] | None:
        self._unread -= len(self._take(min(self._unread, len(self._held))))
        if self._unread:
            return None
        self._step = _Step.HEADER
        if not self._last:
            return []
        asked = Asked(self._envelope)
        self._start_message()
        return [asked]

    def _start_message(self) -> None:
        self._frames = 0
        self._message_bytes = 0
        self._unread = 0
        self._last = True
        self._first = b""
        self._envelope = ()

    def _header(self) -> tuple[int, int, int] | None:
        """Flags, the header's own length and the size of the frame's body; None until all of it is here."""
        if not self._held:
            return None
        flags = self._held[0]
        if flags & _RESERVED or (flags & _COMMAND and flags & _MORE):
            raise ZmtpRefused(f"frame flags {flags:#04x}")
        length = 9 if flags & _LONG else 2
        if len(self._held) < length:
            return None
        return flags, length, int.from_bytes(self._held[1:length], "big")

    def _command_body(self, length: int, size: int) -> bytes | None:
        if size > MAX_COMMAND_BYTES:
            raise ZmtpRefused(f"a command of {size} bytes")
        if len(self._held) < length + size:
            return None
        return self._take(length + size)[length:]

    def _take(self, count: int) -> bytes:
        taken = bytes(self._held[:count])
        del self._held[:count]
        return taken


_STEPS: Final = {
    _Step.OPENING: ZmtpServer._open,
    _Step.GREETING: ZmtpServer._greet,
    _Step.READY: ZmtpServer._shake,
    _Step.HEADER: ZmtpServer._begin_frame,
    _Step.BODY: ZmtpServer._skip_body,
}


def _pong(command: bytes) -> list[Instruction]:
    """PING (a two-byte TTL, then a context) is answered by PONG with its context; other commands need no answer."""
    if command.startswith(b"\x04PING") and len(command) >= 7:
        return [_command(b"PONG", command[7:23])]
    return []


def _socket_type(ready: bytes) -> bytes:
    """The Socket-Type that a READY command names; raises ZmtpRefused when it is no READY."""
    if not ready.startswith(b"\x05READY"):
        raise ZmtpRefused("no READY command")
    at, found = 6, b""
    while at < len(ready):
        name_end = at + 1 + ready[at]
        value_at = name_end + 4
        value_end = value_at + int.from_bytes(ready[name_end:value_at], "big")
        if value_end > len(ready):
            raise ZmtpRefused("a READY cut short")
        if ready[at + 1 : name_end].lower() == b"socket-type":
            found = ready[value_at:value_end]
        at = value_end
    return found
