"""What is subscribed to at a far publisher for this host's subscribers."""

from __future__ import annotations

from common.supervisor.relay import interest
from common.supervisor.relay.interest import Interest
from common.transport import events

MARK = b"\xffmark-one"


def test_marks_are_what_the_event_ports_take_for_marks() -> None:
    assert (bytes([interest.MARK]), interest.MARK_LIMIT) == (events.MARK, events.MARK_LIMIT)


def test_a_topic_is_subscribed_to_once_however_many_want_it() -> None:
    wanted = Interest()
    assert wanted.told([b"\x01agents.changed"]) == ([], [b"agents.changed"])
    assert wanted.told([b"\x01agents.changed"]) == ([], [])
    assert wanted.told([b"\x00agents.changed"]) == ([b"agents.changed"], [])
    assert wanted.told([b"\x00agents.changed"]) == ([], [])


def test_a_mark_that_is_told_again_is_asked_again() -> None:
    wanted = Interest()
    assert wanted.told([b"\x01" + MARK]) == ([], [MARK])
    assert wanted.told([b"\x01" + MARK]) == ([MARK], [MARK])
    assert wanted.topics() == [MARK]


def test_a_long_mark_is_a_topic_like_any_other() -> None:
    wanted = Interest()
    long = b"\xff" * (interest.MARK_LIMIT + 1)
    wanted.told([b"\x01" + long])
    assert wanted.told([b"\x01" + long]) == ([], [])


def test_a_new_connection_asks_for_everything_with_marks_last() -> None:
    wanted = Interest()
    for topic in (MARK, b"beat", b"", b"agents.changed"):
        wanted.told([b"\x01" + topic])
    assert wanted.topics() == [b"", b"agents.changed", b"beat", MARK]


def test_what_is_no_subscription_is_passed_over() -> None:
    wanted = Interest()
    for frames in ([b""], [b"hello"], [b"\x01a", b"b"]):
        assert wanted.told(frames) == ([], [])
    assert wanted.topics() == []
