from __future__ import annotations

import pytest

from common.errors import NotFound
from main_pc.core_orchestrator.request_facts import ENDS, RESULTS
from main_pc.core_orchestrator.request_limits import Limits
from tests.main_pc.core_orchestrator.desk import Desk, provider


def done(desk: Desk, result: object = None, **fields: object) -> str:
    request_id = desk.submit(**fields)  # type: ignore[arg-type]
    desk.answer(desk.dispatch()[0], result)
    return request_id


def test_the_oldest_beyond_the_count_are_forgotten_with_their_keys() -> None:
    desk = Desk(Limits(kept=2), text=[provider()])
    first, second, third = (done(desk, n, idempotency_key=f"k{n}") for n in range(3))
    desk.trim()
    with pytest.raises(NotFound):
        desk.status(first)
    assert desk.status(second).result == 1
    assert list(dict(ENDS.load(desk.store))) == [second, third]
    assert desk.submit(idempotency_key="k0") not in (first, second, third)


def test_an_ended_request_is_forgotten_after_its_time() -> None:
    desk = Desk(Limits(kept_s=10.0), text=[provider()])
    old = done(desk)
    desk.now = 5.0
    young = done(desk)
    desk.now = 11.0
    desk.trim()
    assert list(desk.book.ended) == [young]
    assert old not in desk.book.results


def test_results_beyond_the_bytes_are_dropped_but_how_it_ended_is_known() -> None:
    desk = Desk(Limits(kept_bytes=250), text=[provider()])
    first, second, third = (done(desk, "x" * 100) for _ in range(3))
    desk.trim()
    assert (desk.status(first).state, desk.status(first).result) == ("done", None)
    assert desk.status(first).error == "done, but its result is no longer kept"
    assert desk.status(second).result == "x" * 100
    assert desk.book.kept_bytes == 204
    desk.restart()
    assert desk.status(first).error == "done, but its result is no longer kept"
    assert desk.status(third).result == "x" * 100
    assert list(dict(RESULTS.load(desk.store))) == [second, third]


def test_what_is_forgotten_is_not_dropped_besides() -> None:
    desk = Desk(Limits(kept=2, kept_bytes=150), text=[provider()])
    done(desk, "x" * 100)
    second, third = done(desk, "x" * 100), done(desk, "x" * 100)
    desk.trim()
    assert list(desk.book.ended) == [second, third]
    assert list(desk.book.results) == [third]
    desk.trim()
    assert list(desk.book.results) == [third]


def test_nothing_at_all_may_be_kept() -> None:
    desk = Desk(Limits(kept_s=10.0, kept_bytes=0), text=[provider()])
    first, second = done(desk, "x"), done(desk, "y")
    desk.trim()
    assert desk.book.kept_bytes == 0
    assert {desk.status(first).state, desk.status(second).state} == {"done"}
    desk.now = 11.0
    desk.trim()
    assert desk.book.ended == {}
