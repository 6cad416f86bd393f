from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import random
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import msgspec
import pynvml
import pytest
import zmq

from common.api import gpus, leases
from common.client.aio import Event
from common.errors import NoCapacity
from common.gpu.cards import CardSource
from common.gpu.nvml import NvmlCards
from common.gpu.process_identity import identify
from common.gpu.simulated import GIB, CardFile, create_card, use_bytes
from common.supervisor.leasing import card_watch, sampling
from common.vram.cards import CardSample, ProcessId
from tests.common.service.lab import Peer, peer, raises, until
from tests.common.supervisor.leasing.lab import (
    SUPERVISOR,
    TOTALS,
    Host,
    asking,
    card_folder,
    host,
    owner,
    program,
    two_cards,
)
from tests.lab.nvml.stand_in import build_stand_in


def fault(tmp_path: Path, what: Any, index: int = 0) -> None:
    file = card_folder(tmp_path, index) / "card.json"
    card = msgspec.json.decode(file.read_bytes(), type=CardFile)
    create_card(file.parent, msgspec.structs.replace(card, fault=what))


async def looked(mainpc: Host) -> None:
    """Wait for a look that began after now."""
    for _ in range(2):
        mainpc.leases._cards.look_soon()
        await mainpc.leases._cards.next_look(10)


async def test_a_lost_card_keeps_its_leases_and_takes_no_new_ones(tmp_path: Path) -> None:
    async with host(two_cards(tmp_path)) as mainpc:
        held = await mainpc.granted(20)
        fault(tmp_path, "lost")
        await looked(mainpc)
        card = await mainpc.card(0)
        assert (card["schedulable"], card["reason"]) == (False, "Simulated 24 GiB: the card has fallen off the bus")
        assert await mainpc.held() == [held["lease_id"]]
        refused = await mainpc.acquire(2, card_uuid=card["card_uuid"])
        assert raises(NoCapacity, refused)
        assert "fallen off the bus" in refused["error"]
        health = await mainpc.ask("ping")
        assert (health["status"], health["reasons"]) == ("degraded", [f"mainpc:0 {card['reason']}"])
        fault(tmp_path, "")
        await looked(mainpc)
        assert (await mainpc.ask("ping"))["status"] == "ok"
        assert (await mainpc.release(held))["status"] == "success"


async def test_a_stranger_is_named_counted_and_left_alone(tmp_path: Path) -> None:
    async with host(two_cards(tmp_path)) as mainpc:
        with program() as stranger, program() as holder:
            await mainpc.granted(1, owner=owner(holder))
            use_bytes(card_folder(tmp_path), 10 * GIB, stranger)
            await looked(mainpc)
            card = await mainpc.card(0)
            assert card["strangers"] == [{"pid": stranger.pid, "name": "sleep", "bytes": 10 * GIB}]
            assert raises(NoCapacity, await mainpc.acquire(14))
            assert identify(stranger.pid) == stranger


class Gate:
    """Cards whose looks are handed over when the test says so, as they were when they were taken."""

    def __init__(self, cards: CardSource) -> None:
        self._cards = cards
        self.taken = threading.Event()
        self.open = threading.Event()
        self.open.set()

    def sample(self, now: float) -> list[CardSample]:
        found = self._cards.sample(now)
        self.taken.set()
        assert self.open.wait(60)
        return found

    def close(self) -> None:
        self._cards.close()


async def test_the_family_of_who_leases_while_the_cards_are_looked_at_is_no_stranger(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate, trees = Gate(two_cards(tmp_path)), list[dict[int, int]]()
    async with host(gate) as mainpc:
        writer = mainpc.leases._writer
        measure = writer.measure

        def measured(look: sampling.Look) -> None:
            trees.append(look.tree)
            measure(look)

        monkeypatch.setattr(writer, "measure", measured)
        with program("sh", "-c", "sleep 1000 & wait") as parent:
            await until(lambda: len(children(parent)) == 1)
            (child,) = children(parent)
            use_bytes(card_folder(tmp_path), 2 * GIB, child)
            await looked(mainpc)
            gate.open.clear()
            gate.taken.clear()
            mainpc.leases._cards.look_soon()
            await until(gate.taken.is_set)
            await mainpc.granted(4, owner=owner(parent))
            trees.clear()
            gate.open.set()
            await until(lambda: bool(trees))
            assert trees[0] == {child.pid: parent.pid}
            os.kill(child.pid, signal.SIGKILL)


async def test_nothing_is_granted_beside_a_loader_on_bytes_that_it_has_taken_since_the_last_look(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It leased 6 GiB, was seen with 5, and holds 18 by the time that somebody asks for 8 on its card."""
    monkeypatch.setattr(card_watch, "BUSY_LOOK_S", 1_000.0)
    async with host(two_cards(tmp_path)) as mainpc:
        with program() as liar:
            uuid = (await mainpc.card(0))["card_uuid"]
            held = await mainpc.granted(6, card_uuid=uuid, owner=owner(liar))
            use_bytes(card_folder(tmp_path), 5 * GIB, liar)
            mainpc.leases._cards.look_soon()
            await until(lambda: mainpc.leases.own.find(held["lease_id"]).measured_bytes == 5 * GIB)
            use_bytes(card_folder(tmp_path), 18 * GIB, liar)
            assert raises(NoCapacity, await mainpc.acquire(8, card_uuid=uuid))
            assert (await mainpc.card(0))["measured_bytes"] == 18 * GIB
            assert mainpc.leases.own.find(held["lease_id"]).bytes == 6 * GIB, "one look corrects no lease"


def children(parent: ProcessId) -> list[ProcessId]:
    listed = Path(f"/proc/{parent.pid}/task/{parent.pid}/children").read_text().split()
    return [child for pid in listed if (child := identify(int(pid))) is not None]


async def test_a_lease_owns_its_owners_process_tree(tmp_path: Path) -> None:
    spawn = "import subprocess, sys; child = subprocess.Popen(['sleep', '1000']); child.wait()"
    async with host(two_cards(tmp_path)) as mainpc:
        with program(sys.executable, "-c", spawn) as parent:
            await until(lambda: bool(children(parent)))
            (child,) = children(parent)
            await mainpc.granted(5, owner=owner(parent))
            use_bytes(card_folder(tmp_path, 1), 4 * GIB, child)
            use_bytes(card_folder(tmp_path, 1), 1 * GIB, parent)
            await looked(mainpc)
            (lease,) = (await mainpc.ask("list_leases"))["leases"]
            assert (lease["measured_bytes"], lease["verified"]) == (5 * GIB, True)
            assert (await mainpc.card(1))["strangers"] == []
            os.kill(child.pid, signal.SIGKILL)


async def test_the_cards_are_published_when_they_change_and_at_rest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("common.supervisor.leasing.card_watch.PUBLISH_S", 0.3)
    async with host(two_cards(tmp_path)) as mainpc:
        live, seen = asyncio.Event(), []

        async def follow() -> None:
            async for notice in mainpc.client.events(SUPERVISOR, [gpus.CARDS_SAMPLED.name], live=live.set):
                assert isinstance(notice, Event)
                assert notice.entity == "mainpc"
                seen.append(msgspec.json.decode(notice.body, type=gpus.CardsSampled))

        following = asyncio.create_task(follow())
        await live.wait()
        await until(lambda: len(seen) >= 2)
        await mainpc.granted(10)
        await until(lambda: seen[-1].cards[1].leased_bytes == 10 * GIB)
        following.cancel()


class HangingCards:
    """Cards whose driver stops answering, or fails, until told."""

    def __init__(self, cards: Any) -> None:
        self.cards = cards
        self.answers = threading.Event()
        self.answers.set()
        self.error: Exception | None = None
        self.closed = threading.Event()

    def sample(self, now: float) -> list[CardSample]:
        self.answers.wait()
        if self.error is not None:
            raise self.error
        return list(self.cards.sample(now))

    def close(self) -> None:
        self.closed.set()


async def test_a_driver_that_hangs_closes_the_cards_and_holds_nobody_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("common.supervisor.leasing.card_leases.SETTLE_S", 0.05)
    monkeypatch.setattr(sampling, "END_S", 0.05)
    cards = HangingCards(two_cards(tmp_path))
    async with host(cards) as mainpc:
        held = await mainpc.granted(20)
        cards.answers.clear()
        mainpc.leases._cards.look_soon()
        await until(lambda: mainpc.leases._cards._sampler is not None and mainpc.leases._cards._sampler.looking)
        await mainpc.release(held)
        assert raises(NoCapacity, await mainpc.acquire(20))
        later = mainpc.shell.clock.monotonic
        monkeypatch.setattr(mainpc.leases._cards, "_now", lambda: later() + 6.0)
        monkeypatch.setattr(mainpc.leases._serving, "_now", lambda: later() + 6.0)
        refused = await mainpc.acquire(1)
        assert raises(NoCapacity, refused)
        assert "last measured" in refused["error"]
        await until(lambda: "cards" in mainpc.shell.problems)
        assert "mainpc's driver has not answered for" in (await mainpc.ask("ping"))["reasons"][0]
        await mainpc.leases.close()
        assert not cards.closed.is_set()
        cards.answers.set()
    await until(cards.closed.is_set)


async def test_beside_a_loader_nothing_is_granted_while_the_driver_hangs_and_who_waits_is_with_its_next_look(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(card_watch, "BUSY_LOOK_S", 1_000.0)
    monkeypatch.setattr("common.supervisor.leasing.card_leases.SETTLE_S", 0.05)
    cards = HangingCards(two_cards(tmp_path))
    async with host(cards) as mainpc:
        with program() as loader:
            uuid = (await mainpc.card(0))["card_uuid"]
            held = await mainpc.granted(6, card_uuid=uuid, owner=owner(loader))
            use_bytes(card_folder(tmp_path), 5 * GIB, loader)
            mainpc.leases._cards.look_soon()
            await until(lambda: mainpc.leases.own.find(held["lease_id"]).measured_bytes == 5 * GIB)
            cards.answers.clear()
            assert raises(NoCapacity, await mainpc.acquire(8, card_uuid=uuid))
            wanted = asking(8, card_uuid=uuid, wait_s=60.0)
            waiting = asyncio.create_task(mainpc.client.call(SUPERVISOR, leases.ACQUIRE_LEASE, wanted))
            await until(lambda: bool(len(mainpc.leases._line)))
            mainpc.leases._serving.serve()
            assert len(mainpc.leases._line) == 1
            cards.answers.set()
            assert (await waiting).card_uuid == uuid


async def test_a_look_that_fails_closes_the_cards_until_one_does_not(tmp_path: Path) -> None:
    cards = HangingCards(two_cards(tmp_path))
    async with host(cards) as mainpc:
        cards.error = RuntimeError("a bug")
        await looked(mainpc)
        refused = await mainpc.acquire(1)
        assert raises(NoCapacity, refused)
        assert "the cards could not be looked at: RuntimeError: a bug" in str(refused["details"]["cards"])
        cards.error = None
        await looked(mainpc)
        await mainpc.granted(1)
    assert cards.closed.is_set()


async def test_a_start_does_not_wait_long_for_a_driver_that_hangs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("common.supervisor.leasing.card_watch.FIRST_LOOK_S", 0.05)
    cards = HangingCards(two_cards(tmp_path))
    cards.answers.clear()
    async with host(cards) as mainpc:
        refused = await mainpc.acquire(1)
        assert raises(NoCapacity, refused)
        assert "the cards have not been measured yet" in refused["error"]
        assert (await mainpc.ask("ping"))["reasons"] == ["the cards have not been measured yet"]
        asked = asyncio.create_task(mainpc.acquire(1, wait_s=30))
        await until(lambda: len(mainpc.leases._line) == 1)
        cards.answers.set()
        assert (await asked)["status"] == "success"


async def test_a_look_whose_loop_has_gone_ends_the_thread(tmp_path: Path) -> None:
    cards = HangingCards(two_cards(tmp_path))

    async def look_and_leave() -> sampling.Sampler:
        from common.telemetry.system_clock import SystemClock

        sampler = sampling.Sampler(cards, SystemClock(), asyncio.get_running_loop(), lambda look: None)
        cards.answers.clear()
        sampler.look(frozenset())
        sampler.look(frozenset())
        return sampler

    sampler = await asyncio.to_thread(asyncio.run, look_and_leave())
    cards.answers.set()
    await asyncio.to_thread(sampler._thread.join, 10)
    assert cards.closed.is_set()


@pytest.fixture(scope="module")
def nvml_library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_stand_in(tmp_path_factory.mktemp("nvml"))


@pytest.fixture
def nvml(tmp_path: Path, nvml_library: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two cards that are seen through NVML's real binding."""
    two_cards(tmp_path)
    monkeypatch.setattr(pynvml, "nvmlLib", ctypes.CDLL(str(nvml_library)))
    monkeypatch.setattr(pynvml, "_nvmlGetFunctionPointer_cache", {})
    monkeypatch.setenv("TANDEM_SIMULATED_CARDS", str(card_folder(tmp_path).parent))
    monkeypatch.delenv("TANDEM_NVML_WITHOUT", raising=False)


@pytest.mark.usefixtures("nvml")
async def test_an_ill_card_takes_no_new_lease_says_why_and_keeps_those_it_has(tmp_path: Path) -> None:
    async with host(NvmlCards("mainpc")) as mainpc:
        held = await mainpc.granted(20)
        ills: list[tuple[dict[str, Any], str]] = [
            ({"temperature_c": 89.0, "slowdown_c": 90.0}, "too hot: 89 °C of 90 °C; open again at 80 °C"),
            ({"temperature_c": 85.0, "slowdown_c": 90.0}, "too hot: 85 °C of 90 °C; open again at 80 °C"),
            ({"temperature_c": 75.0, "slowdown_c": 90.0}, ""),
            ({"throttled": ("hw-thermal",)}, "too hot: 35 °C of 90 °C, and slowed by its hardware"),
            ({}, ""),
            ({"uncorrected_errors": 3}, "uncorrected memory errors since its driver was loaded: 3"),
            ({"repair_pending": True}, "broken memory waits to be replaced by spare memory"),
            ({"xids": (31,)}, ""),
            ({"xids": (31, 79)}, "the driver reported XID 79, it fell off the bus"),
        ]
        for told, why in ills:
            create_card(card_folder(tmp_path), CardFile(held["card_uuid"], "card", TOTALS[0], **told))
            await looked(mainpc)
            card = await mainpc.card(0)
            assert card["schedulable"] is not bool(why), (told, card["reason"])
            assert card["reason"].startswith(why)
            assert await mainpc.held() == [held["lease_id"]]
            refused = await mainpc.acquire(2, card_uuid=card["card_uuid"])
            if why:
                assert raises(NoCapacity, refused)
                assert why in refused["error"]
            else:
                assert (await mainpc.release(refused))["status"] == "success"


@pytest.mark.usefixtures("nvml")
async def test_the_leases_of_a_card_that_fell_off_the_bus_end_after_a_grace(tmp_path: Path) -> None:
    async with host(NvmlCards("mainpc")) as mainpc:
        with program() as process:
            held = await mainpc.granted(20, owner=owner(process))
            other = await mainpc.granted(4, card_uuid=(await mainpc.card(1))["card_uuid"])
            fault(tmp_path, "lost")
            await looked(mainpc)
            card = await mainpc.card(0)
            assert (card["schedulable"], "fallen off the bus" in card["reason"]) == (False, True)
            assert await mainpc.held() == [held["lease_id"], other["lease_id"]]
            table = mainpc.leases._writer.table
            decision = table.expire(mainpc.shell.clock.monotonic() + 31.0, mainpc.shell.clock.timestamp())
            mainpc.leases._record(decision)
            assert await mainpc.held() == [other["lease_id"]]
            assert (await mainpc.decisions(held["lease_id"]))[-1] == "card-lost"
            assert identify(process.pid) == process, "what its process does is between it and the card"


@pytest.mark.usefixtures("nvml")
async def test_nvmls_real_binding_serves_the_same_leases(tmp_path: Path) -> None:
    async with host(NvmlCards("mainpc")) as mainpc:
        with program() as process:
            granted = await mainpc.granted(20, owner=owner(process))
            use_bytes(card_folder(tmp_path), 19 * GIB, process)
            await looked(mainpc)
            (lease,) = (await mainpc.ask("list_leases"))["leases"]
            assert (lease["measured_bytes"], lease["verified"]) == (19 * GIB, True)
            os.kill(process.pid, signal.SIGKILL)
            await until(lambda: mainpc.leases._writer.decided["owner-died"] == 1)
        assert (await mainpc.granted(20))["card_uuid"] == granted["card_uuid"]


OUTSIDE = """
import os, sys, time
def started(pid):
    try: text = open(f"/proc/{pid}/stat").read()
    except OSError: return None
    fields = text.rpartition(")")[2].split()
    return None if fields[0] in "ZX" else fields[19]
most = {folder: 0 for folder in sys.argv[1:]}
reads = 0
print("counting", flush=True)
while not os.path.exists(sys.argv[1] + "/stop"):
    for folder in most:
        used = 0
        for entry in os.listdir(folder + "/processes"):
            pid, _, start = entry.partition("-")
            if pid.isdigit():
                try: held = int(open(f"{folder}/processes/{entry}").read())
                except OSError: continue
                used += held if started(pid) == start else 0
        most[folder] = max(most[folder], used)
    reads += 1
    time.sleep(0.001)
print(reads, *most.values())
"""
"""Counts, without anything of Tandem's, the most bytes that living processes ever used on each card at once."""


@pytest.mark.parametrize("seed", [1, 2, 3])
async def test_fifty_at_once_never_exceed_a_card(tmp_path: Path, seed: int) -> None:
    folders = [card_folder(tmp_path, index) for index in (0, 1)]
    rng = random.Random(seed)
    async with host(two_cards(tmp_path)) as mainpc, _outside(folders) as most:

        async def hold(number: int, caller: Peer) -> None:
            gib, kills = rng.choice((2, 3, 5, 8, 11)), number % 3 == 0
            with program() as process:
                fields = {"model": f"m{number}", "bytes": gib * GIB, "wait_s": 60, "owner": owner(process)}
                granted = await caller.plain("acquire_lease", **fields)
                assert granted["status"] == "success", granted
                folder = folders[granted["card"]]
                use_bytes(folder, gib * GIB, process)
                await asyncio.sleep(rng.uniform(0.0, 0.05))
                if kills:
                    os.kill(process.pid, signal.SIGKILL)
                    return
                use_bytes(folder, 0, process)
                release = {"lease_id": granted["lease_id"], "fencing_token": granted["fencing_token"]}
                await caller.plain("release_lease", **release)

        async with contextlib.AsyncExitStack() as stack:
            callers = [await stack.enter_async_context(peer(mainpc.shell.port, zmq.DEALER)) for _ in range(50)]
            for caller in callers:
                caller.socket.setsockopt(zmq.LINGER, 0)
            async with asyncio.timeout(90):
                await asyncio.gather(*(hold(number, caller) for number, caller in enumerate(callers)))
        await until(lambda: len(mainpc.leases._writer.table) == 0)
    for used, total in zip(most, TOTALS, strict=True):
        assert 0 < used <= total


@contextlib.asynccontextmanager
async def _outside(folders: list[Path]) -> Any:
    """The outside counter at work; what it yields is filled at the end."""
    command = [sys.executable, "-c", OUTSIDE, *map(str, folders)]
    child = await asyncio.create_subprocess_exec(*command, stdout=subprocess.PIPE, stdin=subprocess.DEVNULL)
    assert child.stdout is not None
    most: list[int] = []
    try:
        await child.stdout.readline()
        yield most
        (folders[0] / "stop").touch()
        most += map(int, (await child.stdout.readline()).split()[1:])
    finally:
        with contextlib.suppress(ProcessLookupError):
            child.kill()
        await child.wait()
