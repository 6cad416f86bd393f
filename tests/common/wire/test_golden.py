"""The protocol's bytes, compared both ways with golden.txt."""

from __future__ import annotations

from typing import Any

import msgspec

from common.api.core_orchestrator import Registered
from common.errors import NotFound, Overloaded
from common.wire import codec, events, header, plain
from common.wire.frames import Native, Plain, framed
from common.wire.header import PROTOCOL, CallHeader, CallKind, Codec, ReplyHeader, ReplyKind

Golden = dict[str, list[bytes]]

PING = CallHeader(PROTOCOL, CallKind.CALL, 7, "ping", 1_500)
FULL = CallHeader(PROTOCOL, CallKind.CALL, 300, "submit_request", 2_000, Codec.JSON, "T", "trace-1", ["audio_data"])


def test_a_call_is_these_bytes(golden: Golden) -> None:
    assert [header.encode(PING), codec.encode(Codec.MSGPACK, {})] == golden["call"]
    assert header.decode_call(golden["call"][0]) == PING


def test_the_shortest_call_is_read_with_its_defaults(golden: Golden) -> None:
    message = framed(golden["call, shortest"])
    assert isinstance(message, Native)
    assert header.decode_call(message.header) == msgspec.structs.replace(PING, budget_ms=0)


def test_a_call_with_everything_is_these_bytes(golden: Golden) -> None:
    body = codec.encode(Codec.JSON, {"type": "audio"})
    assert [header.encode(FULL), body, b"RIFF"] == golden["call with everything"]
    message = framed(golden["call with everything"])
    assert message == Native((), header.encode(FULL), body, [b"RIFF"])
    assert header.decode_call(golden["call with everything"][0]) == FULL


def test_a_withdrawal_is_these_bytes(golden: Golden) -> None:
    assert [header.encode(CallHeader(PROTOCOL, CallKind.WITHDRAW, 7)), b""] == golden["withdraw"]


def test_replies_are_these_bytes(golden: Golden) -> None:
    final = ReplyHeader(PROTOCOL, ReplyKind.FINAL, 7)
    assert [header.encode(final), codec.encode(Codec.MSGPACK, {})] == golden["final"]
    part = ReplyHeader(PROTOCOL, ReplyKind.PART, 7, Codec.JSON)
    assert [header.encode(part), codec.encode(Codec.JSON, {"item": 1})] == golden["part"]
    assert header.decode_reply(golden["final"][0]) == final
    assert header.decode_reply(golden["part"][0]) == part


def test_an_error_is_these_bytes(golden: Golden) -> None:
    head = ReplyHeader(PROTOCOL, ReplyKind.ERROR, 7)
    error = NotFound("no agent vision")
    assert [header.encode(head), codec.encode(Codec.MSGPACK, codec.error_body(error))] == golden["error"]
    heard = codec.decode_error(Codec.MSGPACK, golden["error"][1])
    assert type(heard) is NotFound
    assert heard.message == "no agent vision"


def test_the_plain_dress_is_these_bytes(golden: Golden) -> None:
    call = plain.decode_call(golden["plain call"][0])
    assert (call.action, bytes(call.id)) == ("ping", b'"a1"')
    assert plain.reply(Registered(boot="b"), call.id) == golden["plain reply"][0]
    assert plain.failure(Overloaded("too many", retry_after_ms=100)) == golden["plain error"][0]


def test_a_correlating_req_sockets_envelope_is_these_bytes(golden: Golden) -> None:
    frames = golden["plain call of a REQ socket that correlates"]
    assert framed(frames) == Plain((frames[0], b""), b'{"action":"ping"}')


def test_an_event_is_these_bytes(golden: Golden) -> None:
    head = events.EventHeader(1, 2, "2026-01-01T00:00:00.000Z", "a")
    assert [b"agents.changed", codec.encode_json(head), b"{}"] == golden["event"]
    assert events.decode_header(golden["event"][1]) == head


def test_a_newer_peers_longer_header_is_read_as_far_as_it_is_known(golden: Golden) -> None:
    fields: list[Any] = msgspec.msgpack.decode(golden["call"][0][1:])
    longer = b"\xc1" + msgspec.msgpack.encode([*fields, {"later": True}])
    assert header.decode_call(longer) == PING
