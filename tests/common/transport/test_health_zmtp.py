from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.transport.health_zmtp import MAX_COMMAND_BYTES, Asked, Instruction, ZmtpRefused, ZmtpServer, answer

GREETING = b"\xff" + bytes(8) + b"\x7f\x03\x01NULL" + bytes(16) + bytes(32)
READY = b"\x04\x19\x05READY\x0bSocket-Type\x00\x00\x00\x03REQ"
PLAIN, DELIMITED = Asked(()), Asked((b"",))


def frame(body: bytes, *, more: bool = False, long: bool = False) -> bytes:
    if long or len(body) > 255:
        return bytes((more | 2,)) + len(body).to_bytes(8, "big") + body
    return bytes((more, len(body))) + body


def message(*frames: bytes) -> bytes:
    return b"".join(frame(body, more=at < len(frames) - 1) for at, body in enumerate(frames))


def shaken() -> ZmtpServer:
    server = ZmtpServer()
    server.feed(GREETING + READY)
    assert server.shaken
    return server


def test_the_greeting_goes_out_at_the_first_byte_and_ready_after_the_peers_greeting() -> None:
    server = ZmtpServer()
    assert server.feed(GREETING[:1]) == [GREETING]
    assert server.feed(GREETING[1:63]) == []
    (ready,) = server.feed(GREETING[63:])
    assert isinstance(ready, bytes)
    assert ready.startswith(b"\x04")
    assert b"\x05READY\x0bSocket-Type\x00\x00\x00\x06ROUTER" in ready
    assert not server.shaken
    assert server.feed(READY) == []
    assert server.shaken


@pytest.mark.parametrize(
    ("frames", "asked"),
    [
        ((b"ping",), PLAIN),
        ((b"",), PLAIN),
        ((b"", b"ping"), DELIMITED),
        ((b"", b"", b"x"), DELIMITED),
        ((b"abcd", b"", b"ping"), Asked((b"abcd", b""))),
        ((b"abcd", b""), Asked((b"abcd", b""))),
        ((b"abcd", b"x", b""), PLAIN),
        ((b"abc", b"", b"ping"), PLAIN),
        ((b"x", b"y", b"z" * 1000), PLAIN),
        ((b"health" * 100,), PLAIN),
    ],
)
def test_every_message_is_asked_once_with_the_frames_its_reply_echoes(frames: tuple[bytes, ...], asked: Asked) -> None:
    assert shaken().feed(message(*frames)) == [asked]


def test_a_reply_carries_its_envelope_and_then_its_body() -> None:
    assert answer(Asked((b"abcd", b"")), b"well") == b"\x01\x04abcd\x01\x00\x00\x04well"
    assert answer(PLAIN, b"w" * 256) == b"\x02" + (256).to_bytes(8, "big") + b"w" * 256


@given(st.lists(st.lists(st.binary(max_size=6), min_size=1, max_size=4), max_size=6), st.randoms(use_true_random=False))
def test_where_the_stream_is_cut_does_not_matter(messages: list[list[bytes]], rng: random.Random) -> None:
    stream = GREETING + READY + b"".join(message(*frames) for frames in messages)
    whole = ZmtpServer().feed(stream)
    server, pieces, at = ZmtpServer(), list[Instruction](), 0
    while at < len(stream):
        end = at + rng.randint(1, 9)
        pieces += server.feed(stream[at:end])
        at = end
    assert pieces == whole
    assert sum(isinstance(piece, Asked) for piece in pieces) == len(messages)


def test_a_ping_is_answered_with_its_context_also_inside_a_message() -> None:
    server = shaken()
    assert server.feed(b"\x04\x0a\x04PING\x00\x0aabc") == [b"\x04\x08\x04PONGabc"]
    assert server.feed(b"\x01\x01x" + b"\x04\x07\x04PING\x00\x0a" + b"\x00\x01y") == [b"\x04\x05\x04PONG", PLAIN]


def test_other_commands_are_ignored() -> None:
    assert shaken().feed(b"\x04\x05\x04PING" + b"\x04\x00" + frame(b"ping")) == [PLAIN]


def ready(*properties: tuple[bytes, bytes]) -> bytes:
    body = b"\x05READY" + b"".join(
        bytes((len(name),)) + name + len(value).to_bytes(4, "big") + value for name, value in properties
    )
    return b"\x04" + bytes((len(body),)) + body


def test_the_socket_type_is_found_among_other_properties_in_any_case() -> None:
    server = ZmtpServer()
    server.feed(GREETING + ready((b"Identity", b"me"), (b"SOCKET-TYPE", b"DEALER"), (b"X-New", b"")))
    assert server.shaken


@pytest.mark.parametrize(
    ("stream", "reason"),
    [
        (b"\xff" + bytes(8) + b"\x00", "signature"),
        (b"\x01" * 10, "signature"),
        (b"\xff" + bytes(8) + b"\x7f\x01", "before ZMTP 3"),
        (GREETING.replace(b"NULL" + bytes(16), b"CURVE" + bytes(15)), "mechanism"),
        (GREETING + frame(b"ping"), "before READY"),
        (GREETING + b"\x04\x06\x05ERROR", "no READY"),
        (GREETING + ready((b"Socket-Type", b"SUB")), "not a REQ"),
        (GREETING + ready(), "not a REQ"),
        (GREETING + ready((b"Socket-Type", b"REQ"))[:1] + b"\x0d\x05READY\x02ab\xff\xff\xff\xff", "cut short"),
        (GREETING + b"\x06" + (MAX_COMMAND_BYTES + 1).to_bytes(8, "big"), "command of"),
        (GREETING + READY + b"\x06" + b"\x7f" * 8, "command of"),
        (GREETING + READY + b"\x08\x00", "flags"),
        (GREETING + READY + b"\x05\x00", "flags"),
        (GREETING + READY + b"\x02" + b"\x00\x00\x00\x00\x04\x00\x00\x00", "above"),
    ],
)
def test_a_broken_protocol_is_refused(stream: bytes, reason: str) -> None:
    with pytest.raises(ZmtpRefused, match=reason):
        ZmtpServer().feed(stream)


def test_an_endless_message_of_empty_frames_is_refused_and_costs_no_memory() -> None:
    server = shaken()
    server.feed(b"\x03" + (64 * 1024 * 1024 - 100).to_bytes(8, "big"))
    assert server.feed(bytes(64 * 1024)) == []
    assert len(server._held) == 0
    fresh = shaken()
    fresh._message_bytes = 64 * 1024 * 1024 - 4
    with pytest.raises(ZmtpRefused, match="above"):
        fresh.feed(b"\x01\x00" * 3)


@given(st.binary(max_size=400))
def test_any_bytes_after_the_handshake_are_taken_or_refused(chunk: bytes) -> None:
    try:
        shaken().feed(chunk)
    except ZmtpRefused:
        pass
