"""What the end of a supervised process tells: an error where nobody asked for it, and none where it was told already.

Every end of one kind of one process is one problem, however often it is started again: a crash loop is one group with a count. It
watches no process and names no signal by itself.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from common.api.error_bus import ErrorReport
from common.reporting.stderr import Seen

FAREWELL_LINES: Final = 6
"""Lines that may follow the traceback with which a process ends."""


@dataclass(frozen=True, slots=True)
class End:
    """How a life of `agent` ended; `code` as subprocess tells it, with `signal` its name where it is negative.

    `wanted`: it was stopped or killed by its supervisor. `out_of_memory`: the kernel killed for memory meanwhile. `reason` says
    why it did not even begin. `tail` is the end of its standard error.
    """

    agent: str
    host: str
    at: str
    code: int | None
    signal: str = ""
    wanted: bool = False
    out_of_memory: bool = False
    reason: str = ""
    tail: tuple[str, ...] = ()


def report_of_end(end: End, last: Seen | None) -> ErrorReport | None:
    """The error that the end is; None where it is none, or where `last`, the last traceback, has told it."""
    how = _how(end)
    if how is None or (end.code == 1 and last is not None and _ends_with(end.tail, last)):
        return None
    error_type, message, problem = how
    return ErrorReport(
        agent=end.agent,
        error_type=error_type,
        message=message,
        severity="critical",
        details=end_details(end),
        stack=last.stack if last is not None and not last.told and _ends_with(end.tail, last) else "",
        host=end.host,
        occurred_at=end.at,
        fingerprint=f"{end.agent} {problem}",
    )


def report_of_traceback(agent: str, host: str, at: str, seen: Seen, end: End | None = None) -> ErrorReport:
    """The error that a traceback on standard error is; `end` is that of the process, where it is what the process ended with."""
    return ErrorReport(
        agent=agent,
        error_type=seen.error_type,
        message=seen.message,
        severity="critical" if end is not None else "error",
        details={"source": "stderr"} | (end_details(end) if end is not None else {}),
        stack=seen.stack,
        host=host,
        occurred_at=at,
    )


def report_of_lateness(agent: str, host: str, at: str, reason: str, tail: tuple[str, ...]) -> ErrorReport:
    """The error that a process did not become ready in time; `reason` is what its supervisor says of it."""
    return ErrorReport(
        agent=agent,
        error_type="NotReady",
        message=f"{agent} was {reason}",
        details={"stderr_tail": list(tail)} if tail else {},
        host=host,
        occurred_at=at,
        fingerprint=f"{agent} was not ready in time",
    )


def end_details(end: End) -> dict[str, Any]:
    """What a report says of an end beside its sentence."""
    told = {"exit_code": end.code, "signal": end.signal, "stderr_tail": list(end.tail), "reason": end.reason}
    return {name: value for name, value in told.items() if value not in (None, "", [])}


def _how(end: End) -> tuple[str, str, str] | None:
    """The type of error that the end is, its message, and what all ends of its kind have in common."""
    if end.wanted or end.code == 0:
        return None
    if end.code is None:
        return ("NotLaunched", f"{end.agent} {end.reason}", "was not launched") if end.reason else None
    killed = f"was killed by {end.signal}"
    if end.out_of_memory:
        return "OutOfMemory", f"{end.agent} {killed}: {end.host} ran out of memory", f"{killed}: out of memory"
    if end.code < 0:
        return "KilledBySignal", f"{end.agent} {killed}, not by its supervisor", killed
    exited = f"exited with {end.code}"
    return "ProcessExited", f"{end.agent} {exited}", exited


def _ends_with(tail: tuple[str, ...], seen: Seen) -> bool:
    """Whether the traceback is the last that was written, but for a few lines of farewell."""
    wanted = seen.stack.rsplit("\n", 1)[-1].strip()
    return any(wanted and line.strip().endswith(wanted) for line in tail[-FAREWELL_LINES:])
