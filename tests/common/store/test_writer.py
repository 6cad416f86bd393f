from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from pathlib import Path

import pytest
import uvloop

from common.errors import StorageUnavailable
from common.store.memory import MemoryStore
from common.store.protocol import Change, Durability
from common.store.sqlite import SqliteStore
from common.store.writer import FullWriter

BOUND_S = 20.0


class GatedStore(MemoryStore):
    """Counts its commits and holds each until the gate is open."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = threading.Event()
        self.entered = threading.Event()
        self.groups: list[tuple[int, Durability]] = []

    def commit(self, changes: Sequence[Change], durability: Durability) -> None:
        self.entered.set()
        assert self.gate.wait(BOUND_S)
        super().commit(changes, durability)
        self.groups.append((len(changes), durability))


@pytest.fixture
def store() -> Iterator[GatedStore]:
    gated = GatedStore()
    yield gated
    gated.gate.set()


@pytest.fixture
async def writer(store: GatedStore) -> AsyncIterator[FullWriter]:
    made = FullWriter(store, group_changes=3)
    yield made
    store.gate.set()
    await made.close()


class Told:
    """Hears outcomes in order."""

    def __init__(self) -> None:
        self.outcomes: list[tuple[str, StorageUnavailable | None]] = []
        self._news = asyncio.Event()

    def done(self, name: str):  # type: ignore[no-untyped-def]
        def hear(error: StorageUnavailable | None) -> None:
            self.outcomes.append((name, error))
            self._news.set()

        return hear

    async def count(self, number: int) -> None:
        async with asyncio.timeout(BOUND_S):
            while len(self.outcomes) < number:
                self._news.clear()
                await self._news.wait()

    @property
    def errors(self) -> dict[str, str | None]:
        return {name: error.message if error else None for name, error in self.outcomes}


def put(key: str) -> Change:
    return Change("t", key, b"v")


async def busy(writer: FullWriter, store: GatedStore, told: Told) -> None:
    """One commit is under way and held at the gate."""
    writer.submit([put("first")], told.done("first"))
    assert await asyncio.to_thread(store.entered.wait, BOUND_S)


async def test_the_outcome_comes_back_on_the_loop_after_the_commit(writer: FullWriter, store: GatedStore) -> None:
    told, threads = Told(), []
    writer.submit([put("a")], lambda error: (threads.append(threading.current_thread()), told.done("a")(error)))
    assert told.outcomes == []
    assert writer.backlog == 1
    store.gate.set()
    await told.count(1)
    assert told.outcomes == [("a", None)]
    assert threads == [threading.current_thread()]
    assert writer.backlog == 0
    assert store.tables["t"] == {"a": b"v"}


async def test_what_waits_is_committed_together_in_order_and_in_bounded_groups(
    writer: FullWriter, store: GatedStore
) -> None:
    told = Told()
    await busy(writer, store, told)
    for name, size in (("two", 2), ("one", 1), ("four", 4), ("last", 1)):
        writer.submit([put(f"{name}{row}") for row in range(size)], told.done(name))
    store.gate.set()
    await told.count(5)
    assert told.outcomes == [(name, None) for name in ("first", "two", "one", "four", "last")]
    assert store.groups == [(size, Durability.FULL) for size in (1, 3, 4, 1)]


async def test_a_failed_commit_takes_what_waited_behind_it_along(writer: FullWriter, store: GatedStore) -> None:
    told = Told()
    await busy(writer, store, told)
    store.failure = StorageUnavailable("no space")
    for name in ("b", "c", "d", "e"):
        writer.submit([put(name)], told.done(name))
    store.gate.set()
    await told.count(5)
    assert told.errors == dict.fromkeys(["first", "b", "c", "d", "e"], "no space")
    assert writer.halted
    assert writer.backlog == 0


async def test_a_halted_writer_writes_nothing_until_it_is_told_that_the_service_has_rebuilt(
    writer: FullWriter, store: GatedStore
) -> None:
    told = Told()
    store.gate.set()
    store.failure = StorageUnavailable("no space")
    writer.submit([put("a")], told.done("a"))
    await told.count(1)
    store.failure = None
    writer.submit([put("b")], told.done("b"))
    assert len(told.outcomes) == 1, "never from within the call"
    await told.count(2)
    assert told.errors["b"] == "no space"
    writer.resume()
    assert not writer.halted
    writer.submit([put("c")], told.done("c"))
    await told.count(3)
    assert told.errors["c"] is None
    assert store.tables["t"] == {"c": b"v"}


async def test_a_probe_tells_a_halted_service_when_the_store_is_back(writer: FullWriter, store: GatedStore) -> None:
    told = Told()
    store.gate.set()
    store.failure = StorageUnavailable("no space")
    writer.submit([put("a")], told.done("a"))
    await told.count(1)
    writer.probe(told.done("probe 1"))
    await told.count(2)
    store.failure = None
    writer.probe(told.done("probe 2"))
    await told.count(3)
    assert told.errors == {"a": "no space", "probe 1": "no space", "probe 2": None}
    assert writer.halted


async def test_a_failing_probe_halts_nothing_and_a_failing_commit_leaves_probes_waiting(
    writer: FullWriter, store: GatedStore
) -> None:
    told = Told()
    await busy(writer, store, told)
    writer.submit([put("b")], told.done("b"))
    writer.probe(told.done("probe"))
    writer.submit([put("c")], told.done("c"))
    store.failure = StorageUnavailable("no space")
    store.gate.set()
    await told.count(4)
    assert told.outcomes[-1][0] == "probe"
    writer.resume()
    writer.probe(told.done("again"))
    await told.count(5)
    assert not writer.halted


async def test_a_bug_in_a_store_fails_its_group_and_not_the_thread(
    writer: FullWriter, store: GatedStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    def bug(*_: object) -> None:
        raise TypeError("no such thing")

    told = Told()
    with monkeypatch.context() as patched:
        patched.setattr(store, "commit", bug)
        writer.submit([put("a")], told.done("a"))
        await told.count(1)
    assert told.errors["a"] == "memory:: TypeError: no such thing"
    store.gate.set()
    writer.resume()
    writer.submit([put("b")], told.done("b"))
    await told.count(2)
    assert told.errors["b"] is None


async def test_a_callback_that_raises_does_not_silence_the_others(writer: FullWriter, store: GatedStore) -> None:
    told, reported = Told(), []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: reported.append(context["exception"]))

    def bug(_: StorageUnavailable | None) -> None:
        raise LookupError("nobody")

    await busy(writer, store, told)
    writer.submit([put("a")], bug)
    writer.submit([put("b")], told.done("b"))
    store.gate.set()
    await told.count(2)
    assert told.errors == {"first": None, "b": None}
    assert [str(error) for error in reported] == ["nobody"]


async def test_closing_commits_what_waits_and_refuses_what_comes_after(store: GatedStore) -> None:
    writer, told = FullWriter(store), Told()
    await busy(writer, store, told)
    writer.submit([put("b")], told.done("b"))
    store.gate.set()
    await writer.close()
    await told.count(2)
    assert told.errors == {"first": None, "b": None}
    writer.submit([put("c")], told.done("c"))
    writer.probe(told.done("probe"))
    await told.count(4)
    assert told.errors["c"] == told.errors["probe"] == "memory: takes no more changes: its service is stopping"
    assert not writer._thread.is_alive() or await asyncio.to_thread(writer._thread.join, BOUND_S) is None


async def test_closing_beside_a_stuck_disk_ends_within_its_bound_and_tells_each_once(store: GatedStore) -> None:
    writer, told = FullWriter(store, group_changes=1), Told()
    await busy(writer, store, told)
    writer.submit([put("b")], told.done("b"))
    await writer.close(drain_s=0.01)
    assert told.errors == dict.fromkeys(["first", "b"], "memory: did not take it within 0.01 s of closing")
    store.gate.set()
    await asyncio.to_thread(writer._thread.join, BOUND_S)
    await asyncio.sleep(0)
    assert len(told.outcomes) == 2
    assert list(store.tables["t"]) == ["first"]


def test_a_loop_that_closed_first_leaves_the_thread_to_end_quietly(store: GatedStore) -> None:
    async def leave() -> FullWriter:
        writer = FullWriter(store)
        writer.submit([put("a")], lambda _: None)
        writer._closing = True
        return writer

    writer = asyncio.run(leave())
    store.gate.set()
    writer._thread.join(BOUND_S)
    assert not writer._thread.is_alive()
    assert store.tables["t"] == {"a": b"v"}


@pytest.mark.parametrize("new_loop", [asyncio.new_event_loop, uvloop.new_event_loop])
def test_full_and_normal_commits_share_one_sqlite_file(
    tmp_path: Path, new_loop: Callable[[], asyncio.AbstractEventLoop]
) -> None:
    with asyncio.Runner(loop_factory=new_loop) as runner:
        runner.run(commits_of_both_kinds(tmp_path))


async def commits_of_both_kinds(tmp_path: Path) -> None:
    kept = SqliteStore(tmp_path / "x.db", "error_bus")
    writer, told = FullWriter(kept), Told()
    for number in range(200):
        writer.submit([Change("full", f"{number:03}", b"v")], told.done(str(number)))
        kept.commit([Change("normal", f"{number:03}", b"v")], Durability.NORMAL)
    await told.count(200)
    await writer.close()
    assert [name for name, error in told.outcomes if error is None] == [str(number) for number in range(200)]
    assert [len(list(kept.load(table))) for table in ("full", "normal")] == [200, 200]
    kept.close()
