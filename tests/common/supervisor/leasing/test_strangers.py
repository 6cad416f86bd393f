from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from common.api.leases import Lease, LeaseChanged
from common.errors import StorageUnavailable
from common.gpu.process_identity import start_time
from common.gpu.simulated import GIB, SimulatedCards, ensure_cards, use_bytes
from tests.common.supervisor.leasing.lab import Host, card_folder, host, owner, program

DEAF = (
    sys.executable,
    "-c",
    "import signal, sys, time\n"
    "for number in set(signal.Signals) - {signal.SIGKILL, signal.SIGSTOP}: signal.signal(number, lambda *_: sys.exit(9))\n"
    "time.sleep(1000)",
)
"""A game that would end at any signal that can be heard."""


def one_card(tmp_path: Path) -> SimulatedCards:
    folder = tmp_path / "mainpc" / "cards"
    ensure_cards(folder, "mainpc", (24 * GIB,))
    return SimulatedCards("mainpc", folder)


async def shown(mainpc: Host, holds: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
    """The card, once `holds` of it."""
    async with asyncio.timeout(60):
        while not holds(card := await mainpc.card()):
            await asyncio.sleep(0.05)
    return card


async def decided(mainpc: Host, subject: str, decision: str) -> list[dict[str, Any]]:
    """The receipts that say so about it, newest first."""
    told = (await mainpc.ask("explain", subject=subject))["receipts"]
    return [receipt for receipt in told if receipt["decision"] == decision]


async def test_a_game_that_takes_14_gib_is_yielded_to_never_signalled_and_what_went_may_come_back(
    tmp_path: Path,
) -> None:
    back: list[Lease] = []
    told: list[LeaseChanged] = []
    with program() as idle, program() as busy, program(*DEAF) as game:
        async with host(one_card(tmp_path)) as mainpc:
            mainpc.leases.strangers.back = back.append
            mainpc.leases.own.listen(told.append)
            resident = await mainpc.granted(14, model="qwen", owner=owner(idle), in_use=False)
            kept = await mainpc.granted(4, model="whisper", owner=owner(busy))
            use_bytes(card_folder(tmp_path), 14 * GIB, idle)
            use_bytes(card_folder(tmp_path), 4 * GIB, busy)
            await shown(mainpc, lambda card: card["measured_bytes"] == 18 * GIB)
            began = time.monotonic()
            use_bytes(card_folder(tmp_path), 14 * GIB, game)
            closed = await shown(mainpc, lambda card: not card["schedulable"])
            assert "is taking memory" in closed["reason"]
            assert [stranger["pid"] for stranger in closed["strangers"]] == [game.pid]
            await shown(mainpc, lambda card: card["used_bytes"] == 18 * GIB)
            took_s = time.monotonic() - began
            print(f"14 GiB were yielded within {took_s:.2f} s")
            assert took_s < 60, "three seconds, on a machine that is not loaded"
            await shown(mainpc, lambda card: card["leased_bytes"] == 4 * GIB)
            assert await mainpc.held() == [kept["lease_id"]]
            (receipt,) = await decided(mainpc, resident["lease_id"], "yielded")
            assert f"(pid {game.pid}), which has no lease, holds " in receipt["reason"]
            refused = await mainpc.acquire(1)
            assert refused["code"] == "no_capacity"
            assert "is taking memory" in refused["error"]
            assert mainpc.leases.strangers.away == 1
            figures = mainpc.shell.metrics.exposition().decode()
            assert "tandem_vram_away 1.0" in figures
            assert 'tandem_vram_evictions_total{outcome="evicted",rung="term"} 1.0' in figures
            assert start_time(game.pid) == game.start_time
            use_bytes(card_folder(tmp_path), 0, game)
            await shown(mainpc, lambda card: card["schedulable"])
            async with asyncio.timeout(60):
                while not back:
                    await asyncio.sleep(0.05)
            assert [each.lease_id for each in back] == [resident["lease_id"]]
            (change,) = [each for each in told if each.change == "may-return"]
            assert (change.lease.lease_id, change.lease.bytes) == (resident["lease_id"], 14 * GIB)
            assert change.reason.startswith("14.0 GiB fit again: ")
            assert change.reason.endswith(f"(pid {game.pid}) left")
            assert start_time(game.pid) == game.start_time, "it never heard a signal"
            anew = await mainpc.granted(14, model="qwen")
            await shown(mainpc, lambda card: mainpc.leases.strangers.away == 0)
            (receipt,) = await decided(mainpc, anew["lease_id"], "granted")
            assert f"; returned after {change.reason.partition(': ')[2]}" in receipt["reason"]
            shared = await mainpc.granted(14, model="qwen", share=True)
            (receipt,) = await decided(mainpc, shared["lease_id"], "granted")
            assert "returned after" not in receipt["reason"], "it is told once, of the lease that returned"


async def test_whose_model_was_leased_anew_meanwhile_need_not_come_back(tmp_path: Path) -> None:
    with program() as idle, program() as game:
        async with host(one_card(tmp_path)) as mainpc:
            resident = await mainpc.granted(14, model="qwen", owner=owner(idle), in_use=False)
            use_bytes(card_folder(tmp_path), 14 * GIB, idle)
            await shown(mainpc, lambda card: card["measured_bytes"] == 14 * GIB)
            use_bytes(card_folder(tmp_path), 14 * GIB, game)
            await shown(mainpc, lambda card: card["used_bytes"] == 14 * GIB and not card["leased_bytes"])
            await shown(mainpc, lambda card: mainpc.leases.strangers.away == 1)
            anew = await mainpc.acquire(5, model="qwen", wait_s=60.0)
            assert anew["status"] == "success"
            assert anew["lease_id"] != resident["lease_id"]
            await shown(mainpc, lambda card: mainpc.leases.strangers.away == 0)


async def test_growth_that_nobody_accounts_for_freezes_the_grants_on_the_card(tmp_path: Path) -> None:
    async with host(one_card(tmp_path)) as mainpc:
        await mainpc.granted(1)
        await shown(mainpc, lambda card: card["schedulable"])
        hidden = card_folder(tmp_path) / "card.json"
        hidden.write_text(hidden.read_text().replace('"reserved_bytes": 0', f'"reserved_bytes": {3 * GIB}'))
        card = await shown(mainpc, lambda card: not card["schedulable"])
        assert "appeared that no process and no lease accounts for" in card["reason"]
        await shown(mainpc, lambda card: card["schedulable"])


async def test_who_cannot_be_asked_to_go_while_the_store_is_away_is_chosen_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with program() as idle, program() as game:
        async with host(one_card(tmp_path)) as mainpc:
            strangers = mainpc.leases.strangers
            await mainpc.granted(14, owner=owner(idle), in_use=False)
            use_bytes(card_folder(tmp_path), 14 * GIB, idle)
            await shown(mainpc, lambda card: card["measured_bytes"] == 14 * GIB)

            def away() -> None:
                raise StorageUnavailable("the disk is full")

            with monkeypatch.context() as patched:
                patched.setattr(strangers._writer, "make_sound", away)
                use_bytes(card_folder(tmp_path), 14 * GIB, game)
                await shown(mainpc, lambda card: not card["schedulable"])
                assert len(await mainpc.held()) == 1
            await shown(mainpc, lambda card: card["used_bytes"] == 14 * GIB)
            await shown(mainpc, lambda card: card["leased_bytes"] == 0)
