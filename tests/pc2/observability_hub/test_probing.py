from __future__ import annotations

import errno
import logging
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import zmq

from common.errors import DeadlineExceeded, Unavailable
from pc2.observability_hub import probing
from pc2.observability_hub.evidence import Outcome, Weight
from pc2.observability_hub.probing import Probing
from pc2.observability_hub.ward import Ward
from tests.pc2.observability_hub.saying import process


class Timer:
    def __init__(self, delay_s: float, fire: Callable[[], None]) -> None:
        self.delay_s, self.fire = delay_s, fire
        self.cancelled = False

    def cancel(self) -> None:
        self.cancelled = True


class Loop:
    """Timers that never fire by themselves."""

    def __init__(self) -> None:
        self.timers: list[Timer] = []

    def call_later(self, delay_s: float, fire: Callable[[], None]) -> Timer:
        self.timers.append(Timer(delay_s, fire))
        return self.timers[-1]


class Clock:
    now = 5.0

    def monotonic(self) -> float:
        return self.now


class Desk:
    """Probing of one host's processes on a loop that never turns; `lines` are the connections that it made."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
        self.loop, self.clock = Loop(), Clock()
        self.told: list[tuple[str, Outcome]] = []
        self.late: list[float] = []
        self.lines: list[Line] = []
        self.ward = Ward([], frozenset({"pc2"}), {}, 0.0, 0.0)
        for name in names:
            self.ward.told("pc2", process(name, kind="service", probe="zmq"), "", 0.0, 0.0)
        shell: Any = SimpleNamespace(
            loop=self.loop,
            clock=self.clock,
            context=None,
            rng=SimpleNamespace(random=lambda: 0.0),
            settings=SimpleNamespace(host="pc2", service="ObservabilityHub"),
            log=logging.getLogger("test"),
            report=lambda: SimpleNamespace(ready=True, status="ok", reasons=[]),
        )
        monkeypatch.setattr(probing, "PlainLine", self._line)
        client: Any = SimpleNamespace()
        self.probing = Probing(shell, self.ward, client, self._tell, self.late.append)

    def _tell(self, key: str, _life: int, outcome: Outcome, _at: float) -> None:
        self.told.append((key, outcome))

    def _line(self, *_: Any) -> Line:
        self.lines.append(Line())
        return self.lines[-1]

    def turn(self, after_s: float = 0.0) -> None:
        """The next turn comes, `after_s` later than it was."""
        (timer,) = [timer for timer in self.loop.timers if not timer.cancelled]
        timer.cancelled = True
        self.clock.now += timer.delay_s + after_s
        timer.fire()


class Line:
    """A connection that is answered by a test."""

    def __init__(self) -> None:
        self.ended: Callable[[Any], None] | None = None
        self.closed = False

    def ask(self, _body: bytes, ended: Callable[[Any], None]) -> None:
        self.ended = ended

    def close(self) -> None:
        self.closed = True

    def answer(self, how: Any = b'{"ready": true, "status": "ok"}') -> None:
        assert self.ended is not None
        self.ended(how)


def test_those_who_are_due_at_about_the_same_time_are_asked_in_one_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    desk = Desk(monkeypatch, "a", "b")
    desk.probing.look("pc2/a")
    desk.clock.now += 0.015
    desk.probing.look("pc2/b")
    desk.turn()
    assert len(desk.lines) == desk.probing.under_way == 2
    desk.lines[0].answer()
    desk.clock.now += 0.05
    desk.lines[1].answer()
    assert desk.probing.under_way == 0
    desk.turn()
    assert (len(desk.lines), desk.probing.under_way, desk.probing.done) == (2, 2, 2)


def test_who_does_not_answer_is_given_up_and_hung_up_on(monkeypatch: pytest.MonkeyPatch) -> None:
    desk = Desk(monkeypatch, "a")
    desk.probing.look("pc2/a")
    desk.turn()
    desk.turn(after_s=0.4)
    assert desk.told == [("pc2/a", Outcome(Weight.MISS, "no answer within 1.0 s", silent=True))]
    assert desk.lines[0].closed
    assert max(desk.late) == pytest.approx(0.4, abs=0.02)
    desk.lines[0].answer()
    assert len(desk.told) == 1
    desk.turn()
    assert len(desk.lines) == 2


def test_an_answer_is_weighed_whatever_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    desk = Desk(monkeypatch, "a")
    for how in (b"[]", Unavailable("nobody listens"), DeadlineExceeded("late"), b'{"status": "degraded"}'):
        desk.probing.look("pc2/a")
        desk.turn()
        desk.lines[-1].answer(how)
    assert [(outcome.weight, outcome.silent) for _, outcome in desk.told] == [
        (Weight.UNWELL, False),
        (Weight.MISS, False),
        (Weight.MISS, True),
        (Weight.WEAK, False),
    ]
    assert [line.closed for line in desk.lines] == [True, True, False]


def test_no_more_are_asked_at_once_than_there_is_room_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probing, "AT_ONCE", 1)
    desk = Desk(monkeypatch, "a", "b")
    desk.probing.look("pc2/a")
    desk.probing.look("pc2/b")
    desk.turn()
    assert len(desk.lines) == 1
    desk.lines[0].answer()
    desk.turn()
    assert len(desk.lines) == 2


def test_whoever_went_is_not_asked_and_its_connection_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    desk = Desk(monkeypatch, "a", "b")
    desk.probing.look("pc2/a")
    desk.turn()
    desk.lines[0].answer()
    desk.ward.listed("pc2", [process("b", kind="service", probe="zmq")], 0.0, 0.0)
    desk.turn()
    assert ([key for key, _ in desk.told], desk.probing.under_way) == (["pc2/a"], 0)
    desk.probing.tidy()
    assert desk.lines[0].closed


def test_a_hub_without_descriptors_blames_itself(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    desk = Desk(monkeypatch, "a")
    exhausted = Unavailable("no more sockets")
    exhausted.__cause__ = zmq.ZMQError(errno.EMFILE)

    def refuse(*_: Any) -> Line:
        raise exhausted

    monkeypatch.setattr(probing, "PlainLine", refuse)
    desk.probing.look("pc2/a")
    desk.turn()
    assert (desk.told, desk.probing.under_way) == ([], 0)
    assert "pc2/a cannot be probed: no more sockets" in caplog.text


def test_what_fails_about_one_keeps_nobody_who_has_the_same_turn(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    desk = Desk(monkeypatch, "a", "b")
    tell = desk.probing._tell

    def fail_about_a(key: str, life: int, outcome: Outcome, at: float) -> None:
        if key == "pc2/a":
            raise ValueError("cannot be taken in")
        tell(key, life, outcome, at)

    desk.probing._tell = fail_about_a
    desk.probing.look("pc2/a")
    desk.probing.look("pc2/b")
    desk.turn()
    desk.turn()
    assert ([key for key, _ in desk.told], desk.probing.under_way) == (["pc2/b"], 0)
    assert "the turn of pc2/a failed" in caplog.text
    desk.probing.look("pc2/a")
    desk.turn()
    assert len(desk.lines) == 3, "it is asked again"


def test_the_hub_knows_of_itself_without_a_question(monkeypatch: pytest.MonkeyPatch) -> None:
    desk = Desk(monkeypatch, "observability_hub")
    desk.probing.look("pc2/observability_hub")
    desk.turn()
    assert desk.told == [("pc2/observability_hub", Outcome(Weight.WELL, own=True))]
    assert (desk.probing.done, desk.probing.under_way, desk.lines) == (1, 0, [])


def test_what_the_hub_knows_of_itself_is_no_sign_that_it_has_ears(monkeypatch: pytest.MonkeyPatch) -> None:
    names = ("observability_hub", "a", "b", "c", "d")
    desk = Desk(monkeypatch, *names)
    ward, clock = desk.ward, desk.clock

    def take_in(key: str, life: int, outcome: Outcome, at: float) -> None:
        ward.probed(key, life, outcome, at, clock.now, clock.now)

    desk.probing._tell = take_in
    for name in names:
        desk.probing.look(f"pc2/{name}")
    while clock.now < 8.0:
        desk.turn()
    assert ward.doubt.now(clock.now) == "nobody answers the hub, 4 at once"


def test_once_it_is_closed_nobody_is_probed_whoever_is_told_of(monkeypatch: pytest.MonkeyPatch) -> None:
    desk = Desk(monkeypatch, "a")
    desk.probing.tidy()
    assert not desk.loop.timers[-1].cancelled
    desk.probing.close()
    desk.probing.look("pc2/supervisor")
    desk.probing.tidy()
    assert all(timer.cancelled for timer in desk.loop.timers)
