"""How an answer is dressed: in the dress of its call, with what was dropped from the envelope echoed before it.

Exactly one `final` or `error` is sent for a call; parts go to native callers only.
"""

from __future__ import annotations

from typing import Protocol

from common.errors import TandemError
from common.service.bundles import Bundles
from common.transport.router_port import RouterPort
from common.wire import bundle, codec, header, plain
from common.wire.frames import Buffer


class Reply(Protocol):
    """Where the answer to one call goes. Each method returns False when the peer is gone."""

    streams: bool

    def final(self, value: object) -> bool:
        """The answer."""
        ...

    def part(self, value: object) -> bool:
        """A piece of the answer before it."""
        ...

    def error(self, error: TandemError) -> bool:
        """The refusal."""
        ...


class PlainReply:
    """An answer in plain dress: one JSON object."""

    __slots__ = ("_envelope", "_id", "_port", "_route")
    streams = False

    def __init__(self, port: RouterPort, route: bytes, envelope: tuple[Buffer, ...], call_id: Buffer) -> None:
        self._port = port
        self._route = route
        self._envelope = envelope
        self._id = call_id

    def final(self, value: object) -> bool:
        """The struct's fields beside `status`."""
        return self._port.send(self._route, (*self._envelope, plain.reply(value, self._id)))

    def part(self, value: object) -> bool:
        """Plain callers get no parts."""
        return True

    def error(self, error: TandemError) -> bool:
        """`status` error with code and message."""
        return self._port.send(self._route, (*self._envelope, plain.failure(error, self._id)))


class NativeReply:
    """An answer in native dress: header and body, in the codec of the call; bundled where the call came in a bundle."""

    __slots__ = ("_bundles", "_codec", "_envelope", "_id", "_port", "_route")
    streams = True

    def __init__(
        self,
        port: RouterPort,
        route: bytes,
        envelope: tuple[Buffer, ...],
        call_id: int,
        codec_: header.Codec,
        bundles: Bundles | None,
    ) -> None:
        self._port = port
        self._route = route
        self._envelope = envelope
        self._id = call_id
        self._codec = codec_
        self._bundles = bundles

    def final(self, value: object) -> bool:
        """The last frame pair of the call."""
        return self._send(header.ReplyKind.FINAL, value)

    def part(self, value: object) -> bool:
        """One frame pair before the last."""
        return self._send(header.ReplyKind.PART, value)

    def error(self, error: TandemError) -> bool:
        """The last frame pair of the call, an error."""
        return self._send(header.ReplyKind.ERROR, codec.error_body(error))

    def _send(self, kind: header.ReplyKind, value: object) -> bool:
        body = codec.encode(self._codec, value)
        head = header.encode(header.ReplyHeader(header.PROTOCOL, kind, self._id, self._codec))
        ends = kind is not header.ReplyKind.PART  # a part tells at once whether anyone is there to take it
        if ends and self._bundles is not None and len(body) <= bundle.MAX_BODY_BYTES:
            self._bundles.add(self._port, self._route, head, body)
            return True
        return self._port.send(self._route, (*self._envelope, head, body))
