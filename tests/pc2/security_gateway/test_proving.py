from __future__ import annotations

import asyncio
import logging
from pathlib import Path
from statistics import median
from time import perf_counter

import pytest

from common.errors import Overloaded, TandemError, Unauthenticated
from common.security.passwords import Cost, Passwords
from pc2.security_gateway.identities import IdentityBook
from pc2.security_gateway.lockout import Limits, Lockout, Pace
from pc2.security_gateway.proving import WRONG, Proving
from tests.pc2.security_gateway.gateway import CHEAP, Gateway, gateway

PASSWORD = "correct horse battery"
GUESS = "wrong horse battery"
API_KEY_GUESS = f"tandem_{'0' * 12}_{'x' * 43}"
PATIENT = Limits(
    identity=Pace(free=10_000, first_s=1.0, cap_s=1.0, quiet_s=1.0),
    host=Pace(free=10_000, first_s=1.0, cap_s=1.0, quiet_s=1.0),
)


async def refused(running: Gateway, name: str, secret: str) -> TandemError:
    with pytest.raises(Unauthenticated) as caught:
        await running.token(name, secret)
    return caught.value


@pytest.mark.parametrize("guess", [GUESS, API_KEY_GUESS, "", "short"])
async def test_unknown_names_and_wrong_secrets_of_either_kind_get_one_answer(tmp_path: Path, guess: str) -> None:
    async with gateway(tmp_path) as running:
        await running.create("bob")
        await running.create("eve", secret=PASSWORD)
        answers = [await refused(running, name, guess) for name in ("bob", "eve", "nobody", "not a name @ all", "")]
        assert {(answer.message, answer.retry_after_ms, str(answer.details)) for answer in answers} == {
            (WRONG, None, "{}")
        }


async def test_an_unknown_name_and_a_wrong_password_take_the_same_time(tmp_path: Path) -> None:
    dear = Cost(passes=2, memory_kib=8_192, lanes=1)
    async with gateway(tmp_path, lockout=Lockout(PATIENT), cost=dear) as running:
        await running.create("bob")
        await running.create("eve", secret=PASSWORD)
        took: dict[str, list[float]] = {"eve": [], "bob": [], "nobody": []}
        await refused(running, "nobody", GUESS)
        for _ in range(25):
            for name, times in took.items():
                began = perf_counter()
                await refused(running, name, GUESS)
                times.append(perf_counter() - began)
        eve, bob, nobody = (median(times) for times in took.values())
        assert 0.5 < nobody / eve < 2.0
        assert 0.5 < bob / eve < 2.0


async def test_after_some_wrong_tries_even_the_right_password_waits_and_other_names_do_not(tmp_path: Path) -> None:
    async with gateway(tmp_path) as running:
        await running.create("bob", secret=PASSWORD)
        await running.create("eve", secret=PASSWORD)
        for _ in range(5):
            assert (await refused(running, "bob", GUESS)).message == WRONG
        answer = await refused(running, "bob", PASSWORD)
        assert "try again in 1 s" in answer.message
        assert 0 < (answer.retry_after_ms or 0) <= 1_000
        assert not answer.retryable
        await running.token("eve", PASSWORD)
        async with asyncio.timeout(60):
            while True:
                try:
                    await running.token("bob", PASSWORD)
                except Unauthenticated:
                    await asyncio.sleep(0.05)
                else:
                    break


async def test_nobodys_wrong_tries_keep_the_owner_of_an_api_key_out(tmp_path: Path) -> None:
    async with gateway(tmp_path) as running:
        key = await running.create("bob")
        for _ in range(5):
            await refused(running, "bob", API_KEY_GUESS)
        assert "try again" in (await refused(running, "bob", API_KEY_GUESS)).message
        await running.token("bob", key)


async def test_an_unknown_name_waits_like_a_known_one(tmp_path: Path) -> None:
    async with gateway(tmp_path) as running:
        for _ in range(5):
            await refused(running, "nobody", API_KEY_GUESS)
        assert "try again in 1 s" in (await refused(running, "nobody", API_KEY_GUESS)).message


async def test_guesses_that_wait_are_not_hashed(tmp_path: Path) -> None:
    async with gateway(tmp_path) as running:
        await running.create("eve", secret=PASSWORD)
        for _ in range(5):
            await refused(running, "eve", GUESS)
        running.service._passwords.close()  # whoever asks it now fails
        assert "try again" in (await refused(running, "eve", GUESS)).message


class TestProving:
    """The order of things, without a socket."""

    def bench(self, most_waiting: int = 8) -> tuple[Proving, Passwords, Lockout]:
        passwords, lockout = Passwords(CHEAP, most_waiting), Lockout()
        return Proving(IdentityBook(), passwords, lockout, lambda: 0.0), passwords, lockout

    async def test_who_leaves_before_the_answer_has_tried(self) -> None:
        proving, passwords, lockout = self.bench()
        for _ in range(5):
            trying = asyncio.create_task(proving.prove("bob", GUESS, "pc2"))
            await asyncio.sleep(0)
            trying.cancel()
            with pytest.raises(asyncio.CancelledError):
                await trying
        passwords.close()
        assert lockout.wait_s("bob", "pc2", 0.0) == 1.0

    async def test_a_secret_that_was_not_looked_at_for_want_of_time_does_not_count(self) -> None:
        proving, passwords, lockout = self.bench(most_waiting=0)
        for _ in range(10):
            with pytest.raises(Overloaded):
                await proving.prove("bob", GUESS, "pc2")
        passwords.close()
        assert lockout.wait_s("bob", "pc2", 0.0) == 0.0

    async def test_a_name_that_nobody_has_is_not_written_down(self, caplog: pytest.LogCaptureFixture) -> None:
        proving, passwords, _ = self.bench()
        with caplog.at_level(logging.DEBUG), pytest.raises(Unauthenticated):
            await proving.prove("my password by mistake", GUESS, "pc2")
        passwords.close()
        assert "mistake" not in caplog.text
        assert "an unknown name from pc2" in caplog.text
        assert (proving.wrong, proving.held_off) == (1, 0)

    async def test_an_identity_that_went_while_its_secret_was_checked_is_refused(self, tmp_path: Path) -> None:
        async with gateway(tmp_path, cost=Cost(passes=3, memory_kib=32_768, lanes=1)) as running:
            await running.create("eve", secret=PASSWORD)
            asking = asyncio.create_task(running.token("eve", PASSWORD))
            async with asyncio.timeout(60):
                while not running.service._passwords._waiting:
                    await asyncio.sleep(0)
            await running.call("revoke_identity", name="eve")
            with pytest.raises(Unauthenticated, match=WRONG):
                await asking
