"""What a service promises about its memory: answers and events after the commit, a failed group refused as one."""

from __future__ import annotations

import json
from typing import Any

import pytest

from common.errors import StorageUnavailable
from common.service.journal import Journal
from common.store.memory import MemoryStore
from common.store.protocol import Change
from tests.common.service.lab import NOTED, heard, native, peer, raises, service

FULL_DISK = StorageUnavailable("the disk is full")


async def test_answers_wait_for_their_groups_commit() -> None:
    journal = Journal(store := MemoryStore())
    told: list[Any] = []
    journal.hold(told.append)
    assert told == [None]
    journal.write([Change("t", "a", b"1")])
    assert journal.dirty
    journal.hold(told.append)
    assert told == [None]
    assert journal.commit()
    assert told == [None, None]
    assert store.tables == {"t": {"a": b"1"}}
    assert not journal.commit()


async def test_a_group_nobody_commits_is_committed_in_the_next_turn() -> None:
    journal = Journal(store := MemoryStore())
    journal.write([Change("t", "a", b"1")])
    journal.write([Change("t", "b", b"2")])
    await journal.committed()
    assert store.tables == {"t": {"a": b"1", "b": b"2"}}
    assert journal.commits == 1
    await journal.committed()


async def test_a_failed_group_is_refused_as_one_and_memory_is_rebuilt_before_anyone_is_told() -> None:
    store = MemoryStore()
    story: list[Any] = []
    journal = Journal(store, lambda: story.append("rebuilt"))
    store.failure = FULL_DISK
    journal.write([Change("t", "a", b"1")])
    journal.hold(story.append)
    journal.hold(story.append)
    journal.commit()
    assert story == ["rebuilt", FULL_DISK, FULL_DISK]
    assert (journal.failures, journal.problem) == (1, "the disk is full")
    journal.write([Change("t", "a", b"2")])
    with pytest.raises(StorageUnavailable, match="full"):
        await journal.committed()
    store.failure = None
    journal.write([Change("t", "a", b"3")])
    await journal.committed()
    assert journal.problem == ""
    assert store.tables == {"t": {"a": b"3"}}


async def test_while_memory_cannot_be_rebuilt_no_change_is_taken() -> None:
    store = MemoryStore()
    journal = Journal(store, lambda: list(store.load("t")) and None)
    store.failure = FULL_DISK
    journal.write([Change("t", "a", b"1")])
    journal.commit()
    with pytest.raises(StorageUnavailable):
        journal.write([Change("t", "a", b"2")])
    for refused in (journal.begin, journal.look):
        with pytest.raises(StorageUnavailable):
            refused()
    assert not journal.dirty
    journal.probe()
    assert not journal.able
    store.failure = None
    journal.probe()
    assert journal.able
    journal.begin()
    journal.write([Change("t", "a", b"3")])
    assert journal.commit()
    assert store.tables["t"] == {"a": b"3"}


async def test_who_stopped_waiting_for_a_commit_is_passed_over() -> None:
    journal = Journal(MemoryStore())
    journal.write([Change("t", "a", b"1")])
    waiting = journal.committed()
    future = waiting.send(None)
    assert future is not None
    future.cancel()
    assert journal.commit()
    waiting.close()


async def test_who_stumbles_over_a_commit_keeps_nobody_else_from_being_told(caplog: pytest.LogCaptureFixture) -> None:
    journal = Journal(MemoryStore())
    told: list[Any] = []
    journal.write([Change("t", "a", b"1")])
    journal.hold(lambda _: told[1])
    journal.hold(told.append)
    assert journal.commit()
    assert told == [None]
    assert "held for a commit" in caplog.text


@pytest.mark.parametrize("where", ["the store", "the rebuild"])
async def test_a_bug_below_a_commit_is_told_to_everyone_who_waits_for_it(where: str) -> None:
    class Odd(MemoryStore):
        def commit(self, changes: Any, durability: Any) -> None:
            raise ValueError("a key of lone surrogates") if where == "the store" else FULL_DISK

    def rebuild() -> None:
        if where == "the rebuild":
            raise ValueError("facts that do not fit")

    journal = Journal(Odd(), rebuild)
    told: list[Any] = []
    journal.write([Change("t", "a", b"1")])
    journal.hold(told.append)
    assert journal.commit()
    assert [type(failure) for failure in told] == [StorageUnavailable]
    assert not journal.able
    assert journal.failures == 1


async def test_what_a_handler_wrote_is_there_when_its_answer_is() -> None:
    store = MemoryStore()
    async with service(store=store) as lab, peer(lab.shell.port) as caller:
        assert (await caller.plain("write", key="a", value="1"))["text"] == "1"
        assert store.tables["rows"] == {"a": b"1"}
        assert lab.shell.counters()["commits"] == 1


async def test_a_failed_commit_refuses_the_whole_group_and_nothing_of_it_is_seen_afterwards() -> None:
    store = MemoryStore()
    async with service(store=store) as lab, peer(lab.shell.port) as caller:
        await caller.plain("write", key="a", value="old")
        store.failure = FULL_DISK
        for call_id in range(5):
            await caller.send(*native("write", {"key": "a", "value": str(call_id)}, call_id))
        replies = [heard(await caller.receive()) for _ in range(5)]
        assert {(body["code"], body["retryable"]) for _, body in replies} == {("storage_unavailable", True)}
        health = await caller.plain("ping")
        assert (health["status"], health["reasons"]) == ("degraded", ["the disk is full"])
        store.failure = None
        lab.shell.journal.probe()
        assert raises(StorageUnavailable, await caller.plain("write", key="a", value="x")) is False
        assert (await caller.plain("read", key="a"))["text"] == "x"
        assert (await caller.plain("ping"))["status"] == "ok"
        assert lab.rebuilt >= 1
        assert lab.shell.publisher.cursor(NOTED.name).seq == 2


async def test_memory_after_a_failure_is_what_the_store_holds() -> None:
    store = MemoryStore()
    async with service(store=store) as lab, peer(lab.shell.port) as caller:
        await caller.plain("write", key="a", value="kept")
        lab.shell.journal.write([Change("rows", "b", b"never")])
        lab.rows["b"] = "never"
        failing = MemoryStore(store.tables)
        failing.failure = FULL_DISK
        lab.shell.journal._store = failing
        lab.shell.journal.commit()
        lab.shell.journal._store = store
        assert lab.rows == {"a": "kept"}
        assert json.dumps(await caller.plain("read", key="b")) == '{"status": "success", "text": "", "size": 0}'
