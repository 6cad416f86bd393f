from __future__ import annotations

import pytest

from common.dispatch import load
from common.errors import Internal, NotFound
from main_pc.core_orchestrator.request_book import RequestBook
from main_pc.core_orchestrator.request_facts import NEXT, CallSettled, Move, RequestQueued, RequestReturned, rows
from tests.main_pc.core_orchestrator.desk import Desk, provider


def queued(request_id: str = "r", seq: int = 1) -> RequestQueued:
    return RequestQueued(request_id=request_id, seq=seq, capability="text", priority=50, deadline_s=9.0, at="noon")


def test_final_states_are_left_by_no_move() -> None:
    assert {state for state, _ in NEXT} == {"queued", "running"}
    assert {move for _, move in NEXT} == set(Move)


def test_an_illegal_move_tells_the_requests_story() -> None:
    book = RequestBook()
    book.apply(queued(), 0.0)
    returned = RequestReturned(request_id="r", agent_name="a", attempt=1, delay_s=0.0, why="")
    with pytest.raises(
        Internal, match=r"cannot return while queued: text, priority 50, accepted noon from nobody known"
    ):
        book.apply(returned, 0.0)


def test_a_fact_about_an_unknown_or_a_second_birth_is_a_bug() -> None:
    book = RequestBook()
    book.apply(queued(), 0.0)
    with pytest.raises(Internal, match="queued before"):
        book.apply(queued(), 0.0)
    with pytest.raises(Internal, match="has ended or never was"):
        book.apply(RequestReturned(request_id="x", agent_name="a", attempt=1, delay_s=0.0, why=""), 0.0)


def test_an_unknown_request_is_not_found() -> None:
    with pytest.raises(NotFound):
        RequestBook().status("r")


def test_numbers_go_on_after_a_restart() -> None:
    desk = Desk(text=[provider()])
    desk.submit()
    desk.submit()
    desk.restart()
    assert desk.book.next_seq == 3


def test_facts_of_memory_alone_have_no_rows() -> None:
    assert rows(CallSettled(request_id="r", attempt=1)) == ()


def test_only_so_many_turns_are_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(load, "TURNS_KEPT", 2)
    desk = Desk(text=[provider(name) for name in "abc"])
    for _ in range(3):
        desk.submit()
    desk.dispatch()
    assert [desk.book.last_used(name) for name in "abc"] == [0, 2, 3]


def test_calls_of_one_agent_are_counted_one_by_one() -> None:
    desk = Desk(text=[provider("a", concurrency=2)])
    desk.submit()
    desk.submit()
    first, second = desk.dispatch()
    desk.answer(first)
    assert desk.book.in_flight("a") == 1
    desk.answer(second)
    assert desk.book.in_flight("a") == 0


def test_a_part_counts_only_from_the_attempt_that_runs_now() -> None:
    desk = Desk(text=[provider()])
    request_id = desk.submit()
    assert not desk.book.runs(request_id, 0)
    desk.dispatch()
    desk.lose("a")
    desk.dispatch()
    assert [desk.book.runs(request_id, attempt) for attempt in (1, 2)] == [False, True]
    assert not desk.book.runs("unknown", 1)
