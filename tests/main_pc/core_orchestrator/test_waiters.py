from __future__ import annotations

from common.api.core_orchestrator import RequestProgress, RequestStatus, State
from main_pc.core_orchestrator.waiters import Finish, Progress, Waiter, Waiters


def status(state: State = "queued", request_id: str = "r") -> RequestStatus:
    return RequestStatus(request_id=request_id, state=state, capability="text", position=2, reason="busy")


def test_one_who_comes_after_the_end_or_has_no_time_is_answered_at_once() -> None:
    waiters = Waiters()
    assert waiters.stay(Waiter("w", "r", until=9.0), status("done"), 0.0) == (Finish("w", "r"),)
    assert waiters.stay(Waiter("w", "r", until=0.0, streams=True), status(), 0.0) == (Finish("w", "r"),)
    assert len(waiters) == 0


def test_those_who_stream_hear_each_change_and_part_and_all_hear_the_end() -> None:
    waiters = Waiters()
    waiting = RequestProgress(request_id="r", state="queued", position=2, reason="busy")
    assert waiters.stay(Waiter("quiet", "r", until=9.0), status(), 0.0) == ()
    assert waiters.stay(Waiter("stream", "r", until=9.0, streams=True), status(), 0.0) == (Progress("stream", waiting),)
    (told,) = waiters.told(status("running"))
    assert isinstance(told, Progress)
    assert told.progress.state == "running"
    (part,) = waiters.part(status("running"), "half")
    assert isinstance(part, Progress)
    assert part.progress.part == "half"
    assert waiters.told(status("failed")) == (Finish("quiet", "r"), Finish("stream", "r"))
    assert waiters.told(status("failed")) == ()
    assert len(waiters) == 0


def test_time_over_is_the_last_word_and_one_who_left_hears_nothing() -> None:
    waiters = Waiters()
    waiters.stay(Waiter("soon", "r", until=1.0), status(), 0.0)
    waiters.stay(Waiter("later", "r", until=2.0), status(), 0.0)
    waiters.stay(Waiter("gone", "r", until=2.0), status(), 0.0)
    waiters.leave("gone")
    waiters.leave("gone")
    assert waiters.late(1.0) == (Finish("soon", "r"),)
    assert waiters.late(2.0) == (Finish("later", "r"),)
    assert waiters.late(3.0) == ()
    assert waiters.told(status("done")) == ()
