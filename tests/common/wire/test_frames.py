from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.wire.frames import Buffer, Malformed, Native, Plain, framed

CALL = b"\xc1\x93\x01\x00\x07"
JSON = b'{"action":"ping"}'
CORRELATE = b"\x00\x00\x00\x01"
frame = st.one_of(
    st.binary(max_size=8), st.sampled_from([b"", CALL, JSON, CORRELATE, b"\xc1", b"\xc1\x00\x00\x01", b"ping"])
)


@pytest.mark.parametrize("envelope", [(), (b"",), (CORRELATE, b""), (b"\xc1\x00\x00\x01", b"")])
def test_each_dress_is_known_behind_each_envelope(envelope: tuple[bytes, ...]) -> None:
    assert framed([*envelope, JSON]) == Plain(envelope, JSON)
    assert framed([*envelope, CALL, b"\x80"]) == Native(envelope, CALL, b"\x80", [])
    assert framed([*envelope, CALL, b"\x80", b"a", b"b"]) == Native(envelope, CALL, b"\x80", [b"a", b"b"])


def test_a_lone_empty_frame_is_a_plain_message_of_no_bytes() -> None:
    assert framed([b""]) == Plain((), b"")
    assert framed([b"", b""]) == Plain((b"",), b"")


def test_a_lone_frame_of_four_bytes_is_plain_and_not_an_envelope() -> None:
    assert framed([b"ping"]) == Plain((), b"ping")


def test_a_message_that_ends_after_its_envelope_gets_its_envelope_back_with_the_error() -> None:
    message = framed([CORRELATE, b""])
    assert isinstance(message, Malformed)
    assert message.envelope == (CORRELATE, b"")
    assert "envelope" in message.error.message


def test_a_native_header_without_a_body_is_malformed() -> None:
    message = framed([b"", CALL])
    assert isinstance(message, Malformed)
    assert message.envelope == (b"",)
    assert "body frame" in message.error.message


def test_frames_in_no_dress_are_counted_in_the_error() -> None:
    message = framed([b"a", b"b", b"c"])
    assert isinstance(message, Malformed)
    assert message.error.details == {"frames": 3}


def test_two_delimiters_are_one_too_many() -> None:
    assert isinstance(framed([b"", b"", JSON]), Malformed)


@given(st.lists(st.one_of(frame, frame.map(memoryview)), min_size=1, max_size=6))
def test_every_message_is_in_exactly_one_dress_and_no_frame_is_lost(frames: list[Buffer]) -> None:
    message = framed(frames)
    if isinstance(message, Native):
        assert [*message.envelope, message.header, message.body, *message.attachments] == frames
        assert message.header[0] == 0xC1
    elif isinstance(message, Plain):
        assert [*message.envelope, message.body] == frames
        assert not len(message.body) or message.body[0] != 0xC1
    else:
        assert list(message.envelope) == frames[: len(message.envelope)]


@given(st.lists(frame, min_size=1, max_size=4), st.sampled_from([(b"",), (CORRELATE, b"")]))
def test_an_envelope_never_changes_what_is_behind_it(frames: list[bytes], envelope: tuple[bytes, ...]) -> None:
    bare, dressed = framed(frames), framed([*envelope, *frames])
    if not bare.envelope:
        assert type(dressed) is type(bare)
        assert dressed.envelope == envelope
