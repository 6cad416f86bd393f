"""The group commit: what a turn of the loop decided is made durable at once, and only then acted upon.

A handler applies its facts to memory and writes their rows here; every reply and event that follows is held until the group's
commit. When it fails the whole group is refused as `storage_unavailable`, memory is rebuilt from the store, and no change is
decided until the store takes something again. Who has so much in memory that this would hold up the loop has it rebuilt aside:
until that is done nothing is told of it either, and others on the same loop go on.

A NORMAL group is committed inline. A FULL one is flushed by a writer's thread: what is decided meanwhile gathers in the next
group, which follows at once. Those decisions rest on the group under way, so where it fails they fail with it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from typing import Final

from common.errors import StorageUnavailable
from common.store.protocol import Change, Durability, RecordStore
from common.store.writer import Writer, stopped

Held = Callable[[StorageUnavailable | None], None]

PROBE_S: Final = 0.25
RETRY_AFTER_MS: Final = 500
SETTLE_S: Final = 3.0


class Journal:
    """One service's open group; `rebuild` loads the service's memory anew from the store.

    Where there is a `prepare`, it does so instead: it is called in a thread, leaves alone what the loop uses, and returns
    what puts the new memory in the place of the old one, which is called on the loop.
    """

    def __init__(
        self,
        store: RecordStore,
        rebuild: Callable[[], None] = lambda: None,
        durability: Durability = Durability.NORMAL,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._store = store
        self._writer = Writer(store) if durability is Durability.FULL else None
        self._flushing: list[Held] | None = None
        self.rebuild = rebuild
        self.prepare: Callable[[], Callable[[], None]] | None = None
        self._mending: asyncio.Task[None] | None = None
        self._changes: list[Change] = []
        self._held: list[Held] = []
        self._scheduled = False
        self._must_rebuild = False
        self.commits = 0
        self.failures = 0
        self.problem = ""
        self._log = logging.getLogger("tandem.service")

    @property
    def dirty(self) -> bool:
        """Whether something awaits its commit, so that whatever is said now must wait for it."""
        return bool(self._changes) or self._flushing is not None

    @property
    def able(self) -> bool:
        """Whether a change may be decided now: the store takes commits, as far as is known, and memory agrees with it."""
        return not self.problem

    def begin(self) -> None:
        """Leave to decide a change on memory; StorageUnavailable while the store takes none.

        A failed commit costs a rebuild, so that a store which takes nothing is probed, not tried with every change.
        """
        if self.problem:
            raise StorageUnavailable(self.problem, retry_after_ms=RETRY_AFTER_MS)

    def look(self) -> None:
        """Leave to tell what must be durable; StorageUnavailable while memory could not be rebuilt after a failed commit."""
        if self._must_rebuild:
            raise StorageUnavailable(self.problem, retry_after_ms=RETRY_AFTER_MS)

    def write(self, changes: Sequence[Change]) -> None:
        """Add rows to the open group; StorageUnavailable while memory does not agree with the store."""
        self.look()
        self._changes.extend(changes)
        if not self._scheduled:
            self._scheduled = True
            self._loop.call_soon(self._commit_soon)

    def probe(self) -> None:
        """While the store takes nothing: try it, mend memory, and let changes be decided again; called every PROBE_S."""
        if not self.problem or self._flushing is not None or self._mending is not None:
            return
        try:
            self._store.check()
            if self._must_rebuild:
                self._mend()
        except Exception as error:
            self.problem = self._explained(error).message
        else:
            if self._mending is None:
                self.problem = ""

    def hold(self, done: Held) -> None:
        """Run `done` with None after the group's commit, or with the reason why there was none."""
        if self._changes:
            self._held.append(done)
        elif self._flushing is not None:
            self._flushing.append(done)
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
        """Commit the open group now; whether there was one and its replies are on their way. A FULL group is only begun."""
        if not self._changes:
            return False
        if self._writer is not None:
            if self._flushing is None:
                self._flush(self._writer)
            return False
        changes, self._changes = self._changes, []
        failure: Exception | None = None
        try:
            self._store.commit(changes, Durability.NORMAL)
        except Exception as error:
            failure = error
        self._ended(self._take_held(), failure)
        return True

    def _flush(self, writer: Writer) -> None:
        changes, self._changes = self._changes, []
        self._flushing = self._take_held()
        writer.submit(changes, self._flushed)

    def _flushed(self, error: Exception | None) -> None:
        held, self._flushing = self._flushing or [], None
        if error is not None:
            self._changes.clear()
            held += self._take_held()
        self._ended(held, error)
        self.commit()

    def _take_held(self) -> list[Held]:
        held, self._held = self._held, []
        return held

    def _ended(self, held: list[Held], error: Exception | None) -> None:
        failure: StorageUnavailable | None = None
        if error is None:
            self.commits += 1
            self.problem = ""
        else:
            failure = self._explained(error)
            self._failed(failure)
        for done in held:
            self._tell(done, failure)

    async def settle(self, within_s: float = SETTLE_S) -> None:
        """Commit what is open and wait for it; who still waits after `within_s` seconds is told that it was not seen kept."""
        self.commit()
        if self._mending is not None:
            await asyncio.wait([self._mending], timeout=within_s)
        try:
            async with asyncio.timeout(within_s):
                while self.dirty:
                    await self.committed()
        except StorageUnavailable:
            return
        except TimeoutError:
            held, self._flushing = [*(self._flushing or []), *self._take_held()], None
            for done in held:
                self._tell(done, stopped(self._store.where))

    def close(self) -> None:
        """End the writer's thread, once it has written what it was given; nothing is committed from now on."""
        if self._writer is not None:
            self._writer.close()

    def _tell(self, done: Held, failure: StorageUnavailable | None) -> None:
        """Whoever stumbles over the news keeps nobody else from hearing it."""
        try:
            done(failure)
        except Exception:
            self._log.exception("what was held for a commit failed")

    def _failed(self, error: StorageUnavailable) -> None:
        self.failures += 1
        self.problem = error.message
        self._must_rebuild = True
        try:
            self._mend()
        except Exception as still:
            self.problem = self._explained(still).message

    def _explained(self, error: Exception) -> StorageUnavailable:
        """Why there was no commit; everyone who waits for it is told so, a bug below it included."""
        if isinstance(error, StorageUnavailable):
            return error
        self._log.error("a bug below a commit", exc_info=error)
        return StorageUnavailable(f"{self._store.where} took no commit because of a bug: {type(error).__name__}")

    def _mend(self) -> None:
        if self.prepare is not None:
            self._mending = self._loop.create_task(self._mend_aside(self.prepare), name="rebuilding memory")
            return
        self.rebuild()
        self._must_rebuild = False

    async def _mend_aside(self, prepare: Callable[[], Callable[[], None]]) -> None:
        """Changes are decided again from the next probe on."""
        try:
            adopt = await self._loop.run_in_executor(None, prepare)
            adopt()
        except Exception as still:
            self.problem = self._explained(still).message
        else:
            self._must_rebuild = False
        finally:
            self._mending = None


def _settle(future: asyncio.Future[None], failure: StorageUnavailable | None) -> None:
    if future.done():
        return
    if failure is None:
        future.set_result(None)
    else:
        future.set_exception(failure)
