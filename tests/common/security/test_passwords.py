from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from statistics import median
from time import perf_counter

import pytest

from common.errors import Overloaded
from common.security.passwords import Cost, Passwords

CHEAP = Cost(passes=1, memory_kib=64, lanes=1)


@pytest.fixture
async def passwords() -> AsyncIterator[Passwords]:
    passwords = Passwords(CHEAP)
    yield passwords
    passwords.close()


async def test_the_password_matches_its_hash_and_no_other_does(passwords: Passwords) -> None:
    kept = await passwords.hashed("correct horse")
    assert kept.startswith("$argon2id$")
    assert "correct horse" not in kept
    assert await passwords.matches(kept, "correct horse")
    assert not await passwords.matches(kept, "correct horse ")
    assert not await passwords.matches(kept, "")


async def test_the_same_password_has_another_hash_each_time(passwords: Passwords) -> None:
    assert await passwords.hashed("correct horse") != await passwords.hashed("correct horse")


async def test_nobody_s_hash_matches_nothing(passwords: Passwords) -> None:
    for guess in ("", "nobody's", "correct horse"):
        assert not await passwords.matches("", guess)


async def test_a_hash_made_at_another_cost_is_still_checked(passwords: Passwords) -> None:
    dear = Passwords(Cost(passes=2, memory_kib=128, lanes=1))
    kept = await dear.hashed("correct horse")
    dear.close()
    assert await passwords.matches(kept, "correct horse")


async def test_a_hash_that_is_none_matches_nothing(passwords: Passwords) -> None:
    assert not await passwords.matches("$argon2id$nonsense", "correct horse")


async def test_with_nothing_to_check_against_it_takes_as_long() -> None:
    passwords = Passwords(Cost(passes=2, memory_kib=8_192, lanes=1))
    kept = await passwords.hashed("correct horse")

    async def took_s(against: str) -> float:
        began = perf_counter()
        await passwords.matches(against, "wrong horse")
        return perf_counter() - began

    await took_s("")
    pairs = [(await took_s(kept), await took_s("")) for _ in range(25)]
    passwords.close()
    known, unknown = (median(times) for times in zip(*pairs, strict=True))
    assert 0.5 < unknown / known < 2.0


async def test_the_loop_goes_on_while_one_is_hashed() -> None:
    passwords = Passwords(Cost(passes=4, memory_kib=65_536, lanes=1))
    hashing = asyncio.create_task(passwords.hashed("correct horse"))
    turns = 0
    while not hashing.done():
        await asyncio.sleep(0.001)
        turns += 1
    passwords.close()
    assert turns >= 5


async def test_one_too_many_is_told_to_come_back() -> None:
    passwords = Passwords(CHEAP, most_waiting=2)
    gate = threading.Event()
    passwords._thread.submit(gate.wait)
    waiting = [asyncio.create_task(passwords.hashed("correct horse")) for _ in range(2)]
    await asyncio.sleep(0)
    with pytest.raises(Overloaded) as caught:
        await passwords.hashed("correct horse")
    assert caught.value.retry_after_ms
    gate.set()
    await asyncio.gather(*waiting)
    assert await passwords.hashed("correct horse")
    passwords.close()


async def test_one_who_left_gives_its_place_back() -> None:
    passwords = Passwords(CHEAP, most_waiting=1)
    gate = threading.Event()
    passwords._thread.submit(gate.wait)
    waiting = asyncio.create_task(passwords.hashed("correct horse"))
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    gate.set()
    assert await passwords.hashed("correct horse")
    passwords.close()
