from __future__ import annotations

from typing import Any

import msgspec
import pytest

from common.store.memory import MemoryStore
from common.store.protocol import Change, CorruptRecord, Durability
from common.store.records import Records


class Lease(msgspec.Struct, frozen=True):
    model: str
    size_bytes: int
    priority: int = 50


class OlderLease(msgspec.Struct, frozen=True):
    model: str
    size_bytes: int


class FirstLease(msgspec.Struct, frozen=True):
    name: str
    mib: int


def in_bytes(fields: dict[str, Any]) -> dict[str, Any]:
    return {"name": fields["name"], "size_bytes": fields["mib"] * 2**20}


def renamed(fields: dict[str, Any]) -> dict[str, Any]:
    return {"model": fields.pop("name"), **fields}


LEASES = Records("leases", Lease)


def value_of(change: Change) -> bytes:
    assert change.value is not None
    return change.value


def test_a_record_comes_back_from_the_store_as_it_was() -> None:
    store = MemoryStore()
    lease = Lease("whisper-large", 10 * 2**30)
    store.commit([LEASES.put("b", lease), LEASES.put("a", lease), LEASES.put("c", lease)], Durability.NORMAL)
    store.commit([LEASES.delete("c")], Durability.NORMAL)
    assert list(LEASES.load(store)) == [("a", lease), ("b", lease)]


def test_an_older_row_takes_the_default_of_a_field_it_lacks() -> None:
    row = Records("leases", OlderLease).put("a", OlderLease("m", 1))
    assert LEASES.decode("a", value_of(row), "x.db") == Lease("m", 1, 50)


def test_an_older_reader_ignores_a_field_it_does_not_know() -> None:
    row = LEASES.put("a", Lease("m", 1, 70))
    assert Records("leases", OlderLease).decode("a", value_of(row), "x.db") == OlderLease("m", 1)


def test_a_row_of_an_older_version_is_upgraded_step_by_step() -> None:
    first = Records("leases", FirstLease).put("a", FirstLease("m", 3))
    third = Records("leases", Lease, version=3, upgrades={1: in_bytes, 2: renamed})
    assert third.decode("a", value_of(first), "x.db") == Lease("m", 3 * 2**20)


def test_a_version_without_the_upgrades_to_it_is_a_mistake_found_at_once() -> None:
    with pytest.raises(ValueError, match="needs one upgrade from each version below"):
        Records("leases", Lease, version=3, upgrades={1: in_bytes})


def test_a_row_of_a_newer_version_says_which_versions_can_be_read() -> None:
    newer = Records("leases", Lease, version=2, upgrades={1: renamed}).put("a", Lease("m", 1))
    with pytest.raises(CorruptRecord, match="of version 2; this Tandem reads 1 to 1"):
        LEASES.decode("a", value_of(newer), "x.db")


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b"\xc1",
        b"not msgpack",
        msgspec.msgpack.encode(7),
        msgspec.msgpack.encode(("1", {})),
        msgspec.msgpack.encode((0, {})),
        msgspec.msgpack.encode((1, {"model": "m"})),
        msgspec.msgpack.encode((1, {"model": 7, "size_bytes": 1})),
        msgspec.msgpack.encode((1, {"model": "m", "size_bytes": 1}))[:-1],
        b"\x92\x01" + b"\x91" * 100_000,
        b"\x92\x01\x82\xa5model\xa1\xff\xaasize_bytes\x01",
    ],
)
def test_a_damaged_row_is_named_with_its_store_table_and_key(value: bytes) -> None:
    with pytest.raises(
        CorruptRecord, match=r"row 'a' of table 'leases' in /var/x\.db cannot be read: .+; run"
    ) as caught:
        LEASES.decode("a", value, "/var/x.db")
    assert caught.value.details == {"where": "/var/x.db", "table": "leases", "key": "a"}


def test_a_damaged_row_of_an_older_version_is_named_too() -> None:
    second = Records("leases", Lease, version=2, upgrades={1: renamed})
    with pytest.raises(CorruptRecord, match="row 'a' of table 'leases'"):
        second.decode("a", msgspec.msgpack.encode((1, {"no": "name"})), "x.db")
