"""Room made on a host's simulated cards: real owners, real signals, and what `tandem why` can tell of it afterwards."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import Any

import pytest

from common.api.words import Access, Empty, Message, Verb
from common.errors import NoCapacity, StaleFence, StorageUnavailable
from common.gpu.process_identity import is_alive
from common.gpu.simulated import GIB, card_uuid, use_bytes
from common.service.call import Call
from common.store.open import open_store
from common.supervisor.leasing import writer
from common.vram.cards import ProcessId
from common.vram.rungs import LadderPolicy
from tests.common.service.lab import peer, raises, until
from tests.common.supervisor.leasing.lab import Host, card_folder, host, owner, program, roomy, two_cards

PATIENT = LadderPolicy(signal_s=60, verify_s=60, term_s=60, kill_s=60, look_s=60)
BRIEF = LadderPolicy(signal_s=60, verify_s=0.3, term_s=0.3, kill_s=60, look_s=0.3)
STUBBORN = "import signal,time; signal.signal(15,signal.SIG_IGN); time.sleep(1000)"
CARD = card_uuid("mainpc", 0)


class Asked(Message, frozen=True):
    model: str
    lease_id: str


class Verbs:
    """The verbs of an owner: what they are asked, and what they do about the card."""

    def __init__(self, mainpc: Host, folder: Path, process: ProcessId, leaves: int) -> None:
        self.asked: list[str] = []
        self._mainpc = mainpc

        def give_back(request: Asked, call: Call) -> Empty:
            self.asked.append(request.lease_id)
            use_bytes(folder, leaves, process)
            return Empty()

        mainpc.shell.handle(Verb("doze", Asked, Empty, Access.USE), give_back)
        mainpc.shell.handle(Verb("forget", Asked, Empty, Access.USE), give_back)

    def unload(self, **verbs: str) -> dict[str, Any]:
        return {"port": self._mainpc.shell.port, "timeout_s": 60, **verbs}


async def idle_lease(mainpc: Host, process: ProcessId, folder: Path, gib: float = 20, **fields: Any) -> dict[str, Any]:
    """A lease that nobody uses, held by a process that holds its bytes, as a look has shown."""
    granted = await mainpc.granted(gib, owner=owner(process), card_uuid=CARD, in_use=False, **fields)
    use_bytes(folder, int(gib * GIB), process)
    await until_measured(mainpc, granted["lease_id"], int(gib * GIB))
    return granted


async def lease(mainpc: Host, lease_id: str) -> dict[str, Any]:
    found = (await mainpc.ask("list_leases"))["leases"]
    return next((each for each in found if each["lease_id"] == lease_id), {})


async def until_measured(mainpc: Host, lease_id: str, amount: int) -> None:
    async with asyncio.timeout(60):
        while (await lease(mainpc, lease_id))["measured_bytes"] != amount:
            await asyncio.sleep(0.01)


async def until_state(mainpc: Host, lease_id: str, state: str | None) -> None:
    async with asyncio.timeout(60):
        while (await lease(mainpc, lease_id)).get("state") != state:
            await asyncio.sleep(0.01)


async def room(mainpc: Host, gib: float, lease_id: str = "lease-new", **fields: Any) -> dict[str, Any]:
    asked = {"model": "llm", "priority": 50, "card_uuid": CARD, "patience_s": 600} | fields
    return await mainpc.ask("make_room", lease_id=lease_id, bytes=int(gib * GIB), **asked)


async def admit(mainpc: Host, gib: float, lease_id: str = "lease-new") -> dict[str, Any]:
    return await mainpc.ask("admit_lease", lease_id=lease_id, model="llm", bytes=int(gib * GIB), card_uuid=CARD)


async def rungs(mainpc: Host, lease_id: str, decision: str = "evicted") -> list[tuple[str, str, int, int]]:
    receipts = (await mainpc.ask("explain", subject=lease_id))["receipts"]
    receipt = next(each for each in receipts if each["decision"] == decision)
    return [(each["rung"], each["outcome"], each["bytes_before"], each["bytes_after"]) for each in receipt["rungs"]]


async def test_room_is_made_by_ending_an_idle_owner_and_kept_for_who_asked(tmp_path: Path) -> None:
    async with host(two_cards(tmp_path), policy=PATIENT) as mainpc:
        with program() as process:
            held = await idle_lease(mainpc, process, card_folder(tmp_path))
            assert raises(NoCapacity, await admit(mainpc, 15))
            promised = await room(mainpc, 15)
            assert [victim["lease_id"] for victim in promised["victims"]] == [held["lease_id"]]
            assert promised["within_s"] > 0
            await until_state(mainpc, held["lease_id"], None)
            assert not is_alive(*process)
            assert raises(NoCapacity, await admit(mainpc, 15, "lease-other"))
            assert (await admit(mainpc, 15))["lease_id"] == "lease-new"
            assert (await mainpc.decisions(held["lease_id"]))[-2:] == ["expiring", "evicted"]
            assert await rungs(mainpc, held["lease_id"]) == [("term", "freed", 20 * GIB, 0)]


async def test_an_owner_that_says_done_and_keeps_its_memory_is_told_of_rung_by_rung(tmp_path: Path) -> None:
    async with host(two_cards(tmp_path), policy=BRIEF) as mainpc:
        with program(sys.executable, "-c", STUBBORN) as process:
            verbs = Verbs(mainpc, card_folder(tmp_path), process, 20 * GIB)
            held = await idle_lease(mainpc, process, card_folder(tmp_path), unload=verbs.unload(unload="forget"))
            await room(mainpc, 15)
            while is_alive(*process):
                reply = await admit(mainpc, 15)
                assert raises(NoCapacity, reply) or not is_alive(*process)
            await until_state(mainpc, held["lease_id"], None)
            assert verbs.asked == [held["lease_id"]]
            assert (await admit(mainpc, 15))["status"] == "success"
            told = await rungs(mainpc, held["lease_id"])
            assert told[0][0::2] == ("unload", 20 * GIB)
            assert told[0][1] in ("nothing", "failed"), "failed: no look came within its time"
            assert told[-1][1:] == ("freed", 20 * GIB, 0)


async def test_nothing_revives_a_lease_that_has_to_go(tmp_path: Path) -> None:
    async with host(two_cards(tmp_path), policy=PATIENT) as mainpc:
        with program(sys.executable, "-c", STUBBORN) as process:
            verbs = Verbs(mainpc, card_folder(tmp_path), process, 20 * GIB)
            held = await idle_lease(mainpc, process, card_folder(tmp_path), unload=verbs.unload(unload="forget"))
            await room(mainpc, 15)
            token = {"lease_id": held["lease_id"], "fencing_token": held["fencing_token"]}
            assert raises(StaleFence, await mainpc.ask("mark_lease", **token, in_use=True))
            assert raises(StaleFence, await mainpc.ask("renew_lease", **token))
            assert (await room(mainpc, 15))["victims"][0]["lease_id"] == held["lease_id"]
            assert len(mainpc.leases._evictions) == 1


async def test_a_lease_in_use_is_left_alone_until_its_holder_says_that_it_is_idle(tmp_path: Path) -> None:
    async with host(two_cards(tmp_path), policy=PATIENT) as mainpc:
        with program() as process:
            held = await idle_lease(mainpc, process, card_folder(tmp_path))
            token = {"lease_id": held["lease_id"], "fencing_token": held["fencing_token"]}
            assert (await mainpc.ask("mark_lease", **token, in_use=True))["in_use"] is True
            assert raises(NoCapacity, await room(mainpc, 15))
            await mainpc.ask("mark_lease", **token, in_use=False)
            assert (await room(mainpc, 15))["status"] == "success"
            await until_state(mainpc, held["lease_id"], None)


async def test_an_owner_that_sleeps_is_parked_and_wakes_under_a_new_token(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with host(two_cards(tmp_path), policy=PATIENT) as mainpc:
        with program() as process:
            verbs = Verbs(mainpc, card_folder(tmp_path), process, GIB // 2)
            roomy(mainpc, monkeypatch)
            held = await idle_lease(mainpc, process, card_folder(tmp_path), unload=verbs.unload(sleep="doze"))
            await room(mainpc, 15)
            await until_state(mainpc, held["lease_id"], "parked")
            assert is_alive(*process)
            asleep = await lease(mainpc, held["lease_id"])
            assert asleep["bytes"] == GIB // 2
            assert await rungs(mainpc, held["lease_id"], "parked") == [("sleep", "freed", 20 * GIB, GIB // 2)]
            assert raises(NoCapacity, await mainpc.acquire(20, owner=owner(process), card_uuid=CARD))
            assert (await mainpc.release(await admit(mainpc, 15)))["status"] == "success"
            awake = await mainpc.granted(20, owner=owner(process), card_uuid=CARD)
            assert awake["lease_id"] == held["lease_id"]
            assert awake["fencing_token"] > held["fencing_token"]


async def test_an_owner_is_not_put_to_sleep_where_others_took_the_ram_since_it_was_looked_at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with host(two_cards(tmp_path), policy=PATIENT) as mainpc:
        with program() as process:
            verbs = Verbs(mainpc, card_folder(tmp_path), process, GIB // 2)
            how = verbs.unload(sleep="doze")
            held = await idle_lease(mainpc, process, card_folder(tmp_path), unload=how)
            available = roomy(mainpc, monkeypatch)
            available.append(10 * GIB)
            await room(mainpc, 15)
            await until_state(mainpc, held["lease_id"], None)
            assert verbs.asked == []
            assert await rungs(mainpc, held["lease_id"]) == [("term", "freed", 20 * GIB, 0)]


async def test_ram_that_is_gone_as_weights_are_about_to_go_there_is_told_and_the_next_rung_climbed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with host(two_cards(tmp_path), policy=PATIENT) as mainpc:
        with program() as process:
            verbs = Verbs(mainpc, card_folder(tmp_path), process, GIB // 2)
            available = roomy(mainpc, monkeypatch)
            figures = iter([200 * GIB, 10 * GIB])
            monkeypatch.setattr(writer, "ram_available_bytes", lambda: next(figures, available[-1]))
            held = await idle_lease(mainpc, process, card_folder(tmp_path), unload=verbs.unload(sleep="doze"))
            await room(mainpc, 15)
            await until_state(mainpc, held["lease_id"], None)
            assert verbs.asked == []
            receipts = (await mainpc.ask("explain", subject=held["lease_id"]))["receipts"]
            (first, last) = next(each for each in receipts if each["decision"] == "evicted")["rungs"]
            assert (first["rung"], first["outcome"], last["rung"], last["outcome"]) == (
                "sleep",
                "failed",
                "term",
                "freed",
            )
            assert first["claimed"].startswith("cannot be parked: 20.0 GiB of host RAM needed; 0.0 GiB free")


async def test_host_ram_is_leased_by_what_is_available_as_it_is_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with host(two_cards(tmp_path)) as mainpc:
        available = roomy(mainpc, monkeypatch)
        await mainpc.release(await mainpc.granted(1, ram_bytes=20 * GIB))
        available.append(30 * GIB)
        refused = await mainpc.acquire(1, ram_bytes=20 * GIB)
        assert raises(NoCapacity, refused)
        assert "20.0 GiB of host RAM needed; 17.2 GiB free" in refused["error"]


async def test_memory_that_would_not_go_is_quarantined(tmp_path: Path) -> None:
    async with host(two_cards(tmp_path), policy=BRIEF) as mainpc:
        with program() as process:
            verbs = Verbs(mainpc, card_folder(tmp_path), process, 15 * GIB)
            held = await idle_lease(mainpc, process, card_folder(tmp_path), 10, unload=verbs.unload(unload="forget"))
            await mainpc.granted(5, owner=owner(process), card_uuid=CARD, model="tts")
            use_bytes(card_folder(tmp_path), 15 * GIB, process)
            await until_measured(mainpc, held["lease_id"], 10 * GIB)
            await room(mainpc, 12)
            await until_state(mainpc, held["lease_id"], None)
            assert is_alive(*process), "it serves another lease"
            assert (await rungs(mainpc, held["lease_id"], "quarantined"))[-1][0] == "quarantine"
            assert raises(NoCapacity, await admit(mainpc, 12))


async def test_an_eviction_that_a_supervisor_left_is_begun_again_by_the_next(tmp_path: Path) -> None:
    with program(sys.executable, "-c", STUBBORN) as process:
        async with host(two_cards(tmp_path), open_store(tmp_path, "leases"), policy=PATIENT) as mainpc:
            verbs = Verbs(mainpc, card_folder(tmp_path), process, 20 * GIB)
            held = await idle_lease(mainpc, process, card_folder(tmp_path), unload=verbs.unload(unload="forget"))
            await room(mainpc, 15)
            await until(lambda: bool(verbs.asked))
        assert is_alive(*process)
        async with host(two_cards(tmp_path), open_store(tmp_path, "leases"), policy=BRIEF) as mainpc:
            await until_state(mainpc, held["lease_id"], None)
        assert not is_alive(*process)


async def test_what_could_not_be_written_down_at_once_is_written_down_later_with_its_rungs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with host(two_cards(tmp_path), policy=PATIENT) as mainpc:
        with program() as process:
            held = await idle_lease(mainpc, process, card_folder(tmp_path), gib=20)
            writer = mainpc.leases._writer
            make_sound = writer.make_sound
            refused: list[bool] = []

            def refuse() -> None:
                if not is_alive(*process) and not len(mainpc.leases._evictions) and len(refused) < 3:
                    refused.append(True)
                    raise StorageUnavailable("the disk is full")
                make_sound()

            monkeypatch.setattr(mainpc.leases._evictions._writer, "make_sound", refuse)
            await room(mainpc, 15)
            await until_state(mainpc, held["lease_id"], None)
            assert len(refused) == 3
            assert (await mainpc.decisions(held["lease_id"]))[-2:] == ["expiring", "evicted"]
            assert await rungs(mainpc, held["lease_id"]) == [("term", "freed", 20 * GIB, 0)]


async def test_an_idle_lease_goes_for_whoever_waits_in_the_hosts_own_line(tmp_path: Path) -> None:
    async with host(two_cards(tmp_path), policy=PATIENT) as mainpc:
        with program() as process:
            held = await idle_lease(mainpc, process, card_folder(tmp_path))
            granted = await mainpc.acquire(22, model="llm", wait_s=60)
            assert granted["status"] == "success"
            assert not is_alive(*process)
            assert await rungs(mainpc, held["lease_id"]) == [("term", "freed", 20 * GIB, 0)]
            assert (await mainpc.card())["reservations"] == {}


async def test_a_request_that_does_not_wait_evicts_nobody(tmp_path: Path) -> None:
    async with host(two_cards(tmp_path), policy=PATIENT) as mainpc:
        with program() as process:
            held = await idle_lease(mainpc, process, card_folder(tmp_path))
            assert raises(NoCapacity, await mainpc.acquire(22, model="llm"))
            assert (await lease(mainpc, held["lease_id"]))["state"] == "held"
            assert is_alive(*process)


async def test_a_lease_that_becomes_idle_while_somebody_waits_goes_then(tmp_path: Path) -> None:
    async with host(two_cards(tmp_path), policy=PATIENT) as mainpc:
        with program() as process:
            held = await idle_lease(mainpc, process, card_folder(tmp_path))
            token = {"lease_id": held["lease_id"], "fencing_token": held["fencing_token"]}
            await mainpc.ask("mark_lease", **token, in_use=True)
            async with peer(mainpc.shell.port) as other:
                waiting = asyncio.create_task(
                    other.plain("acquire_lease", model="llm", bytes=22 * GIB, wait_s=60, priority=60)
                )
                await until(lambda: len(mainpc.leases._line) == 1)
                assert is_alive(*process)
                await mainpc.ask("mark_lease", **token, in_use=False)
                assert (await waiting)["status"] == "success"


async def test_what_was_kept_for_a_caller_that_left_is_anybodys(tmp_path: Path) -> None:
    async with host(two_cards(tmp_path), policy=PATIENT) as mainpc:
        with program(sys.executable, "-c", STUBBORN) as process:
            verbs = Verbs(mainpc, card_folder(tmp_path), process, 20 * GIB)
            held = await idle_lease(mainpc, process, card_folder(tmp_path), unload=verbs.unload(unload="forget"))
            assert raises(NoCapacity, await mainpc.acquire(22, model="llm", wait_s=0.5))
            assert (await lease(mainpc, held["lease_id"]))["state"] == "expiring"
            assert (await mainpc.card())["reservations"] == {}


async def test_a_lease_counts_what_its_owner_is_seen_to_hold(tmp_path: Path) -> None:
    async with host(two_cards(tmp_path), policy=PATIENT) as mainpc:
        with program() as process:
            held = await idle_lease(mainpc, process, card_folder(tmp_path), gib=8)
            use_bytes(card_folder(tmp_path), 10 * GIB, process)
            async with asyncio.timeout(60):
                while (await lease(mainpc, held["lease_id"]))["bytes"] != 10 * GIB:
                    await asyncio.sleep(0.01)
            assert "corrected" in await mainpc.decisions(held["lease_id"])
