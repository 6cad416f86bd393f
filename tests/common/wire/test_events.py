from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.api.words import Cursor
from common.errors import BadRequest
from common.wire import events
from common.wire.events import Place

AT = Cursor(epoch=3, seq=10)


@pytest.mark.parametrize(
    ("at", "epoch", "seq", "where"),
    [
        (None, 3, 10, Place.NEXT),
        (AT, 3, 11, Place.NEXT),
        (AT, 3, 10, Place.SEEN),
        (AT, 3, 2, Place.SEEN),
        (AT, 3, 12, Place.GAP),
        (AT, 4, 11, Place.NEW_EPOCH),
        (AT, 2, 11, Place.NEW_EPOCH),
    ],
)
def test_an_events_number_says_where_it_lies(at: Cursor | None, epoch: int, seq: int, where: Place) -> None:
    assert events.place(at, epoch, seq) is where


@pytest.mark.parametrize(
    ("last", "where"),
    [
        (Cursor(epoch=3, seq=10), Place.SEEN),
        (Cursor(epoch=3, seq=9), Place.SEEN),
        (Cursor(epoch=3, seq=11), Place.GAP),
        (Cursor(epoch=4, seq=0), Place.NEW_EPOCH),
    ],
)
def test_the_publishers_last_place_says_who_is_behind(last: Cursor, where: Place) -> None:
    assert events.behind(AT, last) is where


@given(st.binary(max_size=64))
def test_any_bytes_are_an_events_header_or_one_bad_request(frame: bytes) -> None:
    with suppress(BadRequest):
        events.decode_header(frame)


def test_an_events_header_nested_5_000_levels_deep_is_one_bad_request() -> None:
    with pytest.raises(BadRequest):
        events.decode_header(b'{"epoch":1,"seq":1,"at":"x","later":' + b"[" * 5_000 + b"]" * 5_000 + b"}")
