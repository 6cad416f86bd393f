"""FULL commits on a thread of their own, so that a flush of the disk holds up no loop; each outcome comes back as an event.

One group is under way at a time; what it holds and when the next one follows is the journal's to say. A group's outcome is told
on the loop that made the writer, never from within `submit`.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Sequence
from queue import SimpleQueue

from common.errors import StorageUnavailable
from common.store.protocol import Change, Durability, RecordStore

Done = Callable[[Exception | None], None]
Submission = tuple[Sequence[Change], Done]


class Writer:
    """Commits groups to `store`, in the order they come; made on a running loop. Its thread begins with the first group."""

    def __init__(self, store: RecordStore) -> None:
        self._store = store
        self._loop = asyncio.get_running_loop()
        self._groups: SimpleQueue[Submission | None] = SimpleQueue()
        self._thread: threading.Thread | None = None

    def submit(self, changes: Sequence[Change], done: Done) -> None:
        """Commit `changes` as one group; `done` hears None once they survive power loss, else why they were not kept."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="store-writer", daemon=True)
            self._thread.start()
        self._groups.put((changes, done))

    def close(self) -> None:
        """Commit what was submitted, then end the thread; does not wait for it, since a disk may never answer."""
        self._groups.put(None)

    def _run(self) -> None:
        while (submission := self._groups.get()) is not None:
            changes, done = submission
            outcome: Exception | None = None
            try:
                self._store.commit(changes, Durability.FULL)
            except Exception as error:
                outcome = error
            try:
                self._loop.call_soon_threadsafe(done, outcome)
            except RuntimeError:
                return  # the loop has closed: nobody is left to tell


def stopped(where: str) -> StorageUnavailable:
    """What those hear whose commit was still under way when its service ended: it may yet be written."""
    return StorageUnavailable(f"{where} did not take it before its service stopped")
