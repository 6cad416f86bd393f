"""Models that need a card and host RAM, where that RAM is short: who goes for them, and who stays."""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path
from typing import Any

import psutil
import pytest

from common.api.leases import Lease
from common.api.supervisor import AdmitLease
from common.config.models import Model, Needs
from common.config.units import Size
from common.errors import StorageUnavailable
from common.supervisor.leasing.serving import DRAIN_AFTER_S
from common.supervisor.models.making_way import MakingWay
from common.supervisor.models.managed import Managed
from common.vram.demand import Horizon
from common.vram.lease_beside import Beside
from common.vram.resources import Spare
from tests.common.supervisor.lives import until
from tests.common.supervisor.models.desk import Desk
from tests.common.supervisor.models.desk import model as entry
from tests.common.supervisor.models.lab import GIB, Lab, lab, model
from tests.common.supervisor.models.test_host_room import held, spare

pytestmark = pytest.mark.usefixtures("wrappers")


def half() -> Needs:
    """More host RAM than two could lease together."""
    return Needs(ram=Size(int(psutil.virtual_memory().total * 0.45)))


def in_ram(name: str, gib: float = 3, **fields: Any) -> Model:
    return model(name, gib, needs=half(), **fields)


async def reasons(it: Lab, name: str) -> list[str]:
    """Why the model's lease was decided about as it was, first to last."""
    receipts = (await it.host.ask("explain", subject=name))["receipts"]
    return [f"{receipt['decision']}: {receipt['reason']}" for receipt in reversed(receipts)]


async def test_an_idle_engine_goes_for_one_that_needs_its_host_ram_beside_a_card(tmp_path: Path) -> None:
    async with lab(tmp_path, [in_ram("a"), in_ram("b")], cards_gib=(24,)) as it:
        first = await it.use("a")
        waiting = asyncio.create_task(it.told("b"))
        await until(lambda: "of host RAM needed" in it.managed("b").short)
        short = it.managed("b").short
        assert "leased: a" in short
        assert short.endswith("nobody idle who may go for it holds enough of that")
        assert it.state("a") == "ready", "who is in use goes for nobody"
        await it.back(first)
        told, ready = await waiting
        await it.back(ready)
        assert {part.phase for part in told} <= {"queued", "loading"}
        assert any(part.for_host and "of host RAM needed" in part.reason for part in told)
        assert ready.of_host
        assert await it.states() == {"a": "absent", "b": "ready"}
        assert (await it.decisions("a"))[-1] == "evicted"
        assert "expiring: makes room for b" in await reasons(it, "a")
        assert it.managed("b").short == ""


async def test_no_idle_engine_goes_for_host_ram_while_the_card_cannot_be_had(tmp_path: Path) -> None:
    models = [in_ram("idle", 1), model("busy", 8), in_ram("b", 8)]
    async with lab(tmp_path, models, cards_gib=(12,)) as it:
        await it.back(await it.use("idle"))
        used = await it.use("busy")
        waiting = asyncio.create_task(it.told("b"))
        await until(lambda: it.state("b") == "queued")
        assert await it.states() == {"idle": "ready", "busy": "ready", "b": "queued"}
        assert it.managed("b").short == ""
        await it.back(used)
        told, ready = await waiting
        await it.back(ready)
        assert "b waits for room: it needs 8.2 GiB" in {part.reason for part in told}
        assert await it.states() == {"idle": "absent", "busy": "absent", "b": "ready"}
        assert (await it.decisions("idle"))[-1] == "evicted"


async def test_no_lease_leaves_the_card_while_the_host_ram_cannot_be_had(tmp_path: Path) -> None:
    models = [in_ram("busy", 1), model("idle", 8), in_ram("b", 8)]
    async with lab(tmp_path, models, cards_gib=(12,)) as it:
        used = await it.use("busy")
        await it.back(await it.use("idle"))
        waiting = asyncio.create_task(it.use("b"))
        await until(lambda: "nobody idle" in it.managed("b").short)
        assert await it.states() == {"busy": "ready", "idle": "ready", "b": "queued"}
        await it.back(used)
        await it.back(await waiting)
        assert await it.states() == {"busy": "absent", "idle": "absent", "b": "ready"}


async def test_one_that_holds_both_goes_alone(tmp_path: Path) -> None:
    small = Needs(ram=Size(half().ram // 2))
    models = [in_ram("both", 8), model("cheap", 1, load_s=1.0, needs=small), model("b", 8, needs=small)]
    async with lab(tmp_path, models, cards_gib=(12,)) as it:
        await it.back(await it.use("both"))
        await it.back(await it.use("cheap"))
        await it.back(await it.use("b"))
        assert await it.states() == {"both": "absent", "cheap": "ready", "b": "ready"}


async def test_an_agent_that_holds_host_ram_and_does_nothing_goes_for_a_model_that_needs_it(tmp_path: Path) -> None:
    async with lab(tmp_path, [in_ram("b")], cards_gib=(24,)) as it:
        agent = await asyncio.create_subprocess_exec("sleep", "600")
        try:
            owner = {"agent_name": "indexer", "host": "h", "pid": agent.pid}
            asked = {"model": "index", "bytes": GIB, "ram_bytes": int(half().ram), "owner": owner}
            lease = await it.host.ask("acquire_lease", **asked)
            assert lease["status"] == "success", lease
            waiting = asyncio.create_task(it.use("b"))
            await until(lambda: "nobody idle" in it.managed("b").short)
            assert "leased: index" in it.managed("b").short
            assert agent.returncode is None, "who is in use goes for nobody"
            held = {"lease_id": lease["lease_id"], "fencing_token": lease["fencing_token"]}
            await it.host.ask("mark_lease", **held, in_use=False)
            await it.back(await waiting)
            assert await asyncio.wait_for(agent.wait(), 60) == -signal.SIGTERM
            assert "expiring: makes room for b" in await reasons(it, "index")
            assert (await it.decisions("index"))[-1] == "evicted"
        finally:
            if agent.returncode is None:
                agent.kill()
                await agent.wait()


class Ledger:
    """What the host's ledger says: host RAM is short, and the card can be had or not. It notes who goes and what is kept."""

    def __init__(self, desk: Desk, *there: Lease) -> None:
        self.desk = desk
        self.there = list(there)
        self.leaving: frozenset[str] | None = frozenset()
        self.drains: list[bool] = []
        self.refuses = False
        self.spare: Spare | None = spare()
        self.gone: list[str] = []
        self.kept: dict[str, tuple[int, str]] = {}
        self.waits = True
        self.horizon = Horizon()
        self.leases = self
        self.way = MakingWay(desk.roster, self, self)  # type: ignore[arg-type]

    def waited_for(self, name: str) -> AdmitLease | None:
        if not self.waits:
            return None
        return AdmitLease(model=name, bytes=GIB, lease_id=f"new-{name}", ram_bytes=8 * GIB)

    def beside_cards(self, priority: int) -> list[Lease]:
        return self.there

    def evict(self, lease_ids: list[str], reason: str, *, for_good: bool) -> None:
        assert for_good, "one that slept would keep its RAM"
        assert self.kept, "what it gives back is kept before it goes"
        self.gone += [f"{lease_id}: {reason}" for lease_id in lease_ids]

    def next_id(self, name: str) -> str:
        return f"next-{name}"

    def host_spare(self, lease_id: str) -> Spare | None:
        return self.spare

    def keep_of_host(self, wanted: Beside, lease_id: str, model: str, own: str) -> None:
        if self.refuses:
            raise StorageUnavailable("the disk is full")
        self.kept[lease_id] = (wanted.ram_bytes, model)

    def forget_room(self, lease_id: str) -> None:
        if self.refuses:
            raise StorageUnavailable("the disk is full")
        del self.kept[lease_id]

    def short_of_host(self, asked: AdmitLease) -> str:
        return "8 GiB of host RAM needed"

    def would_leave(self, asked: AdmitLease, *, draining: bool) -> frozenset[str] | None:
        self.drains.append(draining)
        return self.leaving

    def put_away(self, managed: Managed, reason: str, *, to_stop: bool) -> None:
        if self.refuses:
            raise StorageUnavailable("the disk is full")
        assert to_stop, "one that slept would keep its RAM"
        assert self.kept, "what it gives back is kept before it goes"
        self.gone.append(f"{managed.model.name}: {reason}")

    def look(self) -> str:
        self.way.look(self.desk.now)
        return self.desk.managed("b").short


def waits_beside_an_idle_one() -> Ledger:
    needs = Needs(ram=Size(8 * GIB))
    desk = Desk(entry("a", needs=needs), entry("b", needs=needs))
    desk.loaded("a")
    desk.ask("b", asked_at=desk.now)
    desk.does()
    return Ledger(desk, held("l-a", 8))


def test_nobody_goes_before_the_card_is_to_be_had_as_well() -> None:
    ledger = waits_beside_an_idle_one()
    ledger.leaving = None
    assert ledger.look() == "8 GiB of host RAM needed; nobody goes for that while no card can be had for b"
    assert ledger.gone == []
    ledger.leaving = frozenset()
    assert ledger.look().endswith("nobody idle who may go for it holds enough of that")
    assert ledger.gone == ["a: makes room for b"]
    ledger.there = [held("l-a", 8, state="expiring")]
    assert ledger.look() == "8 GiB of host RAM needed; who is idle goes for it"
    assert ledger.gone == ["a: makes room for b"]


def test_leases_in_use_are_in_question_on_the_card_once_the_wait_is_long() -> None:
    ledger = waits_beside_an_idle_one()
    ledger.look()
    ledger.desk.now += DRAIN_AFTER_S
    ledger.look()
    assert ledger.drains == [False, True]


def test_who_cannot_be_put_away_now_is_tried_again() -> None:
    ledger = waits_beside_an_idle_one()
    ledger.refuses = True
    ledger.look()
    assert ledger.gone == []
    ledger.refuses = False
    ledger.look()
    assert ledger.gone == ["a: makes room for b"]


def test_nobody_goes_for_what_is_loaded_without_anybody_who_asks() -> None:
    ledger = waits_beside_an_idle_one()
    ledger.desk.roster.leave("t2")
    ledger.desk.ask("b", ticket="preload b", preload=True)
    assert ledger.look() == ""
    assert ledger.gone == []


def test_what_is_given_back_is_kept_for_the_lease_that_is_waited_for_and_for_nothing_in_vain() -> None:
    ledger = waits_beside_an_idle_one()
    ledger.there = [held("l-a", 4)]
    ledger.look()
    assert (ledger.kept, ledger.gone) == ({}, []), "what would not be enough goes for nobody"
    ledger.there = [held("l-a", 8)]
    ledger.look()
    assert ledger.kept == {"new-b": (8 * GIB, "b")}
    ledger.kept.clear()
    ledger.there = [held("l-a", 8, state="expiring")]
    ledger.look()
    assert ledger.kept == {"new-b": (8 * GIB, "b")}, "for as long as those go who are enough"


def test_nobody_goes_on_a_host_that_could_not_be_measured() -> None:
    ledger = waits_beside_an_idle_one()
    ledger.spare = None
    assert ledger.look().endswith("nobody idle who may go for it holds enough of that")
    assert (ledger.kept, ledger.gone) == ({}, [])


def test_for_a_model_without_a_card_it_is_kept_until_nobody_asks_for_it() -> None:
    needs = Needs(ram=Size(8 * GIB))
    desk = Desk(entry("a", needs=needs), entry("b", 0, needs=needs))
    desk.loaded("a")
    desk.ask("b")
    desk.does()
    desk.roster.no_room("b", "8 GiB of host RAM needed", desk.now)
    ledger = Ledger(desk, held("l-a", 8))
    ledger.waits = False
    ledger.look()
    assert (ledger.gone, ledger.kept) == (["a: makes room for b"], {"next-b": (8 * GIB, "b")})
    desk.roster.leave("t2")
    ledger.refuses = True
    ledger.look()
    ledger.refuses = False
    assert ledger.kept
    ledger.look()
    assert ledger.kept == {}
    ledger.look()


def test_a_lease_that_is_no_models_goes_as_an_engine_does() -> None:
    ledger = waits_beside_an_idle_one()
    ledger.there = [held("agents", 8)]
    ledger.look()
    assert ledger.gone == ["agents: makes room for b"]
