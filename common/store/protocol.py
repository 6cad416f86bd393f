"""What every store promises: named tables of key to bytes, changed in atomic groups, loaded in order of key.

A table holds the newest record of each thing, so that start-up reads the present and not the past. The rows of one
table are always committed with one durability. This file says what a store does; it never touches a disk or a server.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from enum import StrEnum
from typing import ClassVar, Final, Protocol

import msgspec

from common.errors import StorageUnavailable

SCHEMA: Final = 1
"""The layout of tables and keys that this code reads and writes; a store with a higher one is refused."""


class Change(msgspec.Struct, frozen=True):
    """The newest bytes of one row; `value` None deletes the row, and deleting an absent row is no error."""

    table: str
    key: str
    value: bytes | None


class Durability(StrEnum):
    """What a commit outlives: NORMAL the death of any process (kill -9), FULL the loss of power too."""

    NORMAL = "normal"
    FULL = "full"


class StoreRefused(StorageUnavailable):
    """The store cannot be used until someone mends what the sentence names; trying again cannot help.

    Held by another process, written by a newer Tandem, damaged, or set up so that it cannot keep what it promises.
    """

    retryable: ClassVar[bool] = False


class CorruptRecord(StoreRefused):
    """One row cannot be read; the sentence names the file or server, the table and the key."""


class RecordStore(Protocol):
    """One service's memory: one writer, safe to call from any thread, one call at a time inside.

    After a failed commit the caller loads everything anew before its next change: the failed group is then either there
    in full or not at all, and never changes its mind later.
    """

    @property
    def where(self) -> str:
        """The file, or the server and prefix, as a person would name it; holds no password."""
        ...

    def load(self, table: str) -> Iterator[tuple[str, bytes]]:
        """Every row of `table` in order of key (by code point); raises StorageUnavailable, also midway."""
        ...

    def commit(self, changes: Sequence[Change], durability: Durability) -> None:
        """Applies all changes or none; the last change of a key wins.

        Returns once they will survive what `durability` names. Raises StorageUnavailable, saying what, where and how to
        mend it; the store itself needs no reopening afterwards.
        """
        ...

    def check(self) -> None:
        """Writes `PROBE` in full; raises StorageUnavailable while a commit would most likely fail."""
        ...

    def close(self) -> None:
        """Gives the store up to the next opener; a second call does nothing."""
        ...


PROBE: Final = Change("_probe", "room", bytes(64 * 1024))
"""The row that `check` writes; as large as most groups, so that a nearly full disk is not called mended."""


def net_effect(changes: Iterable[Change]) -> tuple[list[tuple[str, str, bytes]], list[tuple[str, str]]]:
    """The rows to put and the rows to delete when only the last change of each row counts; no row is in both."""
    last = {(change.table, change.key): change.value for change in changes}
    puts = [(table, key, value) for (table, key), value in last.items() if value is not None]
    deletes = [row for row, value in last.items() if value is None]
    return puts, deletes
