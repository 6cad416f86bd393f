"""FULL commits: flushed aside, answered after the flush, and what was decided meanwhile fails with the group it rests on."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

import pytest

from common.api.basic import EventsSince
from common.api.words import Access, Empty, Verb
from common.errors import StorageUnavailable
from common.service.call import Call
from common.service.journal import Journal
from common.store.memory import MemoryStore
from common.store.protocol import Change, Durability
from common.store.writer import Writer
from tests.common.service.lab import NOTED, Noted, Row, Said, peer, raises, service, until

FULL_DISK = StorageUnavailable("the disk is full")
KEEP = Verb("keep", Row, Said, Access.USE, idempotent=False)
KEPT = Verb("kept", Empty, Said, Access.READ)


class SlowStore(MemoryStore):
    """A disk whose flush takes until its gate is opened; counts its commits."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = threading.Event()
        self.groups: list[tuple[int, Durability]] = []

    def commit(self, changes: Sequence[Change], durability: Durability) -> None:
        if durability is Durability.FULL and threading.current_thread() is not threading.main_thread():
            assert self.gate.wait(60)
        super().commit(changes, durability)
        self.groups.append((len(changes), durability))


@pytest.fixture
async def store() -> AsyncIterator[SlowStore]:
    made = SlowStore()
    yield made
    made.gate.set()


def change(key: str) -> list[Change]:
    return [Change("t", key, b"1")]


async def test_what_is_decided_during_a_flush_shares_the_next_one(store: SlowStore) -> None:
    journal = Journal(store, durability=Durability.FULL)
    story: list[Any] = []
    journal.write(change("a"))
    journal.hold(lambda failure: story.append(("a", failure)))
    assert not journal.commit()
    journal.hold(lambda failure: story.append(("a too", failure)))
    for key in ("b", "c", "d"):
        journal.write(change(key))
        journal.hold(lambda failure, key=key: story.append((key, failure)))  # type: ignore[misc]
    assert journal.dirty
    assert not journal.commit()
    assert story == []
    store.gate.set()
    await journal.settle()
    assert story == [("a", None), ("a too", None), ("b", None), ("c", None), ("d", None)]
    assert store.groups == [(1, Durability.FULL), (3, Durability.FULL)]
    assert (journal.commits, journal.dirty) == (2, False)
    journal.close()


async def test_a_failed_flush_fails_what_was_decided_on_it_and_memory_is_rebuilt_first(store: SlowStore) -> None:
    story: list[Any] = []
    journal = Journal(store, lambda: story.append("rebuilt"), Durability.FULL)
    store.failure = FULL_DISK
    journal.write(change("a"))
    journal.hold(story.append)
    journal.commit()
    journal.write(change("b"))
    journal.hold(story.append)
    store.gate.set()
    await journal.settle()
    assert story == ["rebuilt", FULL_DISK, FULL_DISK]
    assert store.tables.get("t", {}) == {}
    assert (journal.problem, journal.failures) == ("the disk is full", 1)
    with pytest.raises(StorageUnavailable):
        journal.begin()
    journal.probe()
    assert not journal.able
    store.failure = None
    journal.probe()
    assert journal.able
    journal.write(change("c"))
    await journal.settle()
    assert store.tables["t"] == {"c": b"1"}


async def test_memory_that_is_rebuilt_aside_holds_up_nobody_else_and_tells_nothing_until_it_is_there(
    store: SlowStore,
) -> None:
    story: list[Any] = []
    may_end = threading.Event()

    def prepare() -> Callable[[], None]:
        assert may_end.wait(60)
        story.append("prepared")
        return lambda: story.append("adopted")

    journal, other = Journal(store, durability=Durability.FULL), Journal(MemoryStore())
    journal.prepare = prepare
    store.failure = FULL_DISK
    journal.write(change("a"))
    journal.hold(story.append)
    store.gate.set()
    journal.commit()
    await until(lambda: bool(story))
    store.failure = None
    assert story == [FULL_DISK]
    for leave in (journal.look, journal.begin):
        with pytest.raises(StorageUnavailable) as refused:
            leave()
        assert refused.value.retryable
    journal.probe()
    assert not journal.able
    other.write(change("b"))
    assert other.commit()
    may_end.set()
    await until(lambda: story[1:] == ["prepared", "adopted"])
    journal.look()
    journal.probe()
    assert journal.able
    journal.close()


async def test_memory_that_cannot_be_rebuilt_aside_is_tried_again_with_the_next_probe(store: SlowStore) -> None:
    tries: list[int] = []

    def prepare() -> Callable[[], None]:
        tries.append(1)
        if len(tries) == 1:
            raise StorageUnavailable("the disk cannot be read")
        return lambda: None

    journal = Journal(store, durability=Durability.FULL)
    journal.prepare = prepare
    store.failure = FULL_DISK
    journal.write(change("a"))
    store.gate.set()
    journal.commit()
    await until(lambda: journal.problem == "the disk cannot be read")
    store.failure = None
    journal.probe()
    await journal.settle()
    assert len(tries) == 2
    journal.look()
    journal.probe()
    assert journal.able
    journal.close()


async def test_a_flush_under_way_is_not_probed_and_a_disk_that_never_answers_ends_the_waiting(store: SlowStore) -> None:
    journal = Journal(store, durability=Durability.FULL)
    told: list[Any] = []
    journal.write(change("a"))
    journal.hold(told.append)
    journal.commit()
    journal.write(change("b"))
    journal.hold(told.append)
    journal.problem = "slow"
    journal.probe()
    assert (store.groups, journal.problem) == ([], "slow")
    await journal.settle(0.01)
    assert [type(one) for one in told] == [StorageUnavailable, StorageUnavailable]
    assert "before its service stopped" in told[0].message
    journal.close()


async def test_a_writer_tells_whatever_went_wrong_and_nobody_after_its_loop() -> None:
    class Broken(MemoryStore):
        def commit(self, changes: Sequence[Change], durability: Durability) -> None:
            raise RuntimeError("a bug")

    outcome: asyncio.Future[Exception | None] = asyncio.get_running_loop().create_future()
    writer = Writer(Broken())
    writer.submit(change("a"), outcome.set_result)
    assert isinstance(await asyncio.wait_for(outcome, 60), RuntimeError)
    writer.close()
    orphan = await asyncio.to_thread(_orphan)
    orphan.join(60)
    assert not orphan.is_alive()


def _orphan() -> threading.Thread:
    """A writer's thread whose loop closes while it flushes."""
    store = SlowStore()

    async def begin() -> Writer:
        writer = Writer(store)
        writer.submit(change("a"), lambda _: None)
        return writer

    writer = asyncio.run(begin())
    store.gate.set()
    assert writer._thread is not None
    return writer._thread


async def test_a_second_journal_answers_and_publishes_after_its_own_commit(store: SlowStore) -> None:
    async with service() as lab, peer(lab.shell.port) as caller:
        journal = lab.shell.open_journal(store, Durability.FULL)
        kept: list[str] = []

        def keep(request: Row, _call: Call) -> Said:
            journal.begin()
            journal.write([Change("t", request.key, b"1")])
            kept.append(request.key)
            lab.shell.publisher.publish(NOTED, request.key, Noted(key=request.key), journal)
            return Said(text=request.key)

        lab.shell.handle(KEEP, keep, journal)
        lab.shell.handle(KEPT, lambda _request, _call: Said(text=",".join(kept)), journal)
        answer = asyncio.ensure_future(caller.plain("keep", key="slow"))
        await until(lambda: bool(kept))
        async with peer(lab.shell.port) as other:
            assert (await other.plain("echo", text="first"))["text"] == "first"
            assert (await other.plain("write", key="own", value="1"))["status"] == "success"
        assert not answer.done()
        store.gate.set()
        assert (await answer)["text"] == "slow"
        assert (await caller.plain("kept"))["text"] == "slow"
        past = lab.shell.publisher.since(
            EventsSince(topic="noted", epoch=lab.shell.publisher.cursor("noted").epoch, seq=0)
        )
        assert [event.entity for event in past.events] == ["own", "slow"]
        store.failure = FULL_DISK
        assert raises(StorageUnavailable, await caller.plain("keep", key="lost"))
        assert lab.shell.report().reasons == ["the disk is full"]
        assert (await caller.plain("write", key="own", value="2"))["status"] == "success"
        store.failure = None
