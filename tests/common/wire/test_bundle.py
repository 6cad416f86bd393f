"""Bundles: what fits, what they hold, and what is none."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.errors import BadRequest
from common.wire import bundle, codec, header
from common.wire.frames import Native, framed
from common.wire.header import CallHeader, CallKind, Codec, ReplyHeader, ReplyKind

Golden = dict[str, list[bytes]]

PAIRS = st.lists(st.tuples(st.binary(), st.binary()), min_size=1, max_size=bundle.MAX_MESSAGES)


@given(PAIRS)
def test_what_was_bundled_comes_out_in_order(pairs: list[tuple[bytes, bytes]]) -> None:
    flat = [frame for pair in pairs for frame in pair]
    for bundled in (bundle.calls(flat), bundle.replies(flat)):
        message = framed(bundled)
        assert isinstance(message, Native)
        assert list(bundle.unbundled(message.body)) == pairs


@given(st.binary())
def test_any_bytes_are_a_bundle_or_one_bad_request(body: bytes) -> None:
    try:
        found = list(bundle.unbundled(body))
    except BadRequest:
        return
    assert found


@pytest.mark.parametrize(
    "frames", [[], [b"h"], [b"h", b"b", b"h"], [b"x"] * (2 * bundle.MAX_MESSAGES + 2), ["text"] * 2]
)
def test_a_bundle_is_whole_pairs_and_not_too_many(frames: list[object]) -> None:
    with pytest.raises(BadRequest, match="not a bundle"):
        bundle.unbundled(codec.encode(Codec.MSGPACK, frames))


def test_large_bodies_and_attachments_travel_alone() -> None:
    assert bundle.fits([b"h", b"x" * bundle.MAX_BODY_BYTES])
    assert not bundle.fits([b"h", b"x" * (bundle.MAX_BODY_BYTES + 1)])
    assert not bundle.fits([b"h", b"b", b"attached"])


def test_bundles_are_these_bytes(golden: Golden) -> None:
    call = header.encode(CallHeader(header.PROTOCOL, CallKind.CALL, 7, "ping", 1_500))
    last = header.encode(CallHeader(header.PROTOCOL, CallKind.CALL, 8, "ping", 1_500))
    empty = codec.encode(Codec.MSGPACK, {})
    assert list(bundle.calls([call, empty, last, empty])) == golden["bundle of two calls"]
    first, second = (header.encode(ReplyHeader(header.PROTOCOL, ReplyKind.FINAL, number)) for number in (7, 8))
    assert list(bundle.replies([first, empty, second, empty])) == golden["bundle of their replies"]
