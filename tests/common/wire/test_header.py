from __future__ import annotations

from contextlib import suppress

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.errors import BadRequest
from common.ids import MAX_WIRE_INT
from common.wire import header
from common.wire.header import PROTOCOL, CallHeader, CallKind, Codec, ReplyHeader, ReplyKind

wire_ints = st.integers(0, MAX_WIRE_INT)
names = st.none() | st.lists(st.text(max_size=20), max_size=8)
calls = st.builds(
    CallHeader,
    protocol=st.just(PROTOCOL),
    kind=st.sampled_from(CallKind),
    id=wire_ints,
    verb=st.text(max_size=128),
    budget_ms=wire_ints,
    codec=st.sampled_from(Codec),
    token=st.none() | st.text(max_size=40),
    trace=st.none() | st.text(max_size=40),
    attachments=names,
)
replies = st.builds(
    ReplyHeader,
    protocol=st.just(PROTOCOL),
    kind=st.sampled_from(ReplyKind),
    id=wire_ints,
    codec=st.sampled_from(Codec),
    attachments=names,
)


@given(calls)
def test_a_call_header_comes_back_as_it_went(head: CallHeader) -> None:
    frame = header.encode(head)
    assert frame[0] == 0xC1
    assert len(frame) >= 5
    assert header.decode_call(memoryview(frame)) == head


@given(replies)
def test_a_reply_header_comes_back_as_it_went(head: ReplyHeader) -> None:
    assert header.decode_reply(header.encode(head)) == head


@given(st.binary(max_size=64))
def test_any_bytes_are_a_header_or_one_bad_request(rest: bytes) -> None:
    for decode in (header.decode_call, header.decode_reply):
        with suppress(BadRequest):
            decode(b"\xc1" + rest)


def packed(*fields: object) -> bytes:
    return b"\xc1" + msgspec.msgpack.encode(fields)


@pytest.mark.parametrize(
    ("frame", "said"),
    [
        (packed(1, 0), "not readable"),
        (packed(1, 9, 7), "9"),
        (packed(1, 0, -1), ">= 0"),
        (packed(1, 0, 2**53), "<= 9007199254740991"),
        (packed(1, 0, 7, "v" * 129), "length <= 128"),
        (packed(1, 0, 7, "v", "soon"), "Expected `int`"),
        (packed(1, 0, 7, "v", 0, 0, None, None, ["n"] * 65), "length <= 64"),
        (packed(1, 0, 7, "v", 0, 5), "5"),
        (packed(2, 0, 7, "v"), "protocol 2 is not spoken here"),
        (b"\xc1", "not readable"),
        (b"\xc1\x93\x01\x00\xa1\xff", "not readable"),
        (b"\xc1\x94\x01\x00\x07\xa1\xff", "not readable"),
    ],
)
def test_a_header_out_of_bounds_says_what_is_wrong(frame: bytes, said: str) -> None:
    with pytest.raises(BadRequest, match=r"header|protocol") as caught:
        header.decode_call(frame)
    assert said in caught.value.message


def test_unknown_fields_nested_5_000_levels_deep_are_one_bad_request() -> None:
    deep = b"\x91" * 5_000 + b"\xc0"
    call = b"\xc1\x9a\x01\x00\x07\xa4ping\x00\x00\xc0\xc0\xc0" + deep
    reply = b"\xc1\x96\x01\x02\x07\x00\xc0" + deep
    with pytest.raises(BadRequest, match="recursion"):
        header.decode_call(call)
    with pytest.raises(BadRequest, match="recursion"):
        header.decode_reply(reply)
