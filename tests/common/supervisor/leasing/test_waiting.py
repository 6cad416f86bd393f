from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from common.api import leases, supervisor
from common.errors import Cancelled, IdempotencyMismatch, NoCapacity, StorageUnavailable, Unavailable
from common.gpu.process_identity import this_process
from common.gpu.simulated import GIB, use_bytes
from common.store.memory import MemoryStore
from common.supervisor.leasing.waiting import Seat
from common.vram.waiting import QueuePolicy
from tests.common.service.lab import heard, is_error, native, peer, raises, until, withdrawal
from tests.common.supervisor.leasing.lab import SUPERVISOR, Host, asking, card_folder, host, program, two_cards


@pytest.fixture
async def mainpc(tmp_path: Path) -> AsyncIterator[Host]:
    """A host whose larger card is taken."""
    async with host(two_cards(tmp_path)) as made:
        made.holder = await made.granted(20, model="holder")  # type: ignore[attr-defined]
        yield made


def holder(mainpc: Host) -> dict[str, Any]:
    return dict(mainpc.holder)  # type: ignore[attr-defined]


def waiting(mainpc: Host, **fields: Any) -> asyncio.Task[leases.LeaseGranted]:
    asked = asking(20, **({"wait_s": 30.0} | fields))
    return asyncio.create_task(mainpc.client.call(SUPERVISOR, leases.ACQUIRE_LEASE, asked))


async def in_line(mainpc: Host, n: int) -> None:
    await until(lambda: len(mainpc.leases._line) == n)


async def test_who_waits_is_told_its_place_and_gets_the_lease_when_it_comes_free(mainpc: Host) -> None:
    parts: list[Any] = []

    async def stream() -> None:
        async for item in mainpc.client.stream(
            SUPERVISOR, leases.ACQUIRE_LEASE, asking(20, wait_s=30.0, model="first")
        ):
            parts.append(item)

    first = asyncio.create_task(stream())
    await in_line(mainpc, 1)
    urgent = waiting(mainpc, priority=90, model="urgent")
    await until(lambda: len(parts) == 2)
    assert [(part.position, part.need_bytes) for part in parts] == [(1, 20 * GIB), (2, 20 * GIB)]
    assert parts[0].reason == "first needs 20.0 GiB; 3.8 GiB free on mainpc:0"
    await mainpc.release(holder(mainpc))
    granted = await urgent
    await until(lambda: parts[-1].position == 1)
    await mainpc.release(msgspec.structs.asdict(granted))
    await first
    assert isinstance(parts[-1], leases.LeaseGranted)
    assert await mainpc.decisions("first") == ["queued", "granted"]


async def test_a_plain_caller_that_waits_gets_one_answer(mainpc: Host) -> None:
    async with peer(mainpc.shell.port) as caller:
        asked = asyncio.create_task(caller.plain("acquire_lease", model="llm", bytes=20 * GIB, wait_s=30))
        await in_line(mainpc, 1)
        await mainpc.release(holder(mainpc))
        assert (await asked)["card"] == 0


async def test_a_small_request_passes_one_that_does_not_fit(mainpc: Host) -> None:
    large = waiting(mainpc)
    await in_line(mainpc, 1)
    assert (await mainpc.granted(3))["card"] in (0, 1)
    large.cancel()


async def test_whoever_waits_goes_before_a_newcomer(mainpc: Host) -> None:
    first = waiting(mainpc)
    await in_line(mainpc, 1)
    async with peer(mainpc.shell.port) as caller:
        held = {"lease_id": holder(mainpc)["lease_id"], "fencing_token": holder(mainpc)["fencing_token"]}
        await caller.send(*native("release_lease", held, 1))
        await caller.send(*native("acquire_lease", {"model": "late", "bytes": 20 * GIB}, 2))
        answers = {heard(frames)[0].id: frames for frames in [await caller.receive(), await caller.receive()]}
    assert is_error(answers[2], "no_capacity")
    assert (await first).bytes == 20 * GIB


async def test_a_wait_ends_in_time_with_what_was_lacking(mainpc: Host) -> None:
    refused = await mainpc.acquire(20, wait_s=0.05, model="late")
    assert raises(NoCapacity, refused)
    assert (refused["details"]["position"], refused["retryable"]) == (1, True)
    assert await mainpc.decisions("late") == ["queued", "refused"]
    within = await mainpc.ask("acquire_lease", model="late", bytes=20 * GIB, wait_s=60, _deadline_ms=400)
    assert raises(NoCapacity, within)
    assert len(mainpc.leases._line) == 0


async def test_a_caller_that_withdraws_leaves_the_line_at_once(mainpc: Host) -> None:
    async with peer(mainpc.shell.port) as caller:
        await caller.send(*native("acquire_lease", {"model": "late", "bytes": 20 * GIB, "wait_s": 60}, 5))
        await in_line(mainpc, 1)
        await caller.receive()
        await caller.send(*withdrawal(5))
        assert is_error(await caller.receive(), "cancelled")
    await in_line(mainpc, 0)
    assert await mainpc.decisions("late") == ["queued", "withdrawn"]


async def test_a_caller_that_is_gone_without_a_word_is_noticed(mainpc: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("common.supervisor.leasing.waiting.REPEAT_S", 0.0)
    async with peer(mainpc.shell.port) as caller:
        await caller.send(*native("acquire_lease", {"model": "late", "bytes": 20 * GIB, "wait_s": 60}, 5))
        await in_line(mainpc, 1)
    await in_line(mainpc, 0)
    assert await mainpc.decisions("late") == ["queued", "withdrawn"]


async def test_the_death_of_its_owner_ends_a_wait(mainpc: Host) -> None:
    with program() as process:
        asked = waiting(mainpc, owner=leases.Owner(pid=process.pid))
        await in_line(mainpc, 1)
        os.kill(process.pid, signal.SIGKILL)
        with pytest.raises(Cancelled, match=f"process {process.pid}, .* has ended"):
            await asked
    await in_line(mainpc, 0)


async def test_a_request_asked_again_under_its_key_takes_its_own_place(mainpc: Host) -> None:
    first = waiting(mainpc, idempotency_key="k")
    await in_line(mainpc, 1)
    behind = waiting(mainpc)
    await in_line(mainpc, 2)
    again = waiting(mainpc, idempotency_key="k")
    with pytest.raises(Cancelled, match="asked again"):
        await first
    with pytest.raises(IdempotencyMismatch):
        await waiting(mainpc, idempotency_key="k", model="other")
    await mainpc.release(holder(mainpc))
    granted = await again
    assert not behind.done()
    await mainpc.release(msgspec.structs.asdict(granted))
    await behind


async def test_a_lease_granted_while_its_caller_left_is_given_back(
    mainpc: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with peer(mainpc.shell.port) as caller:
        await caller.send(*native("acquire_lease", {"model": "late", "bytes": 20 * GIB, "wait_s": 60}, 5))
        await in_line(mainpc, 1)
        (call,) = mainpc.shell.onion._tasks
        start = mainpc.leases._serving._start

        def start_and_leave(seat: Seat) -> None:
            start(seat)
            call.cancel()

        monkeypatch.setattr(mainpc.leases._serving, "_start", start_and_leave)
        await mainpc.release(holder(mainpc))
        await until(lambda: mainpc.leases._writer.decided["released"] == 2)
    assert await mainpc.decisions("late") == ["queued", "granted", "released"]
    assert await mainpc.held() == []


async def test_a_lease_that_cannot_be_given_back_is_left_to_its_ttl(tmp_path: Path) -> None:
    store = MemoryStore()
    async with host(two_cards(tmp_path), store) as mainpc:
        held = await mainpc.granted(20)
        granted = leases.LeaseGranted(**{name: held[name] for name in leases.LeaseGranted.__struct_fields__})
        store.failure = StorageUnavailable("the disk is full")
        mainpc.leases._serving._give_back(granted)
        await until(lambda: mainpc.shell.journal.failures == 1)
        mainpc.leases._serving._give_back(granted)
        store.failure = None
        await until(lambda: len(mainpc.leases._writer.table) == 1)
        assert await mainpc.held() == [held["lease_id"]]


async def test_the_waiting_are_sent_away_when_the_host_closes(mainpc: Host) -> None:
    async with peer(mainpc.shell.port) as caller:
        asked = asyncio.create_task(caller.plain("acquire_lease", model="late", bytes=20 * GIB, wait_s=60))
        await in_line(mainpc, 1)
        await mainpc.leases.close()
        assert raises(Unavailable, await asked)
    assert raises(Unavailable, await mainpc.acquire(1))
    mainpc.leases._tick()
    mainpc.leases._serving.serve()


async def test_bytes_of_a_lease_that_ended_are_granted_only_once_a_look_shows_them_free(
    mainpc: Host, tmp_path: Path
) -> None:
    with program() as process:
        use_bytes(card_folder(tmp_path), 20 * GIB, process)
        await mainpc.release(holder(mainpc))
        refused = await mainpc.acquire(20)
        assert raises(NoCapacity, refused)
        late = waiting(mainpc)
        await in_line(mainpc, 1)
        os.kill(process.pid, signal.SIGKILL)
        assert (await late).card == 0


async def test_a_waiting_request_whose_key_was_used_for_another_meanwhile_is_told_so(mainpc: Host) -> None:
    asked = waiting(mainpc, idempotency_key="k")
    await in_line(mainpc, 1)
    other = {"lease_id": "lease-1", "model": "other", "bytes": GIB, "identity": "local@mainpc", "idempotency_key": "k"}
    assert (await mainpc.ask("admit_lease", **other))["status"] == "success"
    await mainpc.release(holder(mainpc))
    with pytest.raises(IdempotencyMismatch):
        await asked


async def test_a_caller_that_is_leaving_is_granted_nothing(mainpc: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = waiting(mainpc)
    await in_line(mainpc, 1)
    (seat,) = mainpc.leases._line
    mainpc.leases._serving._start(seat)
    assert seat in mainpc.leases._line
    monkeypatch.setattr(
        mainpc.leases._serving, "serve", lambda: None
    )  # its turn is to come when it leaves, and no sooner
    await mainpc.release(holder(mainpc))
    seat.end(Cancelled("it left"))
    mainpc.leases._serving._start(seat)
    with pytest.raises(Cancelled):
        await asked
    mainpc.leases._serving._give_up(seat)
    assert await mainpc.held() == []
    assert (await mainpc.decisions("whisper"))[-1] == "withdrawn"


async def test_those_behind_move_up_when_someone_leaves(mainpc: Host) -> None:
    first = waiting(mainpc)
    await in_line(mainpc, 1)
    places: list[int] = []

    async def second() -> None:
        async for item in mainpc.client.stream(SUPERVISOR, leases.ACQUIRE_LEASE, asking(20, wait_s=30.0)):
            places.append(item.position)

    behind = asyncio.create_task(second())
    await until(lambda: places == [2])
    first.cancel()
    await until(lambda: places == [2, 1])
    behind.cancel()
    await in_line(mainpc, 0)


async def test_the_card_of_one_who_waited_long_is_kept_from_newcomers_and_from_the_planner(mainpc: Host) -> None:
    mainpc.leases._line._queue._policy = QueuePolicy(reserve_after_s=0.0)
    first = waiting(mainpc)
    await in_line(mainpc, 1)
    mainpc.leases._serving.serve()
    uuid = holder(mainpc)["card_uuid"]
    for refused in (
        await mainpc.acquire(1, card_uuid=uuid),
        await mainpc.ask("admit_lease", lease_id="lease-1", model="llm", bytes=GIB, card_uuid=uuid),
    ):
        assert raises(NoCapacity, refused)
        assert "(kept for a request that has waited longer)" in refused["error"]
    assert (await mainpc.ask("plan", model="llm", bytes=GIB, card_uuid=uuid))["outcome"] == "wait"
    assert (await mainpc.granted(1))["card"] == 1
    await mainpc.release(holder(mainpc))
    assert (await first).card == 0


async def test_a_planner_whose_admission_waits_takes_what_it_is_told_meanwhile(mainpc: Host) -> None:
    fields = msgspec.structs.asdict(asking(20, wait_s=30.0))
    asked = supervisor.AdmitLease(**fields, lease_id="lease-1", identity="local@pc2")
    admission = asyncio.create_task(mainpc.client.call(SUPERVISOR, supervisor.ADMIT_LEASE, asked))
    await in_line(mainpc, 1)
    await mainpc.release(holder(mainpc))
    assert (await admission).lease_id == "lease-1"


async def test_a_planner_that_asks_again_while_its_first_admission_waits_has_one_place_which_is_the_later_ones(
    mainpc: Host,
) -> None:
    me = this_process()
    owner = leases.Owner(agent_name="a", host="mainpc", pid=me.pid, start_time=me.start_time)
    fields = msgspec.structs.asdict(asking(20, wait_s=30.0, owner=owner))
    asked = supervisor.AdmitLease(**fields, lease_id="lease-1", identity="local@pc2")

    def admission() -> asyncio.Task[leases.LeaseGranted]:
        return asyncio.create_task(mainpc.client.call(SUPERVISOR, supervisor.ADMIT_LEASE, asked, idempotent=False))

    first = admission()
    await in_line(mainpc, 1)
    second = admission()
    with pytest.raises(Cancelled, match="asked again under the same lease id"):
        await first
    assert len(mainpc.leases._line) == 1
    assert "lease-1" in mainpc.leases._writer.owners._holders[me], "its owner's end is to end that wait too"
    await mainpc.release(holder(mainpc))
    assert (await second).lease_id == "lease-1"


async def test_who_is_short_of_what_the_host_has_beside_cards_is_told_so_and_holds_up_nobody(mainpc: Host) -> None:
    cores = 0.45 * (os.cpu_count() or 1)
    busy = await mainpc.granted(1, cpu_cores=cores, model="busy")
    parts: list[Any] = []

    async def stream() -> None:
        short = asking(20, wait_s=60.0, cpu_cores=cores, model="short")
        async for item in mainpc.client.stream(SUPERVISOR, leases.ACQUIRE_LEASE, short):
            parts.append(item)

    first = asyncio.create_task(stream())
    await in_line(mainpc, 1)
    second = waiting(mainpc, model="second", wait_s=60.0)
    await in_line(mainpc, 2)
    await mainpc.release(holder(mainpc))
    granted = await second
    assert not first.done()
    needed = f"short needs 20.0 GiB; {cores:g} cores of CPU needed"
    assert all(part.reason.startswith(needed) and "leased: busy" in part.reason for part in parts)
    await mainpc.release(busy)
    await until(lambda: parts[-1].reason == "short needs 20.0 GiB; 3.8 GiB free on mainpc:0")
    await mainpc.release(msgspec.to_builtins(granted))
    await first
    assert isinstance(parts[-1], leases.LeaseGranted)


async def test_whose_time_is_up_hears_what_the_host_has_too_little_of(mainpc: Host) -> None:
    cores = 0.45 * (os.cpu_count() or 1)
    await mainpc.granted(1, cpu_cores=cores, model="busy")
    with pytest.raises(NoCapacity, match=rf"short needs 1\.0 GiB; {cores:g} cores of CPU needed"):
        await waiting(mainpc, model="short", bytes=GIB, cpu_cores=cores, wait_s=0.3)
    receipts = (await mainpc.ask("explain", subject="short"))["receipts"]
    assert [each["decision"] for each in receipts[:2]] == ["refused", "queued"]
    assert all("cores of CPU needed" in each["reason"] for each in receipts[:2])
