"""FULL commits on one thread: decides which waiting changes share a commit, and returns each outcome as an event.

The loop hands over groups of changes and goes on; when the disk has flushed, the outcome comes back on the loop, in the
order of submission. What waits when the thread is free is committed together (group commit), never delayed for company.

    running --commit fails--> halted     the failed commit and all that waited behind it get its error
    halted --resume()--> running         called once the service has rebuilt from the store
    running, halted --close()--> closed  what waits is committed within the bound, the rest gets an error

What waited behind a failed commit was decided on facts that were not kept, so it is never written. The writer never
retries and never looks inside a change.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Callable, Sequence
from typing import Final

from common.errors import StorageUnavailable
from common.store.protocol import Change, Durability, RecordStore

Done = Callable[[StorageUnavailable | None], None]

GROUP_CHANGES: Final = 500
"""Changes in one commit at most, unless one submission alone has more; beyond it groups gain nothing (200 rows: 3 ms)."""


class _Submission:
    """Changes that wait (None: a probe of the store), and whom to tell."""

    __slots__ = ("changes", "done")

    def __init__(self, changes: Sequence[Change] | None, done: Done) -> None:
        self.changes = changes
        self.done: Done | None = done


class FullWriter:
    """Commits to `store` with FULL durability on a thread of its own; made, used and closed on one asyncio loop."""

    def __init__(self, store: RecordStore, *, group_changes: int = GROUP_CHANGES) -> None:
        self._store = store
        self._group_changes = group_changes
        self._loop = asyncio.get_running_loop()
        self._waiting: deque[_Submission] = deque()
        self._under_way: list[_Submission] = []
        self._wake = threading.Condition()
        self._halted: StorageUnavailable | None = None
        self._closing = False
        self._ended = asyncio.Event()
        self._thread = threading.Thread(target=self._run, name="store-writer", daemon=True)
        self._thread.start()

    @property
    def backlog(self) -> int:
        """Submissions not yet committed; admission keeps it bounded."""
        return len(self._waiting) + len(self._under_way)

    @property
    def halted(self) -> bool:
        """Whether a commit failed and `resume` has not been called since."""
        return self._halted is not None

    def submit(self, changes: Sequence[Change], done: Done) -> None:
        """Queues `changes` as one atomic unit; `done` is called on the loop, never from within this call.

        It gets None once the changes survive power loss, otherwise the error: then the service rebuilds from the store
        and calls `resume`.
        """
        self._queue(_Submission(changes, done), self._halted)

    def probe(self, done: Done) -> None:
        """Checks the store on the thread, also while halted; `done` gets None when a commit is likely to succeed again."""
        self._queue(_Submission(None, done), None)

    def resume(self) -> None:
        """Takes submissions again: the service has rebuilt from the store since the failure."""
        with self._wake:
            self._halted = None

    async def close(self, drain_s: float = 5.0) -> None:
        """Commits what waits for at most `drain_s` seconds, fails the rest, and ends the thread; the store stays open.

        A commit that the disk still holds up then is told as failed, though it may yet be written.
        """
        with self._wake:
            self._closing = True
            self._wake.notify()
        try:
            await asyncio.wait_for(self._ended.wait(), drain_s)
        except TimeoutError:
            with self._wake:
                left = [*self._under_way, *self._waiting]
                self._waiting.clear()
            self._tell(left, StorageUnavailable(f"{self._store.where} did not take it within {drain_s:g} s of closing"))

    def _queue(self, submission: _Submission, refusal: StorageUnavailable | None) -> None:
        with self._wake:
            if self._closing:
                refusal = StorageUnavailable(f"{self._store.where} takes no more changes: its service is stopping")
            if refusal is None:
                self._waiting.append(submission)
                self._wake.notify()
        if refusal is not None:
            self._loop.call_soon(self._tell, [submission], refusal)

    def _run(self) -> None:
        """The thread: take a group, commit it, send its outcome to the loop, until closed and empty."""
        while group := self._next_group():
            error = self._perform(group)
            with self._wake:
                if error is not None and group[0].changes is not None:
                    self._halted = error
                    group += [waiting for waiting in self._waiting if waiting.changes is not None]
                    self._waiting = deque(waiting for waiting in self._waiting if waiting.changes is None)
                self._under_way = []
            self._send(self._tell, group, error)
        self._send(self._ended.set)

    def _next_group(self) -> list[_Submission]:
        """What is committed next, waiting for it; empty when closed and nothing is left."""
        with self._wake:
            while not self._waiting and not self._closing:
                self._wake.wait()
            self._under_way = _group(self._waiting, self._group_changes)
            return list(self._under_way)

    def _perform(self, group: list[_Submission]) -> StorageUnavailable | None:
        try:
            if group[0].changes is None:
                self._store.check()
            else:
                changes = [change for submission in group for change in submission.changes or ()]
                self._store.commit(changes, Durability.FULL)
        except StorageUnavailable as error:
            return error
        except Exception as error:  # a bug in a store must fail its group, not end the thread
            return StorageUnavailable(f"{self._store.where}: {type(error).__name__}: {error}")
        return None

    def _send(self, call: Callable[..., None], *arguments: object) -> None:
        try:
            self._loop.call_soon_threadsafe(call, *arguments)
        except RuntimeError:
            pass  # the loop has closed: nobody is left to tell

    def _tell(self, group: list[_Submission], error: StorageUnavailable | None) -> None:
        """On the loop: each submission hears once; one whose `done` raises does not silence the others."""
        for submission in group:
            done, submission.done = submission.done, None
            if done is None:
                continue
            try:
                done(error)
            except Exception as bug:
                self._loop.call_exception_handler({"message": "a commit's callback raised", "exception": bug})


def _group(waiting: deque[_Submission], limit: int) -> list[_Submission]:
    """Takes from the front what shares one commit: a probe alone, or submissions of together at most `limit` changes."""
    group: list[_Submission] = []
    room = limit
    while waiting:
        changes = waiting[0].changes
        if group and (changes is None or len(changes) > room):
            break
        group.append(waiting.popleft())
        if changes is None:
            break
        room -= len(changes)
    return group
