"""Callers who want a lease: their calls, their time, and the progress and last words that the planner has for them.

A caller is answered a little before its own budget ends, so that it gets a refusal with its place and not a time-out. One that
withdrew leaves the queue; its place is told again now and then, so that one who is gone without a word is noticed. A lease whose
grant the caller cannot have heard goes back to the planner. It decides nothing about leases.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from itertools import count
from math import inf
from typing import Final

import msgspec

from common.api.leases import AcquireLease, LeaseGranted, LeaseProgress
from common.errors import Cancelled, StorageUnavailable, TandemError, Unavailable
from common.service.call import Call
from common.service.shell import Shell
from pc2.resource_manager.events import Asked, OutOfTime, Withdrawn
from pc2.resource_manager.instructions import Progress, Reply, ReplyError
from pc2.resource_manager.turns import Turns

REPEAT_S: Final = 2.0
"""A caller's place is told again after this long without news."""

_TICK_S: Final = 0.005
"""Timers may fire this much early by the clock that waits are measured on."""


class _Stay:
    """One caller: its call, its answer to come, and what it was last told."""

    __slots__ = ("call", "granted", "over", "progress", "told_at")

    def __init__(self, call: Call, over: asyncio.Future[LeaseGranted]) -> None:
        self.call = call
        self.over = over
        self.granted: LeaseGranted | None = None
        self.progress: LeaseProgress | None = None
        self.told_at = 0.0

    def end(self, error: TandemError) -> None:
        """Answers with the error, unless it was answered."""
        if not self.over.done():
            self.over.set_exception(error)


class Staying:
    """Everyone who waits for a lease, on the running loop; `turns` is set before the first comes."""

    turns: Turns

    def __init__(self, shell: Shell) -> None:
        self._shell = shell
        self._now = shell.clock.monotonic
        self._here: dict[str, _Stay] = {}
        self._names = count(1)
        self.granted = 0
        self.refused: Counter[str] = Counter()

    def __len__(self) -> int:
        return len(self._here)

    async def acquire(self, asked: AcquireLease, call: Call) -> LeaseGranted:
        """acquire_lease: the lease, once it is durable that it was asked for and its supervisor has admitted it."""
        wait_s = call.patience_s(self._now(), asked.wait_s)
        name = str(next(self._names))
        stay = self._here[name] = _Stay(call, self._shell.loop.create_future())
        ends = [self._shell.loop.call_later(wait_s + _TICK_S, self.turns.tick)] if wait_s else []
        left_s, patience_s = call.budget_s(self._now(), inf), call.patience_s(self._now(), inf)
        if (
            left_s < inf
        ):  # a supervisor's last word on its own line comes before ours, and both within the answer's time
            ends.append(self._shell.loop.call_later((left_s + patience_s) / 2, self.turns.tell, OutOfTime(name)))
        try:
            self.turns.tell(Asked(name, self._completed(asked, wait_s), call.identity))
            granted = await stay.over
        except BaseException:
            self._left(name, stay)
            raise
        finally:
            del self._here[name]
            for end in ends:
                end.cancel()
        self._shell.journal.hold(lambda failure: self._unless_answered(failure, name, granted))
        return granted

    def reply(self, reply: Reply) -> None:
        """The planner has a lease for the call."""
        stay = self._here.get(reply.call)
        if stay is None or stay.over.done():
            self.turns.undelivered(reply.call, reply.granted)
            return
        self.granted += 1
        stay.granted = reply.granted
        stay.over.set_result(reply.granted)

    def refuse(self, reply: ReplyError) -> None:
        """The planner has an error for the call."""
        stay = self._here.get(reply.call)
        if stay is not None:
            self.refused[reply.error.code] += 1
            stay.end(reply.error)

    def progress(self, told: Progress) -> None:
        """The planner has news for the call."""
        stay = self._here.get(told.call)
        if stay is not None:
            self._tell(stay, told.progress)

    def repeat(self) -> None:
        """Tells those who heard nothing for long where they stand; called some times a second."""
        now = self._now()
        for stay in list(self._here.values()):
            if stay.progress is not None and now - stay.told_at >= REPEAT_S:
                waited_s = stay.progress.waited_s + now - stay.told_at
                self._tell(stay, msgspec.structs.replace(stay.progress, waited_s=waited_s))

    def dismiss(self) -> None:
        """Sends everyone away: the service is about to end."""
        for stay in list(self._here.values()):
            stay.end(Unavailable("ResourceManager is shutting down", retry_after_ms=500))

    def _completed(self, asked: AcquireLease, wait_s: float) -> AcquireLease:
        """The request with the time it has; a process named without its host is one of this host."""
        owner = asked.owner
        if owner is not None and owner.pid and not owner.host:
            owner = msgspec.structs.replace(owner, host=self._shell.settings.host)
        return msgspec.structs.replace(asked, wait_s=wait_s, owner=owner)

    def _tell(self, stay: _Stay, progress: LeaseProgress) -> None:
        stay.progress, stay.told_at = progress, self._now()
        try:
            stay.call.part(progress)
        except Cancelled as gone:
            stay.end(gone)

    def _left(self, name: str, stay: _Stay) -> None:
        """The call ended without a lease; the planner lets go of it, and of a lease that came too late to be told."""
        if stay.granted is not None:
            self.turns.undelivered(name, stay.granted)
        else:
            self.turns.tell(Withdrawn(name))

    def _unless_answered(self, failure: StorageUnavailable | None, name: str, granted: LeaseGranted) -> None:
        """The answer shares the fate of the group that is open when it leaves."""
        if failure is not None:
            self.turns.undelivered(name, granted)
