"""What the supervisor reports of its children: tracebacks on their standard error, and ends that nobody asked for.

It hears of lines and ends from the processes' room and hands reports to the reporter; it holds no process and decides no restart.
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

import msgspec

from common.api.error_bus import ErrorReport
from common.clock import Clock, timestamp
from common.reporting.ends import End, report_of_end, report_of_lateness, report_of_traceback
from common.reporting.places import agent_name
from common.reporting.reporter import ErrorReporter
from common.reporting.stderr import Seen, StderrReader
from common.telemetry.showing import shown, shown_end, without_secrets

QUIET_S: Final = 0.5
"""After so long without another line a traceback is whole."""
MESSAGE_CHARS: Final = 2_000
_DEPTH: Final = 4
VMSTAT: Final = Path("/proc/vmstat")


class Witness:
    """The standard errors of one host's processes, by name."""

    def __init__(self, reporter: ErrorReporter, host: str, clock: Clock) -> None:
        self._reporter = reporter
        self._host = host
        self._clock = clock
        self._readers: dict[str, StderrReader] = {}
        self._quiet: dict[str, asyncio.TimerHandle] = {}
        self._kills = kills_for_memory()

    def heard(self, name: str, lines: Sequence[str]) -> None:
        """The process wrote these lines to its standard error."""
        reader = self._readers.setdefault(name, StderrReader())
        for line in lines:
            self._tell(name, reader.feed(line))
        self._hush(name)
        if reader.open:
            self._quiet[name] = asyncio.get_running_loop().call_later(QUIET_S, self._fell_quiet, name)

    def ended(self, name: str, code: int | None, tail: tuple[str, ...], *, wanted: bool, reason: str = "") -> None:
        """A life of the process is over, or did not even begin."""
        self._hush(name)
        reader = self._readers.pop(name, None) or StderrReader()
        end = End(
            name, self._host, self._now(), code, _signal_name(code), wanted, self._out_of_memory(code), reason,
            tail,
        )  # fmt: skip
        self._tell(name, reader.rest(), end)
        report = report_of_end(end, reader.last)
        if report is not None:
            self._reporter.report(report.fingerprint, lambda: _safe(report))

    def late(self, name: str, reason: str, tail: tuple[str, ...]) -> None:
        """A life of the process was ended because it had not become ready in time, as `reason` says."""
        report = report_of_lateness(name, self._host, self._now(), reason, tail)
        self._reporter.report(report.fingerprint, lambda: _safe(report))

    def _fell_quiet(self, name: str) -> None:
        self._quiet.pop(name, None)
        if name in self._readers:
            self._tell(name, self._readers[name].rest())

    def _hush(self, name: str) -> None:
        timer = self._quiet.pop(name, None)
        if timer is not None:
            timer.cancel()

    def _tell(self, name: str, seen: Seen | None, end: End | None = None) -> None:
        if seen is None or seen.told:
            return
        crashed = end if end is not None and end.code else None
        report = report_of_traceback(agent_name(name), self._host, self._now(), seen, crashed)
        self._reporter.report((name, seen.error_type, seen.stack), lambda: _safe(report))

    def _now(self) -> str:
        return timestamp(self._clock.wall())

    def _out_of_memory(self, code: int | None) -> bool:
        """Whether the kernel killed for want of memory since this was asked last; only ends by KILL ask."""
        if code != -signal.SIGKILL:
            return False
        was, self._kills = self._kills, kills_for_memory()
        return self._kills > was


def _safe(report: ErrorReport) -> ErrorReport:
    """The report as it may be written down."""
    details = without_secrets(report.details, _DEPTH)
    assert isinstance(details, dict)
    return msgspec.structs.replace(
        report, message=shown(report.message, MESSAGE_CHARS), stack=shown_end(str(report.stack)), details=details
    )


def kills_for_memory(vmstat: Path = VMSTAT) -> int:
    """How often the kernel has killed a process for want of memory since the host's start; 0 where it does not say."""
    with suppress(OSError, ValueError):
        for line in vmstat.read_text().splitlines():
            name, _, count = line.partition(" ")
            if name == "oom_kill":
                return int(count)
    return 0


def _signal_name(code: int | None) -> str:
    if code is None or code >= 0:
        return ""
    try:
        return signal.Signals(-code).name
    except ValueError:  # a real-time signal
        return f"signal {-code}"
