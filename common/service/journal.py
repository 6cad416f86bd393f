"""The group commit: what a turn of the loop decided is made durable at once, and only then acted upon.

A handler applies its facts to memory and writes their rows here; every reply and event that follows is held until the group's
commit. When it fails the whole group is refused as `storage_unavailable`, and memory is rebuilt from the store before the
next change.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from common.errors import StorageUnavailable
from common.store.protocol import Change, Durability, RecordStore

Held = Callable[[StorageUnavailable | None], None]


class Journal:
    """One service's open group; `rebuild` loads the service's memory anew from the store."""

    def __init__(self, store: RecordStore, rebuild: Callable[[], None] = lambda: None) -> None:
        self._loop = asyncio.get_running_loop()
        self._store = store
        self.rebuild = rebuild
        self._changes: list[Change] = []
        self._held: list[Held] = []
        self._scheduled = False
        self._must_rebuild = False
        self.commits = 0
        self.failures = 0
        self.problem = ""

    @property
    def dirty(self) -> bool:
        """Whether something awaits its commit, so that whatever is said now must wait for it."""
        return bool(self._changes)

    def write(self, changes: Sequence[Change]) -> None:
        """Add rows to the open group; StorageUnavailable when the last failure could not be mended yet."""
        if self._must_rebuild:
            self._mend()
        self._changes.extend(changes)
        if not self._scheduled:
            self._scheduled = True
            self._loop.call_soon(self._commit_soon)

    def hold(self, done: Held) -> None:
        """Run `done` with None after the group's commit, or with the reason why there was none."""
        if self.dirty:
            self._held.append(done)
        else:
            done(None)

    async def committed(self) -> None:
        """Wait for the group's commit; StorageUnavailable if it failed."""
        if not self.dirty:
            return
        future: asyncio.Future[None] = self._loop.create_future()
        self.hold(lambda failure: _settle(future, failure))
        await future

    def _commit_soon(self) -> None:
        self._scheduled = False
        self.commit()

    def commit(self) -> bool:
        """Commit the open group now; whether there was one."""
        if not self._changes:
            return False
        changes, self._changes = self._changes, []
        held, self._held = self._held, []
        failure: StorageUnavailable | None = None
        try:
            self._store.commit(changes, Durability.NORMAL)
            self.commits += 1
            self.problem = ""
        except StorageUnavailable as error:
            failure = error
            self._failed(error)
        for done in held:
            done(failure)
        return True

    def _failed(self, error: StorageUnavailable) -> None:
        self.failures += 1
        self.problem = error.message
        self._must_rebuild = True
        try:
            self._mend()
        except StorageUnavailable as still:
            self.problem = still.message

    def _mend(self) -> None:
        self.rebuild()
        self._must_rebuild = False


def _settle(future: asyncio.Future[None], failure: StorageUnavailable | None) -> None:
    if future.done():
        return
    if failure is None:
        future.set_result(None)
    else:
        future.set_exception(failure)
