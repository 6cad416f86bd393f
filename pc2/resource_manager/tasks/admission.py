"""Whether the queue has room for one more task: by its bytes, by how many wait or run, and by what its identity has already.

It accepts nothing and changes nothing; a task that is replayed needs the same room as a new one.
"""

from __future__ import annotations

from typing import NoReturn

from common.api.tasks import SubmitTask
from common.errors import Overloaded, TooLarge
from common.resilience.share import has_share
from pc2.resource_manager.tasks.book import TaskBook, metadata_bytes
from pc2.resource_manager.tasks.limits import Limits
from pc2.resource_manager.tasks.lines import line_of


def size_of(asked: SubmitTask, payload: bytes, limits: Limits) -> int:
    """The bytes that the task holds while it is active; TooLarge when its payload or its metadata is."""
    metadata = metadata_bytes(asked.metadata)
    if len(payload) > limits.payload_bytes:
        raise TooLarge(f"the payload has {len(payload)} bytes; {limits.payload_bytes} are allowed")
    if metadata > limits.metadata_bytes:
        raise TooLarge(f"the metadata has {metadata} bytes; {limits.metadata_bytes} are allowed")
    return len(payload) + metadata


def admit(book: TaskBook, capability: str, model: str, size: int, identity: str) -> None:
    """Overloaded when the queue is full for a task of so many bytes, or this identity has its share of it."""
    limits, lines = book.limits, book.active.arrivals
    if len(lines) >= limits.capabilities and line_of(capability, model) not in lines:
        _refuse(limits, f"tasks wait or run for {len(lines)} capabilities; {limits.capabilities} are allowed")
    waiting, active = book.waiting(capability), book.standing.active
    if waiting >= limits.queued:
        _refuse(limits, f"{waiting} tasks wait for {capability!r}; {limits.queued} are allowed")
    if active >= limits.active:
        _refuse(limits, f"{active} tasks wait or run; {limits.active} are allowed")
    if book.active.bytes + size > limits.active_bytes:
        held = f"tasks that wait or run hold {book.active.bytes} bytes and this one has {size}"
        _refuse(limits, f"{held}; {limits.active_bytes} are allowed")
    _leave_room(book, capability, size, identity)


def _leave_room(book: TaskBook, capability: str, size: int, identity: str) -> None:
    """One identity leaves room for others."""
    limits, shares = book.limits, book.active.shares
    line, active, held_bytes = (
        f"tasks that wait for {capability!r}",
        "tasks that wait or run",
        "bytes of tasks that wait or run",
    )
    rooms = (
        (line, shares.waiting.of(identity, capability), book.waiting(capability), limits.queued, 1),
        (active, shares.active.of(identity), book.standing.active, limits.active, 1),
        (held_bytes, shares.bytes.of(identity), book.active.bytes, limits.active_bytes, size),
    )
    for what, held, taken, total, wanted in rooms:
        if not has_share(held, taken, total, wanted):
            _refuse(limits, f"{identity} has {held} of the {taken} {what}; what is left of {total} is for others")


def _refuse(limits: Limits, message: str) -> NoReturn:
    raise Overloaded(message, retry_after_ms=limits.retry_after_ms)
