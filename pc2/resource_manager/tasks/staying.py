"""Callers who stay until a task ends. It never touches a task."""

from __future__ import annotations

import asyncio


class Staying:
    """Everyone who stays, by task."""

    def __init__(self) -> None:
        self._here: dict[str, set[asyncio.Future[None]]] = {}

    def __len__(self) -> int:
        return sum(len(futures) for futures in self._here.values())

    async def until_ended(self, task_id: str, within_s: float) -> None:
        """Wait until the task's end is durable, at most `within_s` seconds."""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        here = self._here.setdefault(task_id, set())
        here.add(future)
        try:
            await asyncio.wait([future], timeout=within_s)
        finally:
            here.discard(future)
            if not here and self._here.get(task_id) is here:
                del self._here[task_id]

    def told(self, task_id: str) -> None:
        """The task has ended, and that is durable."""
        for future in self._here.pop(task_id, set()):
            if not future.done():
                future.set_result(None)

    def dismiss(self) -> None:
        """Let everyone go: the service is about to end."""
        for task_id in list(self._here):
            self.told(task_id)
