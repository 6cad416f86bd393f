from __future__ import annotations

import asyncio

import pytest

from common.api.models import WINDOW_BYTES, AskModel, PaceModel
from common.errors import Conflict
from common.supervisor.models.pacing import WHOLE_BYTES, Pace, Paces


def asked(reader: str = "r", lease_id: str = "l", token: int = 1) -> AskModel:
    return AskModel(lease_id=lease_id, fencing_token=token, method="GET", path="/", reader=reader)


def told(total: int, reader: str = "r", lease_id: str = "l", token: int = 1) -> PaceModel:
    return PaceModel(lease_id=lease_id, fencing_token=token, reader=reader, taken_bytes=total)


def test_no_more_is_sent_than_a_window_ahead_of_what_was_taken() -> None:
    paces = Paces()
    with paces.of(asked()) as pace:
        pace.sent(WINDOW_BYTES)
        assert not pace.has_room
        paces.taken(told(1))
        assert pace.has_room
        pace.sent(1)
        assert not pace.has_room
    assert not len(paces)


def test_an_old_word_and_one_of_more_than_was_sent_open_nothing() -> None:
    pace = Pace(10)
    pace.sent(10)
    pace.taken(8)
    pace.taken(3)
    pace.sent(8)
    assert not pace.has_room
    pace.taken(10**9)
    pace.sent(10)
    assert not pace.has_room


@pytest.mark.parametrize("other", [told(5, reader="x"), told(5, lease_id="x"), told(5, token=2)])
def test_a_word_of_another_reader_share_or_token_is_nothing(other: PaceModel) -> None:
    paces = Paces()
    with paces.of(asked()) as pace:
        pace.sent(WINDOW_BYTES)
        paces.taken(other)
        assert not pace.has_room


def test_one_name_reads_one_answer_at_a_time() -> None:
    paces = Paces()
    with paces.of(asked()), pytest.raises(Conflict), paces.of(asked()):
        pass
    with paces.of(asked()):
        assert len(paces) == 1


def test_who_names_no_reader_gets_so_much_and_no_more() -> None:
    paces = Paces()
    with paces.of(asked("")) as pace, paces.of(asked("")) as other:
        pace.sent(WHOLE_BYTES)
        assert not pace.has_room
        assert other.has_room
        assert not len(paces)


async def test_a_word_of_the_reader_ends_the_wait() -> None:
    pace = Pace(10)
    pace.sent(10)
    assert not await pace.moved(0.0)
    waiting = asyncio.create_task(pace.moved(60.0))
    await asyncio.sleep(0)
    pace.taken(10)
    assert await waiting


async def test_who_says_the_same_again_has_taken_nothing() -> None:
    pace = Pace(10)
    pace.sent(10)
    pace.taken(10)
    again = asyncio.create_task(pace.moved(60.0))
    await asyncio.sleep(0)
    pace.taken(10)
    pace.taken(10**9)
    await asyncio.sleep(0)
    assert not again.done()
    again.cancel()
