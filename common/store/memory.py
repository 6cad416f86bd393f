"""A store that lives and dies with its process: for embedding without a disk and for rehearsing its failures."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence

from common.errors import StorageUnavailable
from common.store.protocol import PROBE, Change, Durability, net_effect

Tables = dict[str, dict[str, bytes]]


class MemoryStore:
    """A RecordStore in `tables`, which outlive it: a store opened on the same tables finds what was committed.

    While `failure` is set, every commit, check and load raises it and changes nothing.
    """

    def __init__(self, tables: Tables | None = None) -> None:
        self.tables: Tables = {} if tables is None else tables
        self.failure: StorageUnavailable | None = None
        self._lock = threading.Lock()

    @property
    def where(self) -> str:
        """Always `memory:`."""
        return "memory:"

    def load(self, table: str) -> Iterator[tuple[str, bytes]]:
        """The rows as they were when the first was asked for."""
        with self._lock:
            self._raise_failure()
            rows = sorted(self.tables.get(table, {}).items())
        yield from rows

    def commit(self, changes: Sequence[Change], durability: Durability) -> None:
        """Applies all changes at once; `durability` promises nothing here, since nothing outlives the process."""
        puts, deletes = net_effect(changes)
        with self._lock:
            self._raise_failure()
            for table, key, value in puts:
                self.tables.setdefault(table, {})[key] = value
            for table, key in deletes:
                self.tables.get(table, {}).pop(key, None)

    def check(self) -> None:
        """Raises what a commit would."""
        self.commit((PROBE,), Durability.FULL)

    def close(self) -> None:
        """Refuses everything from now on."""
        self.failure = StorageUnavailable("memory: is closed: its service is stopping")

    def _raise_failure(self) -> None:
        if self.failure is not None:
            raise self.failure
