"""Waiters: the callers who stay until a request ends, and what each of them is told.

How to drive it: `stay` when `submit_request` is to wait or to stream; `told` with every status that is published; `part` with
every part an agent streams for its current attempt; `late` several times a second; `leave` when the caller is gone. A
`Progress` goes out as one streamed part; a `Finish` is answered with the request's status as it stands and is the waiter's last
word. Waiters live in memory: a caller of a service that died asks again by `get_request`.

It knows no sockets, and a request goes on whoever leaves.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from common.api.core_orchestrator import RequestProgress, RequestStatus, State

FINAL: Final[frozenset[State]] = frozenset({"done", "failed", "expired", "cancelled"})


@dataclass(frozen=True, slots=True)
class Waiter:
    """One caller who stays: until when (monotonic seconds), and whether it wants progress."""

    waiter_id: str
    request_id: str
    until: float
    streams: bool = False


@dataclass(frozen=True, slots=True)
class Progress:
    """Stream this part to the waiter."""

    waiter_id: str
    progress: RequestProgress


@dataclass(frozen=True, slots=True)
class Finish:
    """Answer the waiter with the request's status as it stands; it waits no longer."""

    waiter_id: str
    request_id: str


Notify = Progress | Finish


class Waiters:
    """Everyone who stays, by request."""

    def __init__(self) -> None:
        self._by_request: dict[str, dict[str, Waiter]] = {}
        self._request_of: dict[str, str] = {}

    def __len__(self) -> int:
        return len(self._request_of)

    def stay(self, waiter: Waiter, status: RequestStatus, now: float) -> tuple[Notify, ...]:
        """Takes a waiter in; answered at once when the request has ended or there is no time to wait."""
        if status.state in FINAL or waiter.until <= now:
            return (Finish(waiter.waiter_id, waiter.request_id),)
        self._by_request.setdefault(waiter.request_id, {})[waiter.waiter_id] = waiter
        self._request_of[waiter.waiter_id] = waiter.request_id
        return (Progress(waiter.waiter_id, _progress(status)),) if waiter.streams else ()

    def leave(self, waiter_id: str) -> None:
        """The caller is gone; doing so twice is no error."""
        request_id = self._request_of.pop(waiter_id, None)
        if request_id is None:
            return
        waiters = self._by_request[request_id]
        del waiters[waiter_id]
        if not waiters:
            del self._by_request[request_id]

    def told(self, status: RequestStatus) -> tuple[Notify, ...]:
        """A request changed state: progress for those who stream, the last word for all when it ended."""
        if status.state not in FINAL:
            return self._stream(status.request_id, _progress(status))
        waiters = tuple(self._by_request.get(status.request_id, ()))
        for waiter_id in waiters:
            self.leave(waiter_id)
        return tuple(Finish(waiter_id, status.request_id) for waiter_id in waiters)

    def part(self, status: RequestStatus, part: Any) -> tuple[Notify, ...]:
        """The agent streamed `part` while performing the request."""
        return self._stream(status.request_id, _progress(status, part))

    def late(self, now: float) -> tuple[Notify, ...]:
        """The last word for those whose time to wait is over, whatever the state."""
        over = [w for waiters in self._by_request.values() for w in waiters.values() if w.until <= now]
        for waiter in over:
            self.leave(waiter.waiter_id)
        return tuple(Finish(waiter.waiter_id, waiter.request_id) for waiter in over)

    def _stream(self, request_id: str, progress: RequestProgress) -> tuple[Notify, ...]:
        waiters = self._by_request.get(request_id, {}).values()
        return tuple(Progress(waiter.waiter_id, progress) for waiter in waiters if waiter.streams)


def _progress(status: RequestStatus, part: Any = None) -> RequestProgress:
    return RequestProgress(
        request_id=status.request_id,
        state=status.state,
        agent_name=status.agent_name,
        position=status.position,
        reason=status.reason,
        part=part,
    )
