"""The reporter of a process: errors and metric points go in, at the cost of one append; they come out at ErrorBus and the hub.

    reporter = ErrorReporter("importer")
    reporter.report_error(error, details={"file": path})
    reporter.metric("rows", 1_000, {"table": "people"})

Nothing here raises or waits for the network: what cannot be kept is counted. Equal errors within a second are one record with a
count, so up to a second of *repeats* is lost where the process is killed; the first of them is not.
"""

from __future__ import annotations

import atexit
import os
import sys
import threading
import weakref
from collections.abc import Callable, Hashable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import msgspec

from common.api.error_bus import ErrorReport, Severity
from common.api.observability_hub import MetricKind, MetricPoint
from common.clock import Clock, Rng, timestamp
from common.config.settings import AgentEnvironment
from common.reporting.coalescing import Coalescer
from common.reporting.outbox import OWN_WORK, Outbox
from common.reporting.places import agent_name, process_folder, spools_of
from common.reporting.receivers import ERRORS, METRICS, TIMEOUT_S, Caller
from common.reporting.reports import error_report, shape_of, told_before
from common.reporting.spool_log import MAX_PAYLOAD
from common.telemetry.metrics import Metrics
from common.telemetry.system_clock import SystemClock, system_rng

FAREWELL_S: Final = 1.0
"""How long a process that ends delivers what goes well; the rest is a later life's, or its supervisor's."""
LABELS: Final = 16
LABEL_CHARS: Final = 128


class ErrorReporter:
    """Reports errors and metrics of one process; safe to use from any thread.

    Its name is the supervisor's for it (TANDEM_AGENT_NAME), else `name`, else the program's. `connect` makes the client that
    delivers, in a thread of its own.
    """

    def __init__(
        self,
        name: str = "",
        *,
        host: str = "",
        home: Path | None = None,
        connect: Callable[[], Caller] | None = None,
        clock: Clock | None = None,
        rng: Rng | None = None,
        environ: Mapping[str, str] = os.environ,
    ) -> None:
        environment = AgentEnvironment.read(environ)
        self.name = agent_name(environment.agent_name or name or _program())
        self.host = environment.host or host or "mainpc"
        self.reported = 0
        self.not_kept = 0
        self.swallowed = 0
        self._home = home or environment.home
        self._clock = clock or SystemClock()
        self._mutex = threading.RLock()
        self._runs: Coalescer[ErrorReport] = Coalescer()
        folder = process_folder(self._home, self.host, self.name)
        self.outbox = Outbox(folder, connect or _connect, self._clock, rng or system_rng(), self._tell_repeats)
        _at_fork_and_exit(self)

    def report_error(
        self,
        error: BaseException | str,
        message: str = "",
        *,
        severity: Severity = "error",
        details: Mapping[str, Any] | None = None,
    ) -> bool:
        """Report an exception, with its stack, or an error named by its type; `message` defaults to the exception's own.

        An exception that was reported as it was raised, here or by a handler or hook, is not reported again. False where
        nothing was written down: it was reported before, was counted as a repeat, or could not be kept.
        """
        if isinstance(error, BaseException) and told_before(error):
            return False
        return self.report(
            (shape_of(error), severity) if isinstance(error, BaseException) else (error, message, severity),
            lambda: error_report(self.name, self.host, self.now(), error, message, severity, details or {}),
        )

    def report(self, key: Hashable, make: Callable[[], ErrorReport]) -> bool:
        """Report what `make` makes, unless one of the same key was reported within the last second: then it is counted.

        False where it was only counted, or could not be kept.
        """
        if getattr(OWN_WORK, "on", False):
            self.swallowed += 1
            return False
        OWN_WORK.on = True
        try:
            return self._report(key, make)
        except Exception:  # an error that cannot be reported must not become a second one
            self.not_kept += 1
            return False
        finally:
            OWN_WORK.on = False

    def _report(self, key: Hashable, make: Callable[[], ErrorReport]) -> bool:
        with self._mutex:
            self.reported += 1
            if self._runs.repeats(key, self._clock.wall()):
                return False
        report = make()
        with self._mutex:
            self._runs.begin(key, report, self._clock.monotonic())
        self.outbox.put(ERRORS, _encoded(report))
        return True

    def metric(
        self, name: str, value: float, labels: Mapping[str, object] | None = None, *, kind: MetricKind = "gauge"
    ) -> None:
        """Hand in a point of a metric, as of now; a counter is told by its total since the process began."""
        if getattr(OWN_WORK, "on", False):
            return
        OWN_WORK.on = True
        try:
            texts = {
                str(key)[:LABEL_CHARS]: str(text)[:LABEL_CHARS] for key, text in list((labels or {}).items())[:LABELS]
            }
            at = datetime.fromtimestamp(self._clock.wall(), UTC)
            point = MetricPoint(name=name, value=float(value), labels=texts, at=at, kind=kind)
            self.outbox.put(METRICS, msgspec.msgpack.encode(point))
        except Exception:  # a point that cannot be kept must not stop what it measures
            self.not_kept += 1
        finally:
            OWN_WORK.on = False

    def adopt_left_behind(self) -> None:
        """Delivers what processes of this host that have ended left in their spools: a supervisor's chore."""
        for folder in spools_of(self._home, self.host).glob("*"):
            self.outbox.adopt(folder)

    def show(self, metrics: Metrics) -> None:
        """Have `metrics` tell how its work goes."""
        counter, name = metrics.read_counter, "tandem_reporting"
        counter(f"{name}_errors_total", "Errors handed in to be reported, repeats included.", lambda: self.reported)
        counter(f"{name}_not_kept_total", "Errors and points that could not be written down.", lambda: self.not_kept)
        counter(f"{name}_own_total", "Errors of reporting itself, which are not reported.", lambda: self.swallowed)
        waits = "1 while what is written down cannot be delivered."
        metrics.read_gauge(f"{name}_undeliverable", waits, lambda: float(bool(self.outbox.problem)))

    def flush(self, within_s: float = 5.0) -> bool:
        """Waits until everything is delivered, but no longer than it goes well; whether it is."""
        self._end_runs()
        return self.outbox.flush(within_s)

    def close(self, within_s: float = FAREWELL_S) -> bool:
        """Delivers what goes well within the time; the rest waits on disk. Whether there is no rest."""
        self._end_runs()
        return self.outbox.close(within_s)

    def abandon(self) -> None:
        """In a forked child: what its parent has under way is the parent's, and it begins anew."""
        self._mutex = threading.RLock()
        self._runs = Coalescer()
        self.outbox.abandon()
        OWN_WORK.on = False

    def now(self) -> str:
        """The time of a report, RFC 3339 UTC."""
        return timestamp(self._clock.wall())

    def _tell_repeats(self, now: float) -> float | None:
        with self._mutex:
            due, next_at = self._runs.due(now), self._runs.next_at()
        self._put_repeats(due)
        return next_at

    def _end_runs(self) -> None:
        with self._mutex:
            due = self._runs.end()
        self._put_repeats(due)

    def _put_repeats(self, due: list[Any]) -> None:
        for told in due:
            report = msgspec.structs.replace(told.report, count=told.count, occurred_at=timestamp(told.last_at))
            try:
                self.outbox.put(ERRORS, _encoded(report))
            except Exception:  # see `report`
                self.not_kept += told.count


def _encoded(report: ErrorReport) -> bytes:
    """The report as it is spooled, without its details where it would be too long."""
    payload = msgspec.msgpack.encode(report)
    if len(payload) <= MAX_PAYLOAD:
        return payload
    return msgspec.msgpack.encode(msgspec.structs.replace(report, details={"cut": True}))


def _program() -> str:
    """The program's name; that of one without a file is its interpreter's."""
    called = sys.argv[0] if sys.argv else ""
    return Path(called).stem if called and not called.startswith("-") else "python"


def _connect() -> Caller:
    from common.client.opening import open_client  # with its sockets, for those who have something to tell
    from common.client.settings import at_own_pace

    return open_client(at_own_pace(TIMEOUT_S))


def _at_fork_and_exit(reporter: ErrorReporter) -> None:
    known = weakref.ref(reporter)

    def abandon() -> None:
        if (living := known()) is not None:
            living.abandon()

    def close() -> None:
        if (living := known()) is not None:
            living.close()

    os.register_at_fork(after_in_child=abandon)
    atexit.register(close)


_process: list[ErrorReporter] = []


def process_reporter() -> ErrorReporter:
    """The one reporter of this process, made when it is first asked for."""
    if not _process:
        _process.append(ErrorReporter())
    return _process[0]


def install(reporter: ErrorReporter) -> None:
    """`reporter` is the process's own from now on."""
    _process[:] = [reporter]
