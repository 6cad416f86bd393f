"""A host whose time stands still until it is told to pass, on simulated cards that are seen through NVIDIA's own binding of NVML.

The loop and the shell read one manual clock. What is real (processes, sockets, looks at the cards) is waited for with the clock
standing; what has a time of its own (bounds, TTLs, ages) comes about when the clock is put forward, a step at a time.
"""

from __future__ import annotations

import asyncio
import ctypes
import functools
import inspect
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import pynvml
import pytest
import zmq

from common.api.words import Access, Empty, Message, Verb
from common.clock import timestamp
from common.gpu.cards import CardSource, ClaimedCards
from common.gpu.nvml import NvmlCards
from common.gpu.process_identity import is_alive
from common.gpu.simulated import GIB, CardFile, card_uuid, create_card, ensure_cards, use_bytes
from common.service.call import Call
from common.vram.cards import ProcessId
from common.vram.rungs import DEFAULT as LADDER
from common.vram.rungs import LadderPolicy
from tests.common.service.lab import PATIENCE_S, Peer, peer
from tests.common.supervisor.leasing import lab

T = TypeVar("T")

CARD, OTHER_CARD = card_uuid("mainpc", 0), card_uuid("mainpc", 1)
STEP_S = 0.05
STUBBORN = "import signal,time; signal.signal(15,signal.SIG_IGN); print('up',flush=True); time.sleep(1000)"


class ManualClock:
    """Stands until it is put forward."""

    def __init__(self) -> None:
        self.now = 1_000.0

    def monotonic(self) -> float:
        return self.now

    def wall(self) -> float:
        return 1_750_000_000.0 + self.now

    def timestamp(self) -> str:
        return timestamp(self.wall())


class ManualLoop(asyncio.SelectorEventLoop):
    """A loop whose timers go by a manual clock; sockets, threads and processes wake it as ever."""

    def __init__(self) -> None:
        super().__init__()
        self.clock = ManualClock()

    def time(self) -> float:
        return self.clock.now


def clock_of_loop() -> ManualClock:
    loop = asyncio.get_running_loop()
    assert isinstance(loop, ManualLoop)
    return loop.clock


async def _breathe() -> None:
    """Lets a moment of real time pass, and none of the clock's."""
    await asyncio.to_thread(threading.Event().wait, 0.001)


async def _turns(count: int) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


async def _answer_to(caller: Peer) -> dict[str, Any]:
    """The answer, however much of the clock's time it takes."""
    (body,) = await caller.socket.recv_multipart()
    return dict(msgspec.json.decode(body))


class Asked(Message, frozen=True):
    model: str
    lease_id: str


class Timed:
    """One host on the manual clock; every call is answered with as little of the clock's time as it takes."""

    def __init__(self, host: lab.Host, folder: Path) -> None:
        self.host = host
        self.clock = clock_of_loop()
        self.folder = folder

    async def settle(self) -> None:
        """Everything that is due is done, a look under way is in, and whoever was told to give memory back has answered."""
        await _turns(8)
        await self.until(lambda: not self._is_busy())
        await _turns(4)

    def _is_busy(self) -> bool:
        sampler, evictor = self.host.leases._cards._sampler, self.host.leases._evictions._evictor
        asked = [each.ladder._steps[-1] for each in evictor._evictions]
        return (sampler is not None and sampler.looking) or any(not step.answered for step in asked)

    async def passes(self, seconds: float) -> None:
        """Time passes, with everything that happens in it."""
        end = self.clock.now + seconds
        while self.clock.now < end:
            self.clock.now = min(end, self.clock.now + STEP_S)
            await self.settle()

    async def until(self, fact: Callable[[], bool]) -> None:
        """Something real comes about while the clock stands."""
        give_up_at = time.monotonic() + PATIENCE_S
        while not fact():
            assert time.monotonic() < give_up_at, f"it did not come about within {PATIENCE_S} s"
            await _breathe()

    async def finds(self, fact: Callable[[], Coroutine[Any, Any, T]], within_s: float = 120.0) -> T:
        """The first true answer as time passes, at most `within_s` of the clock's."""
        end = self.clock.now + within_s
        while not (found := await fact()):
            assert self.clock.now < end, f"it did not come about within {within_s} s of the clock"
            await self.passes(STEP_S)
        return found

    async def flows(self, answer: Awaitable[T]) -> T:
        """The answer; where it takes time, time passes."""
        task = asyncio.ensure_future(answer)
        give_up_at = time.monotonic() + PATIENCE_S
        while not task.done():
            for _ in range(5):
                await _breathe()
                if task.done():
                    break
            else:
                assert time.monotonic() < give_up_at, "no answer"
                await self.passes(STEP_S)
        return task.result()

    async def looked(self) -> None:
        """A look that began after now is in, and one more, for what is judged by two."""
        for _ in range(2):
            self.host.leases._cards.look_soon()
            await self.passes(0.1)

    async def ask(self, action: str, **fields: Any) -> dict[str, Any]:
        return await self.flows(self.host.ask(action, **fields))

    async def acquire(self, gib: float, model: str = "llm", **fields: Any) -> dict[str, Any]:
        return await self.ask("acquire_lease", model=model, bytes=int(gib * GIB), **fields)

    async def granted(self, gib: float, **fields: Any) -> dict[str, Any]:
        reply = await self.acquire(gib, **fields)
        assert reply["status"] == "success", reply
        return reply

    async def held(self, process: ProcessId, gib: float, card: int = 0, **fields: Any) -> dict[str, Any]:
        """A lease of this process that nobody uses, whose bytes it holds, as looks have shown."""
        made: dict[str, Any] = {"owner": lab.owner(process), "card_uuid": card_uuid("mainpc", card), "in_use": False}
        reply = await self.granted(gib, **(made | fields))
        self.uses(process, gib, card)
        await self.looked()
        return reply

    def uses(self, process: ProcessId, gib: float, card: int = 0) -> None:
        """From now on the process holds so much of the card."""
        use_bytes(self.folder / str(card), int(gib * GIB), process)

    async def token(self, action: str, lease: dict[str, Any], **fields: Any) -> dict[str, Any]:
        return await self.ask(action, lease_id=lease["lease_id"], fencing_token=lease["fencing_token"], **fields)

    async def lease(self, lease_id: str) -> dict[str, Any]:
        """The lease as lists show it; empty when it has ended."""
        found = (await self.ask("list_leases"))["leases"]
        return next((each for each in found if each["lease_id"] == lease_id), {})

    async def gone(self, lease_id: str, within_s: float = 120.0) -> None:
        """The lease ends as time passes."""

        async def ended() -> bool:
            return not await self.lease(lease_id)

        await self.finds(ended, within_s)

    async def card(self, index: int = 0) -> dict[str, Any]:
        cards: list[dict[str, Any]] = (await self.ask("get_gpus"))["cards"]
        return next(card for card in cards if card["card"] == index)

    async def grantable(self, index: int = 0) -> float:
        """What a lease could get on the card, in GiB, before the guard band."""
        card = await self.card(index)
        free = int(card["grantable_bytes"])
        assert free >= 0
        return round((free + (int(card["guard_bytes"]) if free else 0)) / GIB, 2)

    async def receipts(self, subject: str) -> list[dict[str, Any]]:
        """What was decided about a lease, a model or a key, oldest first."""
        return list(reversed((await self.ask("explain", subject=subject, limit=200))["receipts"]))

    async def decisions(self, subject: str) -> list[str]:
        return [each["decision"] for each in await self.receipts(subject)]

    async def rungs(self, lease_id: str, decision: str = "evicted") -> list[tuple[str, str, float, float]]:
        """Of the eviction each rung with its outcome and the GiB that its owner was shown to hold before and after it."""
        told = next(each for each in await self.receipts(lease_id) if each["decision"] == decision)["rungs"]
        return [(r["rung"], r["outcome"], r["bytes_before"] / GIB, r["bytes_after"] / GIB) for r in told]

    async def dies(self, process: ProcessId) -> None:
        """A process that is signalled ends, while the clock stands."""
        await self.until(lambda: not is_alive(*process))

    def changes(self, index: int = 0, **fields: Any) -> None:
        """The card shows a fault, or hides its processes."""
        file = self.folder / str(index) / "card.json"
        card = msgspec.json.decode(file.read_bytes(), type=CardFile)
        create_card(file.parent, msgspec.structs.replace(card, **fields))

    def serves(self, verb: str, act: Callable[[], object]) -> dict[str, Any]:
        """An owner's verb that does so and says done; how its lease names it."""

        def done(_asked: Asked, _call: Call) -> Empty:
            act()
            return Empty()

        self.host.shell.handle(Verb(verb, Asked, Empty, Access.USE), done)
        return {"port": self.host.shell.port, "timeout_s": 10.0}

    @asynccontextmanager
    async def waiting(
        self, gib: float, model: str = "llm", **fields: Any
    ) -> AsyncIterator[asyncio.Task[dict[str, Any]]]:
        """A caller that waits for a lease of so much, in line when the block begins."""
        before = len(self.host.leases._line)
        made = {"action": "acquire_lease", "model": model, "bytes": int(gib * GIB), "wait_s": 3_600.0} | fields
        async with peer(self.host.shell.port, zmq.DEALER) as caller:
            await caller.send(msgspec.json.encode(made))
            asked = asyncio.create_task(_answer_to(caller))
            await self.until(lambda: asked.done() or len(self.host.leases._line) > before)
            assert not asked.done(), asked.result()
            try:
                yield asked
            finally:
                asked.cancel()


def bind_stand_in(library: Path, folder: Path, patch: pytest.MonkeyPatch) -> None:
    """The real binding, bound to the stand-in, which sees the cards in `folder`; the shells of this test on the manual clock."""
    ensure_cards(folder, "mainpc", lab.TOTALS)
    patch.setattr(pynvml, "nvmlLib", ctypes.CDLL(str(library)))
    patch.setattr(pynvml, "_nvmlGetFunctionPointer_cache", {})
    patch.setenv("TANDEM_SIMULATED_CARDS", str(folder))
    patch.delenv("TANDEM_NVML_WITHOUT", raising=False)
    patch.setattr("common.service.shell.SystemClock", clock_of_loop)


@asynccontextmanager
async def timed(folder: Path, policy: LadderPolicy = LADDER, name: str = "mainpc") -> AsyncIterator[Timed]:
    """A host that stands, with the cards of NVML, claimed as a supervisor claims them."""
    cards: CardSource = ClaimedCards(NvmlCards(name), name, folder / "claims")
    async with lab.host(cards, policy=policy, host=name) as host:
        yield Timed(host, folder)


def on_manual_time(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """The test on a loop whose time stands; its `at` is a host with the cards of the fixture `cards`."""

    @functools.wraps(test)
    def run(cards: Path, **fixtures: Any) -> None:
        async def main() -> None:
            async with timed(cards) as at:
                await test(at, **fixtures)

        with asyncio.Runner(loop_factory=ManualLoop) as runner:
            runner.run(main())

    wanted = inspect.signature(test).parameters.values()
    folder = inspect.Parameter("cards", inspect.Parameter.POSITIONAL_OR_KEYWORD)
    signed: Any = run
    signed.__signature__ = inspect.Signature([folder, *(each for each in wanted if each.name != "at")])
    del signed.__wrapped__
    return run
