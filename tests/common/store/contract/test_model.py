from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from common.errors import StorageUnavailable
from common.store.memory import MemoryStore
from common.store.protocol import Change, Durability
from tests.common.store.contract import backends
from tests.common.store.contract.backends import Backend
from tests.lab.redis_server import RedisServer

TABLES = ["leases", "tasks"]
CHANGES = st.lists(
    st.builds(
        Change,
        st.sampled_from(TABLES),
        st.sampled_from(["a", "b", "c", ""]) | st.text(st.characters(codec="utf-8"), max_size=5),
        st.none() | st.binary(max_size=30),
    ),
    max_size=8,
)


class AStoreIsADictOfTables(RuleBasedStateMachine):
    made: Callable[[], Backend]

    def __init__(self) -> None:
        super().__init__()
        self.backend = type(self).made()
        self.store = self.backend.reopen()
        self.model: dict[str, dict[str, bytes]] = {table: {} for table in TABLES}

    @rule(changes=CHANGES, durability=st.sampled_from(Durability))
    def commit(self, changes: list[Change], durability: Durability) -> None:
        self.store.commit(changes, durability)
        for change in changes:
            if change.value is None:
                self.model[change.table].pop(change.key, None)
            else:
                self.model[change.table][change.key] = change.value

    @rule(changes=CHANGES)
    def fail(self, changes: list[Change]) -> None:
        if isinstance(self.store, MemoryStore):
            self.store.failure = StorageUnavailable("rehearsed")
            with pytest.raises(StorageUnavailable, match="rehearsed"):
                self.store.commit(changes, Durability.FULL)
            self.store.failure = None

    @rule()
    def check(self) -> None:
        self.store.check()

    @rule()
    def reopen(self) -> None:
        self.store.close()
        self.store = self.backend.reopen()

    @invariant()
    def holds_what_the_model_holds(self) -> None:
        for table in TABLES:
            assert list(self.store.load(table)) == sorted(self.model[table].items())

    def teardown(self) -> None:
        self.store.close()


def run(made: Callable[[], Backend], examples: int) -> None:
    machine = type("Machine", (AStoreIsADictOfTables,), {"made": staticmethod(made)})
    run_state_machine_as_test(machine, settings=settings(max_examples=examples, stateful_step_count=15, deadline=None))


def test_memory_follows_the_model() -> None:
    run(backends.memory, 60)


def test_sqlite_follows_the_model(tmp_path: Path) -> None:
    run(lambda: backends.sqlite(Path(tempfile.mkdtemp(dir=tmp_path))), 30)


def test_redis_follows_the_model(redis_server: RedisServer) -> None:
    run(lambda: backends.redis(redis_server.url), 30)
