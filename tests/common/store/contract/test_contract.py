from __future__ import annotations

import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from random import Random

import pytest

from common.errors import StorageUnavailable
from common.store.protocol import Change, CorruptRecord, Durability, RecordStore, StoreRefused
from tests.common.store.contract.backends import Backend, Opened
from tests.common.store.contract.committing_child import ROWS

CHILD = Path(__file__).with_name("committing_child.py")
LOAD_S = 60.0


def put(key: str, value: bytes = b"v", table: str = "t") -> Change:
    return Change(table, key, value)


@pytest.fixture(params=list(Durability))
def durability(request: pytest.FixtureRequest) -> Durability:
    return Durability(request.param)


def test_an_empty_table_loads_nothing(backend: Backend) -> None:
    with Opened(backend) as store:
        assert list(store.load("never heard of")) == []


def test_rows_load_in_order_of_key_by_code_point(backend: Backend, durability: Durability) -> None:
    keys = ["b", "", "a b", "é", "B", "\U0001f600", "\ufffd", "nul\0inside", "b" * 300]
    with Opened(backend) as store:
        store.commit([put(key, key.encode()) for key in keys], durability)
        assert list(store.load("t")) == [(key, key.encode()) for key in sorted(keys)]


def test_values_come_back_byte_for_byte(backend: Backend) -> None:
    values = {"empty": b"", "every": bytes(range(256)), "large": bytes(3_000_000)}
    with Opened(backend) as store:
        store.commit([put(key, value) for key, value in values.items()], Durability.NORMAL)
        assert dict(store.load("t")) == values


def test_the_last_change_of_a_key_wins_within_one_commit(backend: Backend, durability: Durability) -> None:
    changes = [put("a", b"1"), put("a", b"2"), put("b"), Change("t", "b", None), Change("t", "c", None), put("c", b"3")]
    with Opened(backend) as store:
        store.commit(changes, durability)
        assert list(store.load("t")) == [("a", b"2"), ("c", b"3")]


def test_deleting_takes_one_row_and_no_more(backend: Backend, durability: Durability) -> None:
    with Opened(backend) as store:
        store.commit([put("a"), put("b"), put("a", table="other")], durability)
        store.commit([Change("t", "a", None), Change("t", "absent", None)], durability)
        assert list(store.load("t")) == [("b", b"v")]
        assert list(store.load("other")) == [("a", b"v")]


def test_an_empty_commit_changes_nothing(backend: Backend, durability: Durability) -> None:
    with Opened(backend) as store:
        store.commit([], durability)
        store.check()
        assert list(store.load("t")) == []


def test_what_was_committed_is_there_after_reopening(backend: Backend, durability: Durability) -> None:
    with Opened(backend) as store:
        store.commit([put("a", b"1"), put("b")], durability)
        store.commit([put("a", b"2"), Change("t", "b", None)], durability)
    with Opened(backend) as store:
        assert list(store.load("t")) == [("a", b"2")]


def test_a_table_can_be_changed_while_it_is_being_loaded(backend: Backend) -> None:
    with Opened(backend) as store:
        store.commit([put(f"{number:05}") for number in range(2500)], Durability.NORMAL)
        seen = []
        for key, _ in store.load("t"):
            seen.append(key)
            if key == "00010":
                store.commit([Change("t", "00005", None), put("00007", b"new")], Durability.NORMAL)
        assert seen == [f"{number:05}" for number in range(2500)]


def test_a_closed_store_takes_nothing_and_closes_twice(backend: Backend) -> None:
    store = backend.reopen()
    store.close()
    store.close()
    with pytest.raises(StorageUnavailable, match="closed"):
        store.commit([put("a")], Durability.NORMAL)
    with pytest.raises(StorageUnavailable, match="closed"):
        list(store.load("t"))


def test_a_change_that_cannot_be_stored_leaves_the_others_out_too(durable: Backend) -> None:
    with Opened(durable) as store:
        with pytest.raises(UnicodeError):
            store.commit([put("a"), put("\ud800")], Durability.NORMAL)
        store.commit([put("b")], Durability.NORMAL)
        assert list(store.load("t")) == [("b", b"v")]


def test_a_second_opener_is_told_who_holds_the_store(durable: Backend) -> None:
    with Opened(durable) as store:
        with pytest.raises(StoreRefused, match=rf"held by {durable.name}, pid \d+ on .* since 20"):
            durable.reopen()
        store.commit([put("a")], Durability.FULL)
    with Opened(durable) as store:
        assert list(store.load("t")) == [("a", b"v")]


def test_a_hundred_thousand_records_load_quickly(durable: Backend) -> None:
    with Opened(durable) as store:
        for start in range(0, 100_000, 10_000):
            rows = [put(f"lease-{number:016x}", b"x" * 200) for number in range(start, start + 10_000)]
            store.commit(rows, Durability.NORMAL)
    began = time.monotonic()
    with Opened(durable) as store:
        assert sum(1 for _ in store.load("t")) == 100_000
    assert time.monotonic() - began < LOAD_S


@pytest.mark.parametrize("seed", range(4))
def test_kill_9_loses_no_acknowledged_group_and_leaves_no_half_group(
    durable: Backend, durability: Durability, seed: int
) -> None:
    acknowledged = killed_child(durable, durability, after=Random(seed).randint(1, 60))
    with Opened(durable) as store:
        groups = whole_groups(store)
        assert set(range(acknowledged + 1)) <= set(groups)
        store.commit([put("a")], durability)


def killed_child(backend: Backend, durability: Durability, after: int) -> int:
    """The last group that a child acknowledged before it was killed in the midst of its work."""
    child = subprocess.Popen(
        [sys.executable, str(CHILD), backend.url, backend.name, durability], stdout=subprocess.PIPE, text=True
    )
    assert child.stdout is not None
    with child.stdout as lines:
        for line in lines:
            if int(line) == after:
                child.kill()
        said = int(line)
    child.wait(60)
    return said


def whole_groups(store: RecordStore) -> list[int]:
    """The numbers of the groups there; every one of them whole, the newest as said."""
    rows = Counter(int(value) for _, value in store.load("groups"))
    assert set(rows.values()) <= {ROWS}
    assert dict(store.load("newest")) == {"group": b"%d" % max(rows)}
    return sorted(rows)


def test_the_errors_of_a_store_say_whether_trying_again_helps() -> None:
    assert StorageUnavailable.retryable
    assert not StoreRefused.retryable
    assert not CorruptRecord.retryable
