from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest

from common.api import decisions, leases
from common.api.gpus import GET_GPUS, GetGpus
from common.client.aio import Event
from common.errors import BadRequest, NoCapacity, NotFound, StaleFence
from common.gpu import cgroups
from common.gpu.simulated import GIB, use_bytes
from common.vram.fencing import parse
from tests.common.service.lab import raises, until
from tests.common.supervisor.leasing.lab import SUPERVISOR, Host, asking, card_folder, host, owner, program, two_cards


@pytest.fixture
async def mainpc(tmp_path: Path) -> AsyncIterator[Host]:
    async with host(two_cards(tmp_path)) as made:
        yield made


async def test_a_bare_peer_gets_a_lease_on_the_tightest_card_and_gives_it_back(mainpc: Host) -> None:
    granted = await mainpc.granted(10, priority=70, ttl_s=30)
    card = await mainpc.card(1)
    assert (granted["host"], granted["card"], granted["card_uuid"]) == ("mainpc", 1, card["card_uuid"])
    assert (granted["expires_in_s"], granted["bytes"], card["leased_bytes"]) == (30.0, 10 * GIB, 10 * GIB)
    assert parse(granted["fencing_token"]) == (1, 1)
    (lease,) = (await mainpc.ask("list_leases"))["leases"]
    assert (lease["lease_id"], lease["model"], lease["priority"]) == (granted["lease_id"], "whisper", 70)
    assert (lease["identity"], lease["measured_bytes"]) == ("local@mainpc", 0)
    assert (await mainpc.release(granted))["status"] == "success"
    assert await mainpc.held() == []
    assert (await mainpc.card(1))["leased_bytes"] == 0


async def test_the_client_gets_typed_answers_to_every_verb(mainpc: Host) -> None:
    call = mainpc.client.call
    granted = await call(SUPERVISOR, leases.ACQUIRE_LEASE, asking(2))
    held = leases.RenewLease(lease_id=granted.lease_id, fencing_token=granted.fencing_token)
    assert (await call(SUPERVISOR, leases.RENEW_LEASE, held)).expires_in_s == 60.0
    assert [lease.bytes for lease in (await call(SUPERVISOR, leases.LIST_LEASES, leases.ListLeases())).leases] == [
        2 * GIB
    ]
    gpus = await call(SUPERVISOR, GET_GPUS, GetGpus())
    assert [(card.total_bytes, card.simulated) for card in gpus.cards] == [(24 * GIB, True), (12 * GIB, True)]
    plan = await call(SUPERVISOR, decisions.PLAN, decisions.PlanLease(model="llm", bytes=11 * GIB))
    assert (plan.outcome, plan.card_uuid) == ("grant", gpus.cards[0].card_uuid)
    explained = await call(SUPERVISOR, decisions.EXPLAIN, decisions.Explain(subject=granted.lease_id))
    assert [receipt.decision for receipt in explained.receipts] == ["renewed", "granted"]
    release = leases.ReleaseLease(lease_id=granted.lease_id, fencing_token=granted.fencing_token)
    await call(SUPERVISOR, leases.RELEASE_LEASE, release)
    assert (await call(SUPERVISOR, leases.LIST_LEASES, leases.ListLeases())).leases == []


async def test_a_refusal_says_need_free_place_and_every_cards_reason(mainpc: Host) -> None:
    await mainpc.granted(20)
    refused = await mainpc.acquire(13, idempotency_key="k")
    assert raises(NoCapacity, refused)
    assert refused["error"] == "whisper needs 13.0 GiB; 3.8 GiB free on mainpc:0"
    assert (refused["retryable"], refused["retry_after_ms"]) == (True, 1000)
    details = refused["details"]
    assert (details["need_bytes"], details["position"]) == (13 * GIB, 1)
    assert details["free_bytes"] < 4 * GIB
    assert [card["reason"] for card in details["cards"]] == [
        "3.8 GiB free, 13.0 GiB needed",
        "gives 11.8 GiB at most, 13.0 GiB needed",
    ]
    assert await mainpc.decisions("k") == ["refused"]
    assert (await mainpc.acquire(30))["code"] == "too_large"
    assert (await mainpc.acquire(1, host="pc2"))["code"] == "not_found"


async def test_a_stale_token_is_refused(mainpc: Host) -> None:
    granted = await mainpc.granted(10)
    stale = granted | {"fencing_token": granted["fencing_token"] - 1}
    assert raises(StaleFence, await mainpc.release(stale))
    renewal = {"lease_id": granted["lease_id"], "fencing_token": granted["fencing_token"] + 1}
    assert raises(StaleFence, await mainpc.ask("renew_lease", **renewal))
    await mainpc.release(granted)
    assert (await mainpc.release(granted))["status"] == "success"
    assert raises(StaleFence, await mainpc.ask("renew_lease", **renewal))
    assert (await mainpc.ask("release_lease", lease_id="lease-0", fencing_token=1))["code"] == "not_found"


async def test_a_lease_whose_ttl_ran_out_ends_and_is_not_revived(mainpc: Host) -> None:
    granted = await mainpc.granted(10, ttl_s=0.0)
    held = {"lease_id": granted["lease_id"], "fencing_token": granted["fencing_token"]}
    assert raises(StaleFence, await mainpc.ask("renew_lease", **held))
    short = await mainpc.granted(10, ttl_s=0.05)
    await until(lambda: mainpc.leases._writer.decided["expired"] == 2)
    assert await mainpc.held() == []
    assert await mainpc.decisions(short["lease_id"]) == ["granted", "expired"]


async def test_the_planners_choice_is_admitted_once_under_its_id(mainpc: Host) -> None:
    asked = {"lease_id": "lease-7", "model": "llm", "bytes": 2 * GIB, "identity": "alice", "wait_s": 60}
    first = await mainpc.ask("admit_lease", **asked)
    again = await mainpc.ask("admit_lease", **asked)
    assert (first["lease_id"], first["fencing_token"]) == ("lease-7", again["fencing_token"])
    assert await mainpc.held() == ["lease-7"]
    other = await mainpc.ask("admit_lease", **(asked | {"bytes": 3 * GIB}))
    assert other["code"] == "idempotency_mismatch"
    refused = await mainpc.ask("admit_lease", **(asked | {"lease_id": "lease-8", "bytes": 23 * GIB, "model": "big"}))
    assert refused["status"] == "success"
    late = {"lease_id": "lease-9", "bytes": 23 * GIB, "model": "big", "wait_s": 0}
    full = await mainpc.ask("admit_lease", **(asked | late))
    assert raises(NoCapacity, full)


async def test_an_idempotency_key_is_one_lease(mainpc: Host) -> None:
    first = await mainpc.granted(2, idempotency_key="k")
    assert (await mainpc.granted(2, idempotency_key="k"))["lease_id"] == first["lease_id"]
    assert (await mainpc.acquire(3, idempotency_key="k"))["code"] == "idempotency_mismatch"


async def test_a_killed_owners_bytes_come_back_at_once(mainpc: Host, tmp_path: Path) -> None:
    with program() as process:
        granted = await mainpc.granted(20, owner=owner(process))
        use_bytes(card_folder(tmp_path), 20 * GIB, process)
        (lease,) = (await mainpc.ask("list_leases"))["leases"]
        assert (lease["owner"]["start_time"], lease["owner"]["host"]) == (process.start_time, "mainpc")
        os.kill(process.pid, signal.SIGKILL)
        await until(lambda: mainpc.leases._writer.decided["owner-died"] == 1)
    assert await mainpc.decisions(granted["lease_id"]) == ["granted", "owner-died"]
    await mainpc.granted(20)


async def test_an_owner_that_does_not_run_here_is_refused(mainpc: Host) -> None:
    with program() as process:
        later = await mainpc.acquire(1, owner=owner(process) | {"start_time": process.start_time + 1})
        elsewhere = await mainpc.granted(1, owner={"host": "pc2", "pid": process.pid})
    assert later["code"] == "not_found"
    assert f"(started at tick {process.start_time + 1}) does not run on mainpc" in later["error"]
    gone = await mainpc.acquire(1, owner=owner(process))
    assert gone["code"] == "not_found"
    assert gone["error"] == f"process {process.pid} does not run on mainpc; a lease hangs on a living process"
    assert await mainpc.held() == [elsewhere["lease_id"]]


async def test_every_change_of_a_lease_is_an_event(mainpc: Host) -> None:
    live = asyncio.Event()
    topics = [leases.LEASE_CHANGED.name]

    async def changes(n: int) -> list[tuple[str, str]]:
        found: list[tuple[str, str]] = []
        async for notice in mainpc.client.events(SUPERVISOR, topics, live=live.set):
            assert isinstance(notice, Event)
            found.append((notice.entity, msgspec.json.decode(notice.body, type=leases.LeaseChanged).change))
            if len(found) == n:
                break
        return found

    following = asyncio.create_task(changes(4))
    await live.wait()
    with program() as process:
        first = await mainpc.granted(1, owner=owner(process))
        second = await mainpc.granted(1)
        await mainpc.release(second)
    one, two = first["lease_id"], second["lease_id"]
    assert await following == [(one, "granted"), (two, "granted"), (two, "released"), (one, "owner-died")]


async def test_another_hosts_leases_and_cards_are_not_known_here(mainpc: Host) -> None:
    for verb in ("list_leases", "get_gpus"):
        assert "mainpc's supervisor" in (await mainpc.ask(verb, host="pc2"))["missing"]["pc2"]
    assert len((await mainpc.ask("get_gpus", host="mainpc"))["cards"]) == 2


async def test_the_metrics_show_cards_leases_and_decisions(mainpc: Host) -> None:
    await mainpc.granted(10)
    await mainpc.acquire(30)
    card = await mainpc.card(1)
    labels = f'{{card_uuid="{card["card_uuid"]}",host="mainpc"}}'
    await until(lambda: "tandem_vram_leases 1.0" in mainpc.shell.metrics.exposition().decode())
    shown = mainpc.shell.metrics.exposition().decode()
    figures = {
        name: float(value) for name, _, value in (line.rpartition(" ") for line in shown.splitlines()) if labels in name
    }
    assert figures[f"tandem_vram_leased_bytes{labels}"] == 10 * GIB
    assert figures[f"tandem_vram_total_bytes{labels}"] == 12 * GIB
    assert figures[f"tandem_vram_schedulable{labels}"] == 1
    assert 'tandem_vram_decisions_total{decision="granted"} 1.0' in shown
    assert 'tandem_vram_decisions_total{decision="refused"} 1.0' in shown
    assert "tandem_vram_waiters 0.0" in shown


async def test_a_host_without_cards_says_why_and_lets_nobody_wait() -> None:
    async with host(None, problem="no NVIDIA driver library on mainpc") as mainpc:
        refused = await mainpc.acquire(1, wait_s=60)
        assert raises(NoCapacity, refused)
        assert "no NVIDIA driver library on mainpc" in refused["error"]
        health = await mainpc.ask("ping")
        assert (health["status"], health["lacks"]) == ("ok", ["no NVIDIA driver library on mainpc"])
        assert (await mainpc.ask("get_gpus"))["missing"] == {"mainpc": "no NVIDIA driver library on mainpc"}


async def test_what_a_container_holds_is_its_owners_lease(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cgroup = "/system.slice/docker-4f2d9c.scope"
    with program() as asker, program() as contained:
        monkeypatch.setattr(cgroups, "paths", lambda pid: (f"{cgroup}/init",) if pid == contained.pid else ())
        async with host(two_cards(tmp_path)) as mainpc:
            granted = await mainpc.granted(4, owner=owner(asker) | {"cgroup": cgroup})
            use_bytes(card_folder(tmp_path, granted["card"]), 3 * GIB, contained)
            async with asyncio.timeout(60):
                while (await mainpc.ask("list_leases"))["leases"][0]["measured_bytes"] != 3 * GIB:
                    await asyncio.sleep(0.05)
            assert (await mainpc.card(granted["card"]))["strangers"] == []
            await mainpc.release(granted)
            async with asyncio.timeout(60):
                while not (await mainpc.card(granted["card"]))["strangers"]:
                    await asyncio.sleep(0.05)


async def test_a_container_that_is_told_of_after_the_grant_holds_its_owners_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cgroup = "/system.slice/docker-4f2d9c.scope"
    with program() as asker, program() as contained:
        monkeypatch.setattr(cgroups, "paths", lambda pid: (f"{cgroup}/init",) if pid == contained.pid else ())
        async with host(two_cards(tmp_path)) as mainpc:
            granted = await mainpc.granted(4, owner=owner(asker))
            use_bytes(card_folder(tmp_path, granted["card"]), 3 * GIB, contained)
            async with asyncio.timeout(60):
                while not (await mainpc.card(granted["card"]))["strangers"]:
                    await asyncio.sleep(0.05)
            which = {"lease_id": granted["lease_id"], "fencing_token": granted["fencing_token"]}
            assert (await mainpc.ask("mark_lease", **which, cgroup=cgroup))["status"] == "success"
            async with asyncio.timeout(60):
                while (await mainpc.ask("list_leases"))["leases"][0]["measured_bytes"] != 3 * GIB:
                    await asyncio.sleep(0.05)
            assert (await mainpc.card(granted["card"]))["strangers"] == []
            assert (await mainpc.ask("mark_lease", **which, cgroup=""))["status"] == "success"
            async with asyncio.timeout(60):
                while not (await mainpc.card(granted["card"]))["strangers"]:
                    await asyncio.sleep(0.05)


async def test_what_the_host_has_beside_its_cards_is_measured_leased_and_refused(tmp_path: Path) -> None:
    async with host(two_cards(tmp_path)) as mainpc:
        (before,) = (await mainpc.ask("get_gpus"))["hosts"]
        assert before["host"] == "mainpc"
        assert before["ram_total_bytes"] > before["ram_grantable_bytes"] > 0
        assert before["cpu_ceiling_cores"] > 0
        assert before["reason"] == ""
        wish = {"ram_bytes": 2**26, "disk_bytes": 2**20, "cpu_cores": 0.5}
        granted = await mainpc.granted(1, **wish)
        (after,) = (await mainpc.ask("get_gpus"))["hosts"]
        assert (after["ram_leased_bytes"], after["disk_leased_bytes"], after["cpu_leased_cores"]) == (2**26, 2**20, 0.5)
        refused = await mainpc.acquire(1, ram_bytes=before["ram_total_bytes"])
        assert refused["status"] == "error"
        assert "of host RAM needed" in refused["message"]
        await mainpc.release(granted)
        (end,) = (await mainpc.ask("get_gpus"))["hosts"]
        assert end["ram_leased_bytes"] == 0


async def test_a_host_without_the_files_of_a_request_refuses_it_and_says_which_are_not_there(tmp_path: Path) -> None:
    weights, gone = tmp_path / "model.gguf", tmp_path / "gone.gguf"
    weights.write_text("weights")
    async with host(two_cards(tmp_path)) as mainpc:
        await mainpc.granted(1, files=[str(weights)])
        refused = await mainpc.acquire(1, files=[str(weights), str(gone)], wait_s=30)
        assert raises(NotFound, refused)
        assert refused["message"].endswith(f"mainpc: it lacks {gone}")
        assert refused["details"]["barred"] == {"mainpc": f"it lacks {gone}"}
        plan = await mainpc.ask("plan", model="llm", bytes=GIB, files=[str(gone)])
        assert (plan["outcome"], plan["cards"][0]["reason"]) == ("never", f"it lacks {gone}")
        assert (await mainpc.ask("plan", model="llm", bytes=GIB, files=[str(weights)]))["outcome"] == "grant"


async def test_what_was_granted_before_is_had_again_whatever_became_of_its_files(tmp_path: Path) -> None:
    weights = tmp_path / "model.gguf"
    weights.write_text("weights")
    async with host(two_cards(tmp_path)) as mainpc:
        wish = {"files": [str(weights)], "idempotency_key": "once"}
        granted = await mainpc.granted(1, **wish)
        weights.unlink()
        assert (await mainpc.acquire(1, **wish))["lease_id"] == granted["lease_id"]


async def test_a_path_that_depends_on_where_somebody_stands_is_no_file_of_a_host(mainpc: Host) -> None:
    assert raises(BadRequest, await mainpc.acquire(1, files=["model.gguf"]))
