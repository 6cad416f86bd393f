"""The backends that pass the contract, each as a place that can be opened again and again."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from common.store.memory import MemoryStore, Tables
from common.store.open import open_store
from common.store.protocol import RecordStore

NAME = "contract"


@dataclass(frozen=True)
class Backend:
    """`reopen` opens the place again, by this process; `url` and `name` are what another process opens it by."""

    kind: str
    reopen: Callable[[], RecordStore]
    url: str = ""
    name: str = NAME


def memory() -> Backend:
    tables: Tables = {}
    return Backend("memory", lambda: MemoryStore(tables))


def sqlite(folder: Path) -> Backend:
    return Backend("sqlite", lambda: open_store(folder, NAME), str(folder))


def redis(url: str) -> Backend:
    name = f"contract-{uuid.uuid4().hex}"
    return Backend("redis", lambda: open_store(url, name), url, name)


class Opened:
    """A store that closes with its block."""

    def __init__(self, backend: Backend) -> None:
        self.store = backend.reopen()

    def __enter__(self) -> RecordStore:
        return self.store

    def __exit__(self, *_: object) -> None:
        self.store.close()
