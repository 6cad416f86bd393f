"""What a supervisor tells of its children's errors, from processes that know nothing of Tandem to the bus."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from common.api.error_bus import ErrorReport
from common.config.schema import Agent, HealthProbe
from common.config.units import Duration
from common.reporting.reporter import ErrorReporter
from common.supervisor import witness as module
from common.supervisor.witness import Witness, kills_for_memory
from common.telemetry.system_clock import SystemClock
from tests.common.reporting.stand_in import StandIn, services, standing_in
from tests.common.supervisor.host import QUICK, Host, startup
from tests.common.supervisor.host import agent as shell_agent
from tests.common.supervisor.lives import until

pytestmark = pytest.mark.usefixtures("wrappers")


@pytest.fixture
async def bus(tmp_path: Path) -> AsyncIterator[tuple[StandIn, int]]:
    async with standing_in(tmp_path / "taken") as found:
        yield found


def python(name: str, program: str, **fields: Any) -> Agent:
    command = [sys.executable, "-I", "-S", "-c", program]
    return Agent(name=name, command=command, health=HealthProbe(how="none"), restart=QUICK, **fields)


def surroundings(port: int) -> dict[str, str]:
    return {"PATH": os.environ["PATH"], "TANDEM_SERVICES": services(port)}


async def told(bus: StandIn, count: int) -> list[ErrorReport]:
    """The first `count` reports of children."""
    await until(lambda: len(of_children(bus)) >= count)
    return of_children(bus)


def of_children(bus: StandIn) -> list[ErrorReport]:
    return [report for report in bus.taken.reports if report.agent != "supervisor"]


async def test_a_program_that_knows_nothing_of_tandem_ends_with_an_exception(
    tmp_path: Path, bus: tuple[StandIn, int]
) -> None:
    stand_in, port = bus
    program = "def f():\n  raise LookupError('no token=abc here')\nf()"
    one = startup("h", python("plain", program))
    host = Host(one, tmp_path, surroundings(port))
    try:
        await host.supervisor.open()
        await until(lambda: host.process("plain").phase == "crash-looping")
        await until(lambda: sum(report.count for report in of_children(stand_in)) == 3)
    finally:
        await host.stop()
    reports = of_children(stand_in)
    assert {report.error_type for report in reports} == {"LookupError"}
    assert {report.agent for report in reports} == {"plain"}
    assert reports[0].host == "h"
    assert "in f" in str(reports[0].stack)
    assert "abc" not in f"{reports[0].message} {reports[0].stack}"
    assert (reports[0].severity, reports[0].details["exit_code"]) == ("critical", 1)


async def test_a_traceback_of_a_program_that_goes_on_is_told_when_it_is_whole(
    tmp_path: Path, bus: tuple[StandIn, int]
) -> None:
    stand_in, port = bus
    program = "import time, traceback\ntry:\n  1 / 0\nexcept ArithmeticError:\n  traceback.print_exc()\ntime.sleep(100)"
    host = Host(startup("h", python("worker", program)), tmp_path, surroundings(port))
    try:
        await host.supervisor.open()
        (report,) = await told(stand_in, 1)
    finally:
        await host.stop()
    assert (report.agent, report.error_type, report.severity) == ("worker", "ZeroDivisionError", "error")
    assert len(of_children(stand_in)) == 1


async def test_a_process_that_a_signal_killed_is_told_of_and_one_that_was_stopped_is_not(
    tmp_path: Path, bus: tuple[StandIn, int]
) -> None:
    stand_in, port = bus
    script = "echo last words >&2; kill -SEGV $$"
    host = Host(startup("h", shell_agent("faulty", script), shell_agent("calm")), tmp_path, surroundings(port))
    try:
        await host.supervisor.open()
        await until(lambda: host.process("faulty").phase == "crash-looping")
        host.supervisor.ask("calm", "stop")
        await until(lambda: host.process("calm").phase == "stopped")
        await until(lambda: sum(report.count for report in of_children(stand_in)) == 3)
    finally:
        await host.stop()
    reports = of_children(stand_in)
    assert {report.agent for report in reports} == {"faulty"}
    assert {report.error_type for report in reports} == {"KilledBySignal"}
    assert len({report.fingerprint for report in reports}) == 1
    assert (reports[0].details["signal"], reports[0].details["stderr_tail"]) == ("SIGSEGV", ["last words"])


async def test_a_process_that_is_not_ready_in_time_is_told_of(tmp_path: Path, bus: tuple[StandIn, int]) -> None:
    stand_in, port = bus
    never = HealthProbe(how="tcp", ready_within_s=Duration(0.2))
    host = Host(startup("h", shell_agent("slow", health=never)), tmp_path, surroundings(port))
    try:
        await host.supervisor.open()
        (report, *_) = await told(stand_in, 1)
    finally:
        await host.stop()
    assert (report.agent, report.error_type) == ("slow", "NotReady")
    assert "not ready within 0.2 s" in report.message


async def test_a_process_that_cannot_be_launched_is_told_of(tmp_path: Path, bus: tuple[StandIn, int]) -> None:
    stand_in, port = bus
    absent = Agent(name="absent", command=["no-such-program"], health=HealthProbe(how="none"), restart=QUICK)
    host = Host(startup("h", absent), tmp_path, surroundings(port))
    try:
        await host.supervisor.open()
        (report, *_) = await told(stand_in, 1)
    finally:
        await host.stop()
    assert (report.agent, report.error_type) == ("absent", "NotLaunched")
    assert "no-such-program" in report.message


async def test_a_supervisor_delivers_what_a_killed_child_had_spooled(
    tmp_path: Path, bus: tuple[StandIn, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    stand_in, port = bus
    monkeypatch.setattr("common.supervisor.outside.ADOPT_S", 0.2)
    left = ErrorReporter("child", host="h", home=tmp_path, environ={"TANDEM_SERVICES": ""}, connect=nobody)
    left.report_error("Left", "by a child")
    left.close(0.0)
    host = Host(startup("h"), tmp_path, surroundings(port))
    try:
        await host.supervisor.open()
        (report,) = await told(stand_in, 1)
    finally:
        await host.stop()
    assert (report.agent, report.message) == ("child", "by a child")


def nobody() -> Any:
    raise OSError("no client")


class Heard(ErrorReporter):
    """A reporter that keeps what it is given."""

    def __init__(self) -> None:
        self.reports: list[ErrorReport] = []

    def report(self, key: Any, make: Any) -> bool:
        self.reports.append(make())
        return True


async def test_a_kill_that_the_kernel_counts_is_for_want_of_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    counted = [3]
    monkeypatch.setattr(module, "kills_for_memory", lambda: counted[0])
    heard = Heard()
    witness = Witness(heard, "h", SystemClock())
    witness.ended("a", -signal.SIGKILL, (), wanted=False)
    counted[0] = 4
    witness.ended("a", -signal.SIGKILL, (), wanted=False)
    witness.ended("a", -40, (), wanted=False)
    assert [report.error_type for report in heard.reports] == ["KilledBySignal", "OutOfMemory", "KilledBySignal"]
    assert heard.reports[-1].details["signal"] == "signal 40"


async def test_a_life_over_takes_its_unfinished_traceback_with_it() -> None:
    heard = Heard()
    witness = Witness(heard, "h", SystemClock())
    witness.heard("a", ["Traceback (most recent call last):", '  File "a.py", line 1'])
    witness.ended("a", 0, (), wanted=False)
    witness.heard("a", ["ValueError: of the next life"])
    await asyncio.sleep(0)
    assert heard.reports == []


def test_kernels_that_count_no_kills_are_borne(tmp_path: Path) -> None:
    (tmp_path / "vmstat").write_text("nr_free_pages 7\noom_kill 12\n")
    assert kills_for_memory(tmp_path / "vmstat") == 12
    (tmp_path / "vmstat").write_text("nr_free_pages 7\n")
    assert kills_for_memory(tmp_path / "vmstat") == 0
    assert kills_for_memory(tmp_path / "absent") == 0
