"""Chooses a backend from one setting: a folder for SQLite, a URL for Redis, `memory:` for none."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

from common.store.memory import MemoryStore
from common.store.protocol import Durability, RecordStore, StoreRefused

_SCHEME: Final = re.compile(r"([a-z][a-z0-9+.-]+):")
_NAME: Final = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}")


def open_store(url_or_path: str | Path, name: str, needs: Durability = Durability.FULL) -> RecordStore:
    """The store of the service `name`, ready and held by this process until closed.

    A folder holds NAME.db; `redis://`, `rediss://` and `unix://` name a Redis server and `memory:` forgets. `needs` is the
    strongest durability that will be asked for. Raises ValueError when `name` is not 1 to 64 lower-case letters, digits,
    dashes and underscores, StoreRefused or StorageUnavailable when it cannot be opened.
    """
    if not _NAME.fullmatch(name):
        raise ValueError(f"a store's name is lower-case letters, digits, dashes and underscores, not {name!r}")
    scheme = None if isinstance(url_or_path, Path) else _SCHEME.match(url_or_path)
    match scheme and scheme[1]:
        case None:
            from common.store.sqlite import SqliteStore

            return SqliteStore(Path(url_or_path) / f"{name}.db", name)
        case "redis" | "rediss" | "unix":
            from common.store.redis import RedisStore

            return RedisStore(str(url_or_path), name, needs)
        case "memory":
            return MemoryStore()
        case other:
            raise StoreRefused(f"no store speaks {other}:; name a folder, redis://, rediss://, unix:// or memory:")
