"""What callers are told of a far service that cannot be reached."""

from __future__ import annotations

import pytest
import zmq

from common.supervisor.relay.reach import Reach, Since
from common.transport.channel import reason_for
from common.transport.sockets import Endpoint

START = Since(0.0, "2026-01-01T00:00:00.000Z")
CUT = Since(10.0, "2026-01-01T00:00:10.000Z")


def reach() -> Reach:
    return Reach("ResourceManager", "pc2", "mainpc", START)


def told(link: Reach, now: float) -> str:
    error = link.unavailable(now)
    assert error is not None
    assert error.retryable
    return error.message


def test_while_the_link_stands_nobody_is_refused() -> None:
    link = reach()
    link.joined()
    assert "the connection is being made" in told(link, 1.0)
    link.connected()
    assert link.unavailable(1.0) is None
    assert link.is_up


def test_a_link_that_went_says_since_when_and_why_and_what_to_do() -> None:
    link = reach()
    link.joined()
    link.connected()
    link.lost("the connection to tcp://10.0.0.2:7001 was lost", CUT)
    link.lost("nobody listens at tcp://10.0.0.2:7001", Since(11.0, "later"))
    sentence = told(link, 15.0)
    assert sentence.startswith(
        "ResourceManager on pc2 cannot be reached since 2026-01-01T00:00:10.000Z (5 s): nobody listens at"
    )
    assert "look after pc2" in sentence
    error = link.unavailable(15.0)
    assert error is not None
    assert error.details == {"host": "pc2", "since": CUT.told}


def test_what_was_under_way_may_or_may_not_have_been_done() -> None:
    link = reach()
    link.connected()
    link.lost("the connection was lost", CUT)
    assert "may or may not have been done" in link.interrupted(10.0).message
    assert not link.interrupted(10.0).retryable


def test_a_host_that_has_not_joined_is_told_with_both_commands() -> None:
    link = reach()
    link.unknown(host_joined=False, now=START)
    assert "pc2 has not joined: run `tandem invite pc2` on this host and `tandem join` there" in told(link, 1.0)
    link.joined()
    assert "has not joined" not in told(link, 1.0)


def test_a_process_that_its_host_has_not_told_of_is_to_be_started_there() -> None:
    link = reach()
    link.unknown(host_joined=True, now=START)
    assert "pc2 has told of no such process yet" in told(link, 1.0)


@pytest.mark.parametrize("event", [zmq.EVENT_HANDSHAKE_FAILED_AUTH, zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL])
def test_a_refused_handshake_says_how_to_be_known_again(event: int) -> None:
    link = reach()
    link.joined()
    link.lost(reason_for(event, Endpoint("tcp://10.0.0.2:7001", b"key")), CUT)
    assert "run `tandem invite mainpc` on pc2 and `tandem join` here" in told(link, 11.0)


def test_a_failed_handshake_stays_the_reason_over_attempts_that_did_not_come_to_one() -> None:
    link = reach()
    link.joined()
    link.lost("it refused the handshake", CUT)
    link.lost("nobody listens", Since(10.1, "later"))
    assert "refused the handshake" in told(link, 11.0)
    link.lost("nobody listens", Since(20.0, "later"))
    assert "nobody listens" in told(link, 21.0)
