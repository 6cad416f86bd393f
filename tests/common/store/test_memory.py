from __future__ import annotations

import pytest

from common.errors import StorageUnavailable
from common.store.memory import MemoryStore
from common.store.protocol import Change, Durability


def test_a_rehearsed_failure_changes_nothing_and_ends_when_taken_away() -> None:
    store = MemoryStore()
    store.failure = StorageUnavailable("no space on /var")
    for call in (
        store.check,
        lambda: store.commit([Change("t", "a", b"1")], Durability.FULL),
        lambda: list(store.load("t")),
    ):
        with pytest.raises(StorageUnavailable, match="no space on /var"):
            call()
    store.failure = None
    assert list(store.load("t")) == []
    store.check()
