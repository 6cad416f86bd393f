from __future__ import annotations

from pathlib import Path

import pytest

from common.store.memory import MemoryStore
from common.store.open import open_store
from common.store.protocol import Durability, StoreRefused
from common.store.redis import RedisStore
from common.store.sqlite import SqliteStore
from tests.lab.redis_server import RedisServer


@pytest.mark.parametrize("kind", [str, Path])
def test_a_folder_is_sqlite(tmp_path: Path, kind: type[str] | type[Path]) -> None:
    store = open_store(kind(tmp_path / "new" / "folder"), "error_bus")
    assert isinstance(store, SqliteStore)
    assert store.where == str(tmp_path / "new" / "folder" / "error_bus.db")
    store.close()


def test_memory_is_memory() -> None:
    store = open_store("memory:", "error_bus")
    assert isinstance(store, MemoryStore)
    assert store.where == "memory:"


def test_a_redis_url_is_redis(redis_server: RedisServer) -> None:
    store = open_store(redis_server.tcp_url, "open-test", Durability.NORMAL)
    assert isinstance(store, RedisStore)
    assert store.where == f"redis://127.0.0.1:{redis_server.port}/0 (tandem:{{open-test}})"
    store.close()


def test_an_unknown_scheme_is_refused_with_the_known_ones() -> None:
    with pytest.raises(StoreRefused, match=r"no store speaks postgres:; name a folder, redis://"):
        open_store("postgres://localhost/x", "error_bus")


@pytest.mark.parametrize("name", ["", "../x", "Upper", "a b", "x" * 65, "-x"])
def test_a_name_that_could_leave_the_folder_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match="a store's name"):
        open_store(tmp_path, name)
