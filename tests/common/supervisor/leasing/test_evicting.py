"""Evictions of real processes on simulated cards, with looks that are taken when they are asked for."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Collection, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest

from common.api.decisions import Rung, RungName
from common.api.leases import Unload
from common.api.words import Access, Empty, Message, Verb
from common.errors import Conflict
from common.gpu import process_identity
from common.gpu.process_identity import is_alive
from common.gpu.simulated import GIB, SimulatedCards, card_uuid, use_bytes
from common.service.call import Call
from common.service.shell import Shell, ShellSettings
from common.supervisor.leasing.evicting import Evictor
from common.supervisor.leasing.families import told_apart
from common.supervisor.leasing.rung_acts import Claimed
from common.supervisor.leasing.sampling import Look
from common.vram.cards import ProcessId
from common.vram.ladder import Outcome
from common.vram.lease_decision import EvictionOrder
from common.vram.rungs import LadderPolicy
from tests.common.service.lab import until
from tests.common.supervisor.leasing.lab import card_folder, program, two_cards
from tests.common.supervisor.leasing.manual_time import ManualLoop, clock_of_loop

BRIEF = LadderPolicy(stop_s=0.2, verify_s=0.2, term_s=0.2, kill_s=60.0, look_s=0.2, signal_s=60.0)
"""What is to be climbed over is soon; what is to succeed has all the time in the world."""
LONG = LadderPolicy(ask_s=60, stop_s=60, signal_s=60, verify_s=60, term_s=60, kill_s=60, look_s=60, claim_s=60)
STUBBORN = "import signal,time; signal.signal(15,signal.SIG_IGN); print('up',flush=True); time.sleep(1000)"
PARENT = (
    "import subprocess,time; child=subprocess.Popen(['sleep','1000']); print(child.pid,flush=True); time.sleep(1000)"
)


CARD, OTHER_CARD = card_uuid("mainpc", 0), card_uuid("mainpc", 1)


def order(owner: ProcessId | None = None, *lease_ids: str, card: str = CARD, **fields: Any) -> EvictionOrder:
    ids = lease_ids or ("lease-1",)
    made: dict[str, Any] = {
        "lease_ids": ids,
        "models": ("whisper",) * len(ids),
        "identity": "local@mainpc",
        "owner": owner,
        "card_uuid": card,
        "card_uuids": (card,),
        "expected_bytes": 10 * GIB,
        "held_bytes": 10 * GIB if owner else None,
        "free_bytes": 14 * GIB,
        "keep_bytes": 0,
        "residual_bytes": 0,
        "unload": None,
        "not_parked": "",
        "spared": "",
        "for_lease": "lease-9",
        "reason": "makes room",
        "lost_s": 1.0,
    }
    return EvictionOrder(**(made | fields))


class Engine:
    """A model server's adapter that does as it is told."""

    def __init__(self, *rungs: RungName) -> None:
        self.rungs: Collection[RungName] = rungs
        self.spared = ""
        self.did: list[str] = []
        self.act: Any = lambda: None

    async def perform(self, rung: RungName) -> Claimed:
        self.did.append(rung)
        self.act()
        return Claimed(True, f"{rung} done")


class Bench:
    """An evictor, and cards that are looked at as soon as it asks."""

    def __init__(self, shell: Shell, cards: SimulatedCards, policy: LadderPolicy) -> None:
        self.shell = shell
        self.cards = cards
        self.engine: Engine | None = None
        self.owners: frozenset[ProcessId] = frozenset()
        self.told: dict[tuple[str, ...], tuple[Outcome, list[Rung]]] = {}
        self.hides = False
        self.blind = False
        self._soon = False
        self.evictor = Evictor(shell, self.look_soon, self.done, lambda _: self.engine, policy)

    def done(self, ordered: EvictionOrder, outcome: Outcome, rungs: list[Rung]) -> None:
        assert ordered.lease_ids not in self.told
        self.told[ordered.lease_ids] = outcome, rungs

    def look_soon(self) -> None:
        if not self._soon:
            self._soon = True
            self.shell.loop.call_later(0.005, self.look)

    def look(self) -> None:
        self._soon = False
        now = self.shell.clock.monotonic()
        samples = [] if self.blind else self.cards.sample(now)
        if self.hides:
            samples = [msgspec.structs.replace(sample, processes=None) for sample in samples]
        self.evictor.looked(Look(samples, told_apart(samples, self.owners).tree, now))

    async def evict(self, ordered: EvictionOrder) -> tuple[Outcome, list[Rung]]:
        if ordered.owner is not None:
            self.owners |= {ordered.owner}
        self.look()
        assert self.evictor.evict(ordered) > 0
        await until(lambda: ordered.lease_ids in self.told)
        return self.told[ordered.lease_ids]


@asynccontextmanager
async def bench(tmp_path: Path, policy: LadderPolicy = BRIEF) -> AsyncIterator[Bench]:
    shell = Shell(ShellSettings("Supervisor", "mainpc", 0))
    await shell.open()
    made = Bench(shell, two_cards(tmp_path), policy)
    try:
        yield made
    finally:
        await made.evictor.close()
        await shell.close(drain_s=0)


class AskedUnload(Message, frozen=True):
    model: str
    lease_id: str


@contextmanager
def holder(tmp_path: Path, code: str = "", gib: float = 10, card: int = 0) -> Iterator[ProcessId]:
    command = (sys.executable, "-c", code) if code else ()
    with program(*command) as process:
        use_bytes(card_folder(tmp_path, card), int(gib * GIB), process)
        yield process


def rung(rungs: list[Rung], name: RungName) -> Rung:
    return next(one for one in rungs if one.rung == name)


async def test_an_owner_without_a_verb_is_terminated_and_its_bytes_seen_to_go(tmp_path: Path) -> None:
    async with bench(tmp_path, LONG) as at:
        with holder(tmp_path) as owner:
            outcome, rungs = await at.evict(order(owner))
        assert (outcome.kind, outcome.returned_bytes, outcome.verified) == ("evicted", 10 * GIB, True)
        assert [(one.rung, one.outcome, one.claimed) for one in rungs] == [
            ("term", "freed", "TERM to 1 of its processes")
        ]
        assert len(at.evictor) == 0


async def test_an_owner_is_asked_in_its_own_words_and_lives_on(tmp_path: Path) -> None:
    asked: list[AskedUnload] = []
    async with bench(tmp_path, LONG) as at:
        with holder(tmp_path) as owner:

            def unload(request: AskedUnload, call: Call) -> Empty:
                asked.append(request)
                use_bytes(card_folder(tmp_path), 0, owner)
                return Empty()

            at.shell.handle(Verb("forget", AskedUnload, Empty, Access.USE), unload)
            how = Unload(port=at.shell.port, unload="forget", timeout_s=60)
            outcome, rungs = await at.evict(order(owner, unload=how))
            assert is_alive(*owner)
        assert asked == [AskedUnload(model="whisper", lease_id="lease-1")]
        assert (outcome.kind, outcome.rung) == ("evicted", "unload")
        assert rung(rungs, "unload").claimed == "forget: done"


async def test_an_owner_that_says_done_and_keeps_its_bytes_is_ended_rung_by_rung(tmp_path: Path) -> None:
    async with bench(tmp_path) as at:
        at.shell.handle(Verb("forget", AskedUnload, Empty, Access.USE), lambda request, call: Empty())
        with holder(tmp_path, STUBBORN) as owner:
            how = Unload(port=at.shell.port, unload="forget", timeout_s=60)
            outcome, rungs = await at.evict(order(owner, unload=how))
        assert outcome.kind == "evicted"
        assert rung(rungs, "unload").outcome == "nothing"
        assert rung(rungs, "unload").bytes_after == 10 * GIB
        assert outcome.rung == rungs[-1].rung
        assert rungs[-1].outcome == "freed"


async def test_an_owner_that_refuses_or_is_not_there_is_recorded_in_its_words(tmp_path: Path) -> None:
    def refuse(request: AskedUnload, call: Call) -> Empty:
        raise Conflict("a job is running")

    async with bench(tmp_path) as at:
        at.shell.handle(Verb("forget", AskedUnload, Empty, Access.USE), refuse)
        with holder(tmp_path) as first, holder(tmp_path, card=1) as second:
            how = Unload(port=at.shell.port, unload="forget", timeout_s=60)
            _, rungs = await at.evict(order(first, unload=how))
            assert (rungs[0].outcome, rungs[0].claimed) == ("failed", "a job is running")
            nobody = Unload(port=1, sleep="sleep", timeout_s=60)
            there = order(second, "lease-2", unload=nobody, card=OTHER_CARD)
            _, rungs = await at.evict(there)
            assert (rungs[0].rung, rungs[0].outcome) == ("sleep", "failed")


async def test_an_adapter_is_preferred_and_its_sleeper_parked(tmp_path: Path) -> None:
    async with bench(tmp_path, LONG) as at:
        at.engine = Engine("sleep", "unload", "stop")
        with holder(tmp_path) as owner:
            at.engine.act = lambda: use_bytes(card_folder(tmp_path), GIB // 4, owner)
            how = Unload(port=1, sleep="never asked")
            outcome, rungs = await at.evict(order(owner, unload=how, residual_bytes=GIB // 4))
            assert is_alive(*owner)
        assert (outcome.kind, outcome.left_bytes) == ("parked", GIB // 4)
        assert [(one.rung, one.claimed) for one in rungs] == [("sleep", "sleep done")]


async def test_a_model_that_may_not_stay_in_ram_is_unloaded(tmp_path: Path) -> None:
    async with bench(tmp_path, LONG) as at:
        at.engine = Engine("sleep", "unload", "checkpoint")
        with holder(tmp_path) as owner:
            at.engine.act = lambda: use_bytes(card_folder(tmp_path), 0, owner)
            outcome, _ = await at.evict(order(owner, not_parked="no RAM is free"))
        assert (outcome.kind, at.engine.did) == ("evicted", ["unload"])


async def test_an_adapter_that_fails_is_climbed_over(tmp_path: Path) -> None:
    async with bench(tmp_path) as at:
        at.engine = Engine("checkpoint", "stop")
        with holder(tmp_path) as owner:
            at.engine.act = lambda: 1 / 0
            outcome, rungs = await at.evict(order(owner))
        assert outcome.kind == "evicted"
        assert [one.claimed for one in rungs[:2]] == ["ZeroDivisionError: division by zero"] * 2
        assert at.engine.did == ["checkpoint", "stop"]


async def test_an_act_that_hangs_is_left_behind_in_its_time(tmp_path: Path) -> None:
    async with bench(tmp_path) as at:
        at.engine = Engine("stop")

        async def hang(_: RungName) -> Claimed:
            await asyncio.Event().wait()
            raise AssertionError

        at.engine.perform = hang  # type: ignore[method-assign]
        with holder(tmp_path) as owner:
            outcome, rungs = await at.evict(order(owner))
        assert outcome.kind == "evicted"
        assert rungs[0].claimed.startswith("no answer within 0.2 s")


async def test_the_whole_family_is_ended(tmp_path: Path) -> None:
    async with bench(tmp_path, LONG) as at:
        with program(sys.executable, "-c", PARENT) as owner:
            await until(lambda: len(process_identity.family(owner)) == 2)
            (child,) = process_identity.family(owner) - {owner}
            use_bytes(card_folder(tmp_path), 10 * GIB, child)
            outcome, rungs = await at.evict(order(owner))
            assert not is_alive(*child)
        assert (outcome.kind, outcome.returned_bytes) == ("evicted", 10 * GIB)
        assert rungs[0].claimed == "TERM to 2 of its processes"


async def test_an_owner_that_dies_by_itself_ends_it(tmp_path: Path) -> None:
    async with bench(tmp_path, LONG) as at:
        at.engine = Engine("unload")
        with holder(tmp_path) as owner:
            at.engine.act = lambda: os.kill(owner.pid, signal.SIGKILL)
            outcome, rungs = await at.evict(order(owner))
        assert (outcome.kind, outcome.reason) == ("evicted", "its owner ended by itself")
        assert [one.rung for one in rungs] == ["unload"]


async def test_another_process_with_the_owners_pid_is_never_signalled(tmp_path: Path) -> None:
    async with bench(tmp_path) as at:
        with holder(tmp_path) as innocent:
            outcome, _ = await at.evict(order(ProcessId(innocent.pid, innocent.start_time - 1)))
            assert is_alive(*innocent)
        assert (outcome.kind, outcome.returned_bytes) == ("evicted", 0)


async def test_this_process_and_those_it_descends_from_are_never_ended(tmp_path: Path) -> None:
    me = process_identity.this_process()
    parent = process_identity.identify(os.getppid())
    async with bench(tmp_path) as at:
        for number, owner in enumerate(filter(None, (me, parent))):
            use_bytes(card_folder(tmp_path), GIB, owner)
            outcome, rungs = await at.evict(order(owner, f"lease-{number}"))
            assert (outcome.kind, outcome.left_bytes) == ("quarantined", GIB)
            assert [one.rung for one in rungs] == ["quarantine"]
            use_bytes(card_folder(tmp_path), 0, owner)


async def test_an_owner_of_other_leases_is_asked_and_never_ended(tmp_path: Path) -> None:
    async with bench(tmp_path) as at:
        at.engine = Engine("unload")
        with holder(tmp_path) as owner:
            ordered = order(owner, expected_bytes=6 * GIB, keep_bytes=4 * GIB, spared="it holds lease-2 too")
            outcome, rungs = await at.evict(ordered)
            assert is_alive(*owner)
        assert (outcome.kind, outcome.left_bytes) == ("quarantined", 6 * GIB)
        assert [one.rung for one in rungs] == ["unload", "quarantine"]


async def test_where_processes_are_hidden_the_card_tells(tmp_path: Path) -> None:
    async with bench(tmp_path, LONG) as at:
        at.hides = True
        with holder(tmp_path) as owner:
            outcome, _ = await at.evict(order(owner))
        assert (outcome.kind, outcome.verified, outcome.returned_bytes) == ("evicted", False, 10 * GIB)


async def test_what_no_look_can_show_is_quarantined(tmp_path: Path) -> None:
    policy = msgspec.structs.replace(BRIEF, kill_s=0.2)
    async with bench(tmp_path, policy) as at:
        with holder(tmp_path) as owner:
            at.blind = True
            outcome, rungs = await at.evict(order(owner))
        assert (outcome.kind, outcome.left_bytes) == ("quarantined", 10 * GIB)
        assert "no look at the card followed" in rungs[0].claimed


async def test_an_owner_that_is_not_known_can_only_be_asked(tmp_path: Path) -> None:
    async with bench(tmp_path) as at:
        at.engine = Engine("unload", "stop")
        outcome, rungs = await at.evict(order())
        assert [one.rung for one in rungs] == ["unload", "quarantine"]
        assert not outcome.verified


async def test_evictions_run_side_by_side_and_each_is_told_once(tmp_path: Path) -> None:
    async with bench(tmp_path, LONG) as at:
        with holder(tmp_path, gib=5) as one, holder(tmp_path, gib=6) as two, holder(tmp_path, gib=7, card=1) as three:
            at.owners = frozenset((one, two, three))
            orders = [
                order(one, "a", expected_bytes=5 * GIB),
                order(two, "b", expected_bytes=6 * GIB),
                order(three, "c", expected_bytes=7 * GIB, card=OTHER_CARD),
            ]
            at.look()
            bounds = [at.evictor.evict(each) for each in orders]
            assert at.evictor.evict(orders[0]) == bounds[0]
            assert len(at.evictor) == 3
            await until(lambda: len(at.told) == 3)
        assert [at.told[key][0].returned_bytes for key in (("a",), ("b",), ("c",))] == [5 * GIB, 6 * GIB, 7 * GIB]


async def test_closing_leaves_what_is_under_way_and_tells_nobody(tmp_path: Path) -> None:
    async with bench(tmp_path, LONG) as at:
        at.engine = Engine("unload")
        with holder(tmp_path) as owner:
            at.evictor.evict(order(owner))
            await until(lambda: at.engine is not None and at.engine.did == ["unload"])
            await at.evictor.close()
            assert is_alive(*owner)
        at.look()
        assert (len(at.evictor), at.told) == (0, {})


async def test_an_owner_that_cannot_be_watched_is_looked_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_pidfd(pid: int) -> int:
        raise OSError(24, "Too many open files")

    async with bench(tmp_path, LONG) as at:
        at.engine = Engine("unload")
        with holder(tmp_path) as owner:
            at.engine.act = lambda: os.kill(owner.pid, signal.SIGKILL)
            monkeypatch.setattr(os, "pidfd_open", no_pidfd)
            outcome, _ = await at.evict(order(owner))
        assert outcome.reason == "its owner ended by itself"


async def test_what_may_not_be_signalled_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(pidfd: int, number: int) -> None:
        raise PermissionError

    policy = msgspec.structs.replace(BRIEF, kill_s=0.2)
    async with bench(tmp_path, policy) as at:
        with holder(tmp_path) as owner:
            monkeypatch.setattr(signal, "pidfd_send_signal", refused)
            outcome, rungs = await at.evict(order(owner))
        assert outcome.kind == "quarantined"
        assert rungs[0].claimed == f"TERM to 0 of its processes; {owner.pid} may not be signalled from here"


async def test_a_lease_on_two_cards_is_gone_when_both_show_it(tmp_path: Path) -> None:
    async with bench(tmp_path, LONG) as at:
        with holder(tmp_path) as owner:
            use_bytes(card_folder(tmp_path, 1), 10 * GIB, owner)
            outcome, _ = await at.evict(order(owner, card_uuids=(CARD, OTHER_CARD)))
        assert (outcome.kind, outcome.returned_bytes) == ("evicted", 20 * GIB)


async def test_each_lease_is_asked_for_and_none_by_a_verb_of_the_fabric(tmp_path: Path) -> None:
    asked: list[str] = []

    def unload(request: AskedUnload, call: Call) -> Empty:
        asked.append(request.lease_id)
        return Empty()

    async with bench(tmp_path) as at:
        at.shell.handle(Verb("forget", AskedUnload, Empty, Access.USE), unload)
        with holder(tmp_path) as owner:
            how = Unload(port=at.shell.port, sleep="stop_agent", unload="forget", timeout_s=60)
            _, rungs = await at.evict(order(owner, "a", "b", unload=how))
        assert asked == ["a", "b"]
        assert rung(rungs, "sleep").claimed == "stop_agent is a verb of the fabric, and gives no memory back"


def ends_within_this_turn(process: ProcessId) -> None:
    os.kill(process.pid, signal.SIGKILL)
    deadline = time.monotonic() + 60
    while is_alive(*process):
        assert time.monotonic() < deadline


async def test_until_it_is_told_what_came_of_it_an_eviction_concerns_its_owner(tmp_path: Path) -> None:
    async with bench(tmp_path, LONG) as at:
        with holder(tmp_path) as owner:
            ordered = order(owner)
            at.look()
            at.evictor.evict(ordered)
            ends_within_this_turn(owner)
            while len(at.evictor):
                at.look()
            assert not at.told, "it is told in a turn of its own"
            assert at.evictor.concerns(owner)
            at.evictor.evict(ordered)
            assert len(at.evictor) == 0, "and is not begun anew"
            await until(lambda: bool(at.told))
            assert not at.evictor.concerns(owner)


def test_what_an_act_or_an_answer_brings_about_is_looked_for_at_once_and_then_ever_later(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("common.service.shell.SystemClock", clock_of_loop)

    async def main() -> None:
        clock, engine, answers = clock_of_loop(), Engine("sleep"), asyncio.Event()
        looked_at: list[float] = []

        async def slow(_: RungName) -> Claimed:
            await answers.wait()
            return Claimed(True, "done")

        async def passes(ms: int) -> list[int]:
            """After how many milliseconds looks were asked for."""
            looked_at.clear()
            began = clock.now
            for _ in range(ms):
                clock.now += 0.001
                for _ in range(4):
                    await asyncio.sleep(0)
            return [round((at - began) * 1_000) for at in looked_at]

        monkeypatch.setattr(engine, "perform", slow)
        shell = Shell(ShellSettings("Supervisor", "mainpc", 0))
        evictor = Evictor(
            shell,
            lambda: looked_at.append(clock.now),
            lambda *_: None,
            lambda _: engine,
            LONG,
        )
        evictor.evict(order())
        while_it_acts = await passes(300)
        answers.set()
        once_it_answered = await passes(60)
        await evictor.close()
        assert while_it_acts == [2, 4, 8, 16, 32, 64, 114, 164, 214, 264]
        assert once_it_answered == [1, 3, 5, 9, 17, 33]
        assert await passes(200) == []
        await shell.close(drain_s=0)

    with asyncio.Runner(loop_factory=ManualLoop) as runner:
        runner.run(main())
