from __future__ import annotations

import asyncio

from common.api.models import WINDOW_BYTES
from main_pc.front.pacing import AGAIN_S, TOLD_EVERY_BYTES, Progress


class Sender:
    """Whoever sends the answer, over a way that loses news; and the time that passes meanwhile."""

    def __init__(self, *lost: int) -> None:
        self.lost = set(lost)
        self.told: list[int] = []
        self.heard = 0
        self.slept: list[float] = []
        self.wakes = asyncio.Event()
        self.sent = 0

    async def tell(self, taken: int) -> bool:
        self.told.append(taken)
        if len(self.told) in self.lost:
            return False
        self.heard = taken
        return True

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        await self.wakes.wait()
        self.wakes.clear()

    def send(self) -> int:
        """As much as the window has room for."""
        more = WINDOW_BYTES - (self.sent - self.heard)
        self.sent += more
        return more


async def turns() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


async def test_a_sender_that_stands_because_the_news_was_lost_goes_on_once_it_is_told_again() -> None:
    sender = Sender(1, 2, 3)
    progress = Progress(sender.tell, sender.sleep)
    async with progress.telling():
        progress.took(sender.send())
        await turns()
        assert (sender.send(), sender.slept) == (0, [AGAIN_S]), "both wait for each other, and nothing more comes"
        for again in (2, 3):
            sender.wakes.set()
            await turns()
            assert sender.told == [WINDOW_BYTES] * again
        sender.wakes.set()
        await turns()
        assert sender.send() == WINDOW_BYTES
    assert sender.slept == [AGAIN_S] * 3


async def test_what_was_not_heard_is_told_with_all_that_was_taken_since() -> None:
    sender = Sender(1)
    progress = Progress(sender.tell, sender.sleep)
    async with progress.telling():
        progress.took(TOLD_EVERY_BYTES)
        await turns()
        progress.took(5)
        progress.took(TOLD_EVERY_BYTES)
        await turns()
        assert sender.told == [TOLD_EVERY_BYTES]
        sender.wakes.set()
        await turns()
    assert sender.told == [TOLD_EVERY_BYTES, 2 * TOLD_EVERY_BYTES + 5]


async def test_it_is_told_once_for_each_quarter_of_the_window_and_to_nobody_after_the_end() -> None:
    sender = Sender()
    progress = Progress(sender.tell, sender.sleep)
    async with progress.telling():
        for _ in range(8):
            progress.took(TOLD_EVERY_BYTES // 2)
            await turns()
    assert sender.told == [TOLD_EVERY_BYTES * n for n in (1, 2, 3, 4)]
    progress.took(WINDOW_BYTES)
    await turns()
    assert len(sender.told) == 4


async def test_the_end_of_the_answer_ends_news_that_nobody_hears() -> None:
    sender = Sender(*range(1, 100))
    progress = Progress(sender.tell, sender.sleep)
    async with progress.telling():
        progress.took(WINDOW_BYTES)
        await turns()
    assert (len(sender.told), len(sender.slept)) == (1, 1)


async def test_news_that_nobody_answers_holds_up_nobody_who_reads() -> None:
    never = asyncio.Event()

    async def tell(taken: int) -> bool:
        await never.wait()
        return True

    progress = Progress(tell)
    async with progress.telling():
        for _ in range(3):
            progress.took(TOLD_EVERY_BYTES)
            await turns()
