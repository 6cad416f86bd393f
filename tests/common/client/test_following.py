from __future__ import annotations

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.api.basic import Beat, Events, PastEvent
from common.api.words import Cursor
from common.client.following import Event, Fill, Following, Lost, Notice, taken
from common.wire.codec import encode_json
from common.wire.events import EventHeader

TOPIC = "t"


def at(seq: int, epoch: int = 1) -> Cursor:
    return Cursor(epoch=epoch, seq=seq)


def event(seq: int, epoch: int = 1) -> Event:
    return Event(TOPIC, "e", "now", at(seq, epoch), b"{}")


def came(following: Following, seq: int, epoch: int = 1) -> list[Notice]:
    return following.event(TOPIC, EventHeader(epoch, seq, "now", "e"), b"{}")


def beat(following: Following, seq: int, epoch: int = 1) -> list[Notice]:
    return following.beat(encode_json(Beat(last={TOPIC: at(seq, epoch), "another": at(9)})))


def answer(first: int, last: int, as_of: int | None = None, epoch: int = 1) -> Events:
    past = [PastEvent(seq=seq, at="now", entity="e", event=msgspec.Raw(b"{}")) for seq in range(first, last + 1)]
    return Events(events=past, as_of=at(last if as_of is None else as_of, epoch))


def test_from_now_on_begins_with_the_first_event_whatever_its_number() -> None:
    following = Following([TOPIC])
    assert came(following, 7) == [event(7)]
    assert came(following, 8) == [event(8)]


def test_from_now_on_may_begin_with_a_beat() -> None:
    following = Following([TOPIC])
    assert beat(following, 7) == []
    assert came(following, 8) == [event(8)]
    assert came(following, 10) == [Fill(TOPIC, at(8))]


def test_an_event_seen_before_is_not_delivered_twice() -> None:
    following = Following([TOPIC], {TOPIC: at(5)})
    assert came(following, 5) == []
    assert came(following, 6) == [event(6)]
    assert came(following, 6) == []


def test_another_topics_events_are_none_of_ours() -> None:
    assert Following([TOPIC]).event("other", EventHeader(1, 1, "now"), b"{}") == []


def test_a_gap_is_filled_before_what_came_behind_it() -> None:
    following = Following([TOPIC], {TOPIC: at(1)})
    assert came(following, 4) == [Fill(TOPIC, at(1))]
    assert came(following, 5) == []
    assert beat(following, 5) == []
    assert following.filled(TOPIC, answer(2, 5)) == [event(2), event(3), event(4), event(5)]
    assert came(following, 6) == [event(6)]


def test_a_lost_last_event_shows_by_the_beat() -> None:
    following = Following([TOPIC], {TOPIC: at(1)})
    assert beat(following, 1) == []
    assert beat(following, 2) == [Fill(TOPIC, at(1))]
    assert following.filled(TOPIC, answer(2, 2)) == [event(2)]


def test_a_gap_longer_than_one_answer_is_filled_by_several_and_nothing_comes_twice() -> None:
    following = Following([TOPIC], {TOPIC: at(0)})
    came(following, 9)
    came(following, 10)
    assert following.filled(TOPIC, answer(1, 4, as_of=10)) == [*map(event, range(1, 5)), Fill(TOPIC, at(4))]
    assert following.filled(TOPIC, answer(5, 10)) == [*map(event, range(5, 11))]


def test_a_gap_shown_by_the_beat_and_longer_than_one_answer_is_filled_by_several() -> None:
    following = Following([TOPIC], {TOPIC: at(0)})
    beat(following, 6)
    assert following.filled(TOPIC, answer(1, 3, as_of=6)) == [*map(event, range(1, 4)), Fill(TOPIC, at(3))]
    assert following.filled(TOPIC, answer(4, 6)) == [*map(event, range(4, 7))]


def test_a_new_life_of_the_publisher_is_a_loss_shown_by_event_or_beat() -> None:
    following = Following([TOPIC], {TOPIC: at(3)})
    assert came(following, 2, epoch=2) == [Lost(TOPIC), event(2, 2)]
    assert beat(following, 0, epoch=3) == [Lost(TOPIC)]
    assert came(following, 1, epoch=3) == [event(1, 3)]


def test_what_cannot_be_filled_for_good_is_lost_and_what_waited_is_delivered() -> None:
    following = Following([TOPIC], {TOPIC: at(1)})
    came(following, 40)
    came(following, 41)
    assert following.not_filled(TOPIC, for_good=True) == [Lost(TOPIC), event(40), event(41)]
    assert came(following, 42) == [event(42)]


def test_a_gap_among_what_waited_is_a_gap_again() -> None:
    following = Following([TOPIC], {TOPIC: at(1)})
    came(following, 40)
    came(following, 45)
    assert following.not_filled(TOPIC, for_good=True) == [Lost(TOPIC), event(40), Fill(TOPIC, at(40))]


def test_after_a_loss_shown_by_the_beat_the_next_missing_event_shows_again() -> None:
    following = Following([TOPIC], {TOPIC: at(1)})
    beat(following, 40)
    assert following.not_filled(TOPIC, for_good=True) == [Lost(TOPIC)]
    assert beat(following, 41) == [Fill(TOPIC, at(40))]


def test_a_fill_that_failed_for_now_is_asked_for_again_at_the_next_beat() -> None:
    following = Following([TOPIC], {TOPIC: at(1)})
    came(following, 3)
    assert following.not_filled(TOPIC, for_good=False) == []
    assert beat(following, 3) == [Fill(TOPIC, at(1))]
    assert following.filled(TOPIC, answer(2, 3)) == [event(2), event(3)]


def test_an_empty_answer_to_a_fill_is_a_loss_and_not_asked_for_again_and_again() -> None:
    following = Following([TOPIC], {TOPIC: at(1)})
    came(following, 3)
    assert following.filled(TOPIC, answer(1, 0, as_of=3)) == [Lost(TOPIC), event(3)]
    following = Following([TOPIC], {TOPIC: at(1)})
    beat(following, 3)
    assert following.filled(TOPIC, answer(1, 1, as_of=3)) == [Lost(TOPIC)]


@pytest.mark.parametrize(
    ("topic", "header", "body"),
    [
        (b"\xff", b"{}", b"{}"),
        (b"t", b"garbage", b"{}"),
        (b"t", b'{"epoch":1}', b"{}"),
        (b"beat", b"{}", b"garbage"),
        (b"beat", b"{}", b'{"last":{},"later":' + b"[" * 5_000 + b"]" * 5_000 + b"}"),
    ],
)
def test_what_is_no_event_is_passed_over(topic: bytes, header: bytes, body: bytes) -> None:
    assert taken(Following([TOPIC]), topic, header, body) == []


def test_three_frames_are_an_event_or_a_beat() -> None:
    following = Following([TOPIC])
    head = encode_json(EventHeader(1, 1, "now", "e"))
    assert taken(following, b"t", head, b"{}") == [event(1)]
    assert taken(following, b"beat", head, encode_json(Beat(last={TOPIC: at(2)}))) == [Fill(TOPIC, at(1))]


class Story:
    """A publisher with a short ring and short answers, whose events get lost on the way, and one who follows it."""

    def __init__(self, from_the_start: bool, limit: int) -> None:
        self.epoch, self.seq, self.first, self.limit = 1, 0, 1, limit
        self.following = Following([TOPIC], {TOPIC: at(0)} if from_the_start else None)
        self.delivered: list[Event | Lost] = []

    def tell(self, move: str, can_ask: bool, meanwhile: int) -> None:
        if move == "restart":
            self.epoch, self.seq, self.first = self.epoch + 1, 0, 1
        elif move == "trim":
            self.first = self.seq + 1
        elif move == "beat":
            self.take(beat(self.following, self.seq, self.epoch), can_ask, meanwhile)
        elif move == "lost":
            self.seq += 1
        else:
            self.seq += move == "event" or not self.seq
            self.take(came(self.following, self.seq, self.epoch), can_ask, meanwhile)

    def take(self, notices: list[Notice], can_ask: bool, meanwhile: int) -> None:
        fills = 0
        while notices:
            notice = notices.pop(0)
            if not isinstance(notice, Fill):
                self.delivered.append(notice)
                continue
            fills += 1
            assert fills < 100, "the same is asked for again and again"
            for _ in range(meanwhile):
                self.seq += 1
                notices += came(self.following, self.seq, self.epoch)
            meanwhile = 0
            notices += self.fill(notice, can_ask)

    def fill(self, gap: Fill, can_ask: bool) -> list[Notice]:
        if not can_ask:
            return self.following.not_filled(TOPIC, for_good=False)
        if gap.since.epoch != self.epoch or gap.since.seq + 1 < self.first:
            return self.following.not_filled(TOPIC, for_good=True)
        last = min(self.seq, gap.since.seq + self.limit)
        return self.following.filled(TOPIC, answer(gap.since.seq + 1, last, as_of=self.seq, epoch=self.epoch))

    def check(self, last: Cursor | None) -> Cursor | None:
        """No gap but behind a Lost; the last place reached."""
        for item in self.delivered:
            if isinstance(item, Event):
                assert last is None or item.cursor == at(last.seq + 1, last.epoch), "a gap or a repetition"
                last = item.cursor
            else:
                last = None
        places = [(item.cursor.epoch, item.cursor.seq) for item in self.delivered if isinstance(item, Event)]
        assert places == sorted(set(places)), "a repetition or a step back"
        return last


moves = st.tuples(
    st.sampled_from(["event", "event", "event", "lost", "lost", "beat", "again", "restart", "trim"]),
    st.booleans(),  # a fill, where one is asked for, can be had
    st.integers(0, 3),  # events that come while it is under way
)


@settings(max_examples=100, deadline=None)
@given(st.lists(moves, max_size=60), st.integers(1, 4), st.booleans())
def test_no_event_comes_twice_or_out_of_order_and_every_gap_ends_in_events_or_a_loss(
    told: list[tuple[str, bool, int]], limit: int, from_the_start: bool
) -> None:
    story = Story(from_the_start, limit)
    for move, can_ask, meanwhile in [*told, ("beat", True, 0)]:
        story.tell(move, can_ask, meanwhile)
    last = story.check(at(0) if from_the_start else None)
    if last is not None and from_the_start:
        assert last == at(story.seq, story.epoch)
