"""ErrorBus: what goes wrong anywhere, in groups; this file wires the groups to one shell and serves their verbs.

It loads what it knew, opens its ports and is ready; it calls nobody. Every report is durable before it is acknowledged
(FULL): the reports of one turn share a commit, and a batch writes a group's row once, however many of it fell into the group.

What goes wrong in here is never reported to itself: it is logged, and its health says so.
"""

from __future__ import annotations

from typing import Final

from common.api import error_bus as api
from common.api.catalog import ERROR_BUS
from common.client.directory import Directory
from common.errors import Code, TandemError
from common.service.call import Call
from common.service.process import run_service
from common.service.shell import Shell, ShellSettings
from common.store.protocol import Durability, RecordStore
from common.telemetry.redaction import HIDDEN, is_secret_name, redact
from pc2.error_bus.book import ErrorBook, Limits
from pc2.error_bus.occurrence import Moment
from pc2.error_bus.samples import Hiding
from pc2.error_bus.worries import Worries

HOST: Final = "pc2"
STORE: Final = "error_bus"
LOOK_S: Final = 1.0
HIDING: Final = Hiding(redact, is_secret_name, HIDDEN)


class ErrorBus:
    """The service, made on its running loop; `open` begins, `close` ends it. It asks nobody, so the directory is not used."""

    def __init__(
        self, settings: ShellSettings, _directory: Directory, store: RecordStore, limits: Limits | None = None
    ) -> None:
        self.shell = shell = Shell(settings, api.TOPICS, store, Durability.FULL)
        self._book = ErrorBook(HIDING, limits)
        self._worries = Worries()
        shell.journal.rebuild = self._load
        self._add_routes()
        self._show_metrics()

    async def open(self) -> None:
        """Load what was known and serve; StorageUnavailable, Conflict when a port is taken."""
        try:
            self.shell.journal.rebuild()
            await self.shell.open()
        except TandemError:
            await self.shell.close(drain_s=0)
            raise
        self.shell.every(LOOK_S, self._look)

    async def close(self) -> None:
        """Take no new work, let what is decided become durable, and stop."""
        await self.shell.close()

    def _add_routes(self) -> None:
        handle = self.shell.handle
        handle(api.REPORT_ERROR, self._report)
        handle(api.REPORT_ERRORS, self._report_many)
        handle(api.LIST_ERROR_GROUPS, self._list)
        handle(api.GET_ERROR_GROUP, self._get)
        handle(api.RESOLVE_ERROR_GROUP, self._resolve)

    def _show_metrics(self) -> None:
        counter, gauge, book = self.shell.metrics.read_counter, self.shell.metrics.read_gauge, self._book
        figures = book.figures
        counter("tandem_errors_total", "Errors counted, repeats told as one report included.", lambda: figures.errors)
        counter("tandem_errors_reports_total", "Reports counted.", lambda: figures.reports)
        counter("tandem_errors_repeated_total", "Reports that had been counted before.", lambda: figures.repeated)
        counter("tandem_errors_lost_total", "Reports that their senders had no room for.", lambda: figures.lost)
        counter(
            "tandem_errors_forgotten_total",
            "Groups forgotten to make room, by whether they were resolved.",
            lambda: dict(figures.forgotten),
            labels=("state",),
        )
        gauge(
            "tandem_errors_groups",
            "Groups held, by state.",
            lambda: {(state,): float(count) for state, count in book.states.items()},
            labels=("state",),
        )
        gauge("tandem_errors_senders", "Spools whose place is known.", lambda: float(book.deliveries.senders))
        gauge("tandem_errors_held_bytes", "Bytes held for groups and samples, roughly.", lambda: float(book.chars))

    # memory

    def _now(self) -> Moment:
        return Moment(self.shell.clock.wall(), self.shell.clock.monotonic())

    def _load(self) -> None:
        self._book.load(self.shell.store, self._now())

    def _settle(self) -> None:
        settled = self._book.settle()
        if settled.rows:
            self.shell.journal.write(settled.rows)
        for event in settled.events:
            self.shell.publisher.publish(api.ERRORS_CHANGED, event.group.group_id, event)

    # the verbs

    def _report(self, asked: api.ErrorReport, call: Call) -> api.ErrorReported:
        self.shell.journal.begin()
        reported = self._book.take(asked, call.host, self._now())
        self._settle()
        return reported

    def _report_many(self, asked: api.ReportErrors, call: Call) -> api.ErrorsTaken:
        self.shell.journal.begin()
        taken = self._book.take_batch(asked, call.host, self._now())
        self._settle()
        return taken

    def _list(self, asked: api.ListErrorGroups, _call: Call) -> api.ErrorGroups:
        self.shell.journal.look()
        groups, total = self._book.groups(asked)
        return api.ErrorGroups(groups=groups, total=total, as_of=self.shell.publisher.cursor(api.ERRORS_CHANGED.name))

    def _get(self, asked: api.GroupId, _call: Call) -> api.ErrorGroupDetail:
        self.shell.journal.look()
        return self._book.detail(asked.group_id)

    def _resolve(self, asked: api.ResolveErrorGroup, call: Call) -> api.ErrorGroup:
        self.shell.journal.begin()
        group = self._book.resolve(asked.group_id, call.identity, asked.note, self._now())
        self._settle()
        return group

    # its own health

    def _look(self) -> None:
        """Tell, or tell no longer, what went wrong in here."""
        shell, figures = self.shell, self._book.figures
        failed = sum(meter.errors.get(Code.INTERNAL, 0) for meter in shell.meters)
        counts = {
            "failed": (failed, "{more} calls failed because of a bug in ErrorBus; its log has the story"),
            "forgotten": (figures.forgotten[("unresolved",)], "{more} unresolved groups were forgotten to make room"),
            "lost": (figures.lost, "{more} reports were lost at their senders for want of room"),
        }
        others = {name: problem for name, problem in shell.problems.items() if name not in counts}
        shell.problems = others | self._worries.look(counts, shell.clock.monotonic())


def main() -> int:
    """The process; its exit status."""
    return run_service(ERROR_BUS, HOST, STORE, ErrorBus, Durability.FULL)
