from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.errors import Interrupted
from main_pc.front import event_stream
from main_pc.front.event_stream import EventStream

STREAM = b': hello\n\ndata: {"a":1}\r\n\r\nevent: x\ndata:two\ndata: lines\n\ndata: [DONE]\n\n'
TOLD = ['{"a":1}', "two\nlines", "[DONE]"]


@given(st.lists(st.integers(0, len(STREAM)), max_size=8))
def test_events_are_the_same_wherever_the_stream_is_cut(cuts: list[int]) -> None:
    places = [0, *sorted(cuts), len(STREAM)]
    stream = EventStream()
    told = [data for start, end in pairwise(places) for data in stream.feed(STREAM[start:end])]
    assert told + stream.end() == TOLD


def test_what_the_end_cut_off_is_told_at_the_end() -> None:
    stream = EventStream()
    assert stream.feed(b"data: last") == []
    assert stream.end() == ["last"]


def test_a_line_without_end_is_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(event_stream, "LONGEST_LINE", 10)
    with pytest.raises(Interrupted, match="longer than 10 bytes"):
        EventStream().feed(b"data: 0123456789")
