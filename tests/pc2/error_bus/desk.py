"""A stand-in for the shell: reports go into a book, and what it settles is committed to a store and collected."""

from __future__ import annotations

from typing import Any

from common.api.error_bus import (
    ErrorGroupChanged,
    ErrorReport,
    ErrorReported,
    ErrorsTaken,
    ListErrorGroups,
    ReportErrors,
)
from common.store.memory import MemoryStore
from common.store.protocol import Durability
from pc2.error_bus.book import ErrorBook, Limits
from pc2.error_bus.occurrence import Moment, timestamp_of
from pc2.error_bus.samples import Hiding

HIDING = Hiding(lambda text: text.replace("hunter2", "[hidden]"), lambda name: name == "password", "[hidden]")
START = 1_800_000_000.0


def report(error_type: str = "ValueError", message: str = "no room", **fields: Any) -> ErrorReport:
    return ErrorReport(**({"agent": "reader", "error_type": error_type, "message": message} | fields))


class Desk:
    """One book on manual clocks."""

    def __init__(self, limits: Limits | None = None) -> None:
        self.store = MemoryStore()
        self.limits = limits
        self.book = ErrorBook(HIDING, limits)
        self.wall = START
        self.monotonic = 0.0
        self.events: list[ErrorGroupChanged] = []
        self.written: list[str] = []

    @property
    def now(self) -> Moment:
        return Moment(self.wall, self.monotonic)

    def passes(self, seconds: float) -> None:
        self.wall += seconds
        self.monotonic += seconds

    def ago(self, seconds: float) -> str:
        return timestamp_of(self.wall - seconds)

    def settle(self) -> None:
        settled = self.book.settle()
        self.written = [f"{row.table}:{row.key}" for row in settled.rows]
        self.store.commit(settled.rows, Durability.FULL)
        self.events += settled.events

    def take(self, *args: str, caller_host: str = "mainpc", **fields: Any) -> ErrorReported:
        taken = self.book.take(report(*args, **fields), caller_host, self.now)
        self.settle()
        return taken

    def batch(
        self, reports: list[ErrorReport], first_seq: int = 1, caller_host: str = "mainpc", **fields: Any
    ) -> ErrorsTaken:
        asked: dict[str, Any] = {"sender": "mainpc/reader", "epoch": 1} | fields
        taken = self.book.take_batch(ReportErrors(first_seq=first_seq, reports=reports, **asked), caller_host, self.now)
        self.settle()
        return taken

    def resolve(self, group_id: str, note: str = "") -> None:
        self.book.resolve(group_id, "local@mainpc", note, self.now)
        self.settle()

    def restart(self) -> None:
        self.book = ErrorBook(HIDING, self.limits)
        self.book.load(self.store, self.now)

    def changes(self) -> list[str]:
        changes, self.events = [event.change for event in self.events], []
        return changes

    def listed(self, **asked: Any) -> list[str]:
        return [group.group_id for group in self.book.groups(ListErrorGroups(**asked))[0]]
