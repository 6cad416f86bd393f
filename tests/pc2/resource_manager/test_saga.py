from __future__ import annotations

import pytest

from common.api.leases import AcquireLease
from pc2.resource_manager.saga import NEXT, Request, State, Step


def request() -> Request:
    return Request("lease-1", "anna", AcquireLease(model="whisper", bytes=5, wait_s=9, priority=70), 1.0, 10.0)


@pytest.mark.parametrize("state", list(State))
@pytest.mark.parametrize("step", list(Step))
def test_a_request_takes_the_steps_of_the_table_and_no_other(state: State, step: Step) -> None:
    one = request()
    one.state = state
    if (state, step) in NEXT:
        one.move(step)
        assert one.state is NEXT[state, step]
    else:
        with pytest.raises(RuntimeError, match="cannot do this"):
            one.move(step)


def test_an_illegal_step_tells_the_requests_story() -> None:
    one = request()
    one.move(Step.PLACED)
    with pytest.raises(RuntimeError, match=r"waiting \+ placed -> asking \+ placed\?"):
        one.move(Step.PLACED)


def test_what_its_supervisor_is_asked_never_waits_there() -> None:
    one = request()
    one.host, one.card_uuid = "pc2", "GPU-b"
    asked = one.admission
    assert (asked.lease_id, asked.identity, asked.host, asked.card_uuid) == ("lease-1", "anna", "pc2", "GPU-b")
    assert (asked.wait_s, asked.priority, asked.bytes) == (0.0, 70, 5)


def test_it_waits_in_the_queue_under_its_lease_id() -> None:
    waiter = request().waiter
    assert (waiter.ticket, waiter.priority, waiter.asked_at, waiter.deadline) == ("lease-1", 70, 1.0, 10.0)
