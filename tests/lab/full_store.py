"""A store in memory whose disk can be full."""

from __future__ import annotations

from collections.abc import Sequence

from common.errors import StorageUnavailable
from common.store.memory import MemoryStore
from common.store.protocol import Change, Durability


class FullStore(MemoryStore):
    """A store whose disk can be full."""

    full = False

    def commit(self, changes: Sequence[Change], durability: Durability) -> None:
        """Refuses while full."""
        if self.full:
            raise StorageUnavailable("the disk is full; free space on it")
        super().commit(changes, durability)

    def check(self) -> None:
        """Refuses while full."""
        if self.full:
            raise StorageUnavailable("the disk is still full; free space on it")
