"""One typed table: decides how a struct becomes a row's bytes and how an older row becomes today's struct.

A row is the msgpack array [version, record]. Adding a field with a default needs no new version: older rows lack it and
take the default, and readers ignore fields that they do not know. Anything else raises the version and comes with an
upgrade from the one before. It never reads or writes by itself; it is given a store.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Generic, TypeVar

import msgspec

from common.store.protocol import Change, CorruptRecord, RecordStore

T = TypeVar("T", bound=msgspec.Struct)
Upgrade = Callable[[dict[str, Any]], dict[str, Any]]


class Records(Generic[T]):
    """The codec of one table of `type` at schema `version`.

    `upgrades[n]` turns a record of version n, as plain fields, into one of version n + 1; every version from 1 to
    `version` - 1 needs one.
    """

    def __init__(
        self, table: str, type: type[T], *, version: int = 1, upgrades: Mapping[int, Upgrade] | None = None
    ) -> None:
        self.table = table
        self.version = version
        self._type = type
        self._upgrades = dict(upgrades or {})
        if set(self._upgrades) != set(range(1, version)):
            raise ValueError(f"table {table!r} at version {version} needs one upgrade from each version below it")
        self._encoder = msgspec.msgpack.Encoder()
        self._envelope = msgspec.msgpack.Decoder(tuple[int, msgspec.Raw])
        self._decoder = msgspec.msgpack.Decoder(type)

    def put(self, key: str, record: T) -> Change:
        """The change that makes `record` the newest of `key`."""
        return Change(self.table, key, self._encoder.encode((self.version, record)))

    def delete(self, key: str) -> Change:
        """The change that forgets `key`."""
        return Change(self.table, key, None)

    def load(self, store: RecordStore) -> Iterator[tuple[str, T]]:
        """Every record of the table in order of key; raises CorruptRecord at the first row that cannot be read."""
        for key, value in store.load(self.table):
            yield key, self.decode(key, value, store.where)

    def decode(self, key: str, value: bytes, where: str) -> T:
        """The record in `value`; raises CorruptRecord naming `where`, the table and the key."""
        try:
            version, body = self._envelope.decode(value)
            if version == self.version:
                return self._decoder.decode(body)
            if 1 <= version < self.version:
                return self._upgraded(version, body)
        except (msgspec.MsgspecError, UnicodeError, RecursionError, LookupError, TypeError, ValueError) as error:
            raise self._unreadable(key, where, str(error)) from error
        raise self._unreadable(key, where, f"it is of version {version}; this Tandem reads 1 to {self.version}")

    def _upgraded(self, version: int, body: msgspec.Raw) -> T:
        fields = msgspec.msgpack.decode(body, type=dict[str, Any])
        for step in range(version, self.version):
            fields = self._upgrades[step](fields)
        return msgspec.convert(fields, self._type)

    def _unreadable(self, key: str, where: str, why: str) -> CorruptRecord:
        return CorruptRecord(
            f"row {key!r} of table {self.table!r} in {where} cannot be read: {why}; "
            "run the Tandem that wrote it, restore a backup, or delete this row to go on without it",
            where=where,
            table=self.table,
            key=key,
        )
