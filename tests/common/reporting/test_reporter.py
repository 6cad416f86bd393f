from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from common.api.error_bus import ErrorReport
from common.client.opening import open_client
from common.client.settings import at_own_pace
from common.errors import Forbidden, TandemError
from common.reporting import outbox as outbox_module
from common.reporting import places
from common.reporting.places import agent_name, process_folder, sender_of, spools_of
from common.reporting.reporter import ErrorReporter, install, process_reporter
from common.telemetry.metrics import Metrics
from tests.common.reporting.stand_in import ROOT, Taken, read_taken, services, standing_in

PATIENCE_S = 60.0


@pytest.fixture
def port(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> int:
    """Where ErrorBus and the hub are, or will be; TANDEM_HOME is the test's own."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        number: int = free.getsockname()[1]
    monkeypatch.setenv("TANDEM_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("TANDEM_SERVICES", services(number))
    return number


@pytest.fixture
def reporter(port: int) -> Iterator[ErrorReporter]:
    made = ErrorReporter("reader")
    yield made
    made.close(0.0)


def until(holds: Callable[[], bool], what: str = "it") -> None:
    last = time.monotonic() + PATIENCE_S
    while not holds():
        assert time.monotonic() < last, f"{what} never held"
        time.sleep(0.02)


def delivered(reporter: ErrorReporter) -> None:
    """Waits until everything is delivered, through any failures."""
    until(lambda: reporter.flush(1.0), "delivery")


class Bus:
    """The stand-in as a process that can be killed and started again at the same port."""

    def __init__(self, port: int, file: Path) -> None:
        self.file = file
        self._command = [sys.executable, "-m", "tests.common.reporting.stand_in", str(port), str(file)]
        self._process: subprocess.Popen[str] | None = None

    def start(self) -> None:
        self._process = subprocess.Popen(self._command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == "ready\n"

    def end(self, number: signal.Signals = signal.SIGKILL) -> None:
        if self._process is not None and self._process.stdout is not None:
            self._process.send_signal(number)
            self._process.wait(timeout=60)
            self._process.stdout.close()
            self._process = None

    @property
    def taken(self) -> Taken:
        return read_taken(self.file)


@pytest.fixture
def bus(port: int, tmp_path: Path) -> Iterator[Bus]:
    made = Bus(port, tmp_path / "taken")
    yield made
    made.end()


def raised(text: str = "as it is") -> Exception:
    try:
        raise ValueError(text)
    except ValueError as error:
        return error


def test_nothing_is_opened_before_there_is_something_to_tell(reporter: ErrorReporter, tmp_path: Path) -> None:
    assert not (tmp_path / "home").exists()
    assert not reporter.outbox.running
    assert reporter.flush(0.0)
    assert reporter.close(0.0)


async def test_a_report_arrives_whole_with_its_secrets_hidden(
    reporter: ErrorReporter, port: int, tmp_path: Path
) -> None:
    async with standing_in(tmp_path / "taken", port) as (bus, _):
        reporter.report_error(raised("password=hunter2"), details={"token": "abc", "odd": object()})
        reporter.report_error("Overheated", "87 degrees", severity="warning")
        assert await asyncio.to_thread(reporter.flush, PATIENCE_S)
        first, second = bus.taken.reports
    assert (first.agent, first.host, first.error_type, first.severity) == ("reader", "mainpc", "ValueError", "error")
    assert "hunter2" not in first.message + str(first.stack)
    assert "in raised" in str(first.stack)
    assert first.details["token"] == "[redacted]"
    assert first.details["pid"] == os.getpid()
    assert (second.error_type, second.message, second.severity, second.stack) == (
        "Overheated",
        "87 degrees",
        "warning",
        "",
    )
    assert first.occurred_at <= second.occurred_at


async def test_a_second_later_nothing_is_open_any_more(
    reporter: ErrorReporter, port: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outbox_module, "LINGER_S", 0.05)
    async with standing_in(tmp_path / "taken", port) as (bus, _):
        for number in range(2):
            reporter.report_error("Numbered", str(number))
            assert await asyncio.to_thread(reporter.flush, PATIENCE_S)
            await asyncio.to_thread(until, lambda: not reporter.outbox.running)
        assert [report.message for report in bus.taken.reports] == ["0", "1"]
    assert not [thread for thread in threading.enumerate() if thread.name == "reporting"]
    folder = tmp_path / "home/mainpc/spool/reader/errors"
    assert not list(folder.glob("*.seg"))
    opened = {os.readlink(f"/proc/self/fd/{fd}") for fd in os.listdir("/proc/self/fd") if _link(fd)}
    assert not [path for path in opened if str(tmp_path) in path]


def _link(fd: str) -> bool:
    return os.path.islink(f"/proc/self/fd/{fd}")


def test_while_the_bus_is_away_errors_wait_and_then_arrive_once_and_in_order(reporter: ErrorReporter, bus: Bus) -> None:
    for number in range(300):
        reporter.report_error("Numbered", str(number))
    until(lambda: bool(reporter.outbox.problem))
    assert not reporter.flush(0.1)
    bus.start()
    delivered(reporter)
    assert [report.message for report in bus.taken.reports] == [str(number) for number in range(300)]
    assert reporter.outbox.problem == ""


def test_a_bus_that_is_killed_again_and_again_has_everything_once(reporter: ErrorReporter, bus: Bus) -> None:
    for life in range(4):
        bus.start()
        for number in range(2_000):
            reporter.report_error("Numbered", str(life * 2_000 + number))
            reporter.metric("number", life * 2_000 + number)
        wanted = len(bus.taken.reports) + 1
        until(lambda wanted=wanted: len(bus.taken.reports) >= wanted)
        bus.end()
    bus.start()
    delivered(reporter)
    assert [report.message for report in bus.taken.reports] == [str(number) for number in range(8_000)]
    assert [point.value for point in bus.taken.points] == list(range(8_000))


async def test_what_was_taken_without_an_answer_is_not_doubled_by_what_came_behind_it(
    reporter: ErrorReporter, port: int, tmp_path: Path
) -> None:
    async with standing_in(tmp_path / "taken", port) as (bus, _):
        bus.answers_lost = True
        for number in range(9):
            reporter.report_error("Numbered", str(number))
            reporter.metric("number", number)
            wanted = len(bus.batches) + 2
            await asyncio.to_thread(until, lambda wanted=wanted: len(bus.batches) >= wanted)
            if number == 4:
                reporter.close(0.0)
                reporter = ErrorReporter("reader")
        bus.answers_lost = False
        await asyncio.to_thread(delivered, reporter)
        await asyncio.to_thread(reporter.close)
        assert [report.message for report in bus.taken.reports] == [str(number) for number in range(9)]
        assert [point.value for point in bus.taken.points] == list(range(9))


SENDER = """
import sys
from tandem import ErrorReporter
reporter = ErrorReporter("sender")
number = int(sys.argv[1])
while True:
    number += 1
    reporter.report_error("Numbered", str(number))
    sys.stdout.write(f"{number}\\n")
    sys.stdout.flush()
"""


def test_a_sender_that_is_killed_again_and_again_loses_nothing_it_had_reported(bus: Bus) -> None:
    bus.start()
    told: list[int] = []
    for life in range(4):
        command = [sys.executable, "-c", SENDER, str(life * 1_000_000)]
        process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        lines = [process.stdout.readline() for _ in range(50 + 700 * life)]
        process.kill()
        lines += process.stdout.readlines()
        process.wait(timeout=60)
        process.stdout.close()
        told += [int(line) for line in lines if line.endswith("\n")]
        if life == 2:
            bus.end()
    bus.start()
    last = ErrorReporter("sender")
    last.report_error("Last")
    delivered(last)
    last.close()
    *numbers, end = [report.message or report.error_type for report in bus.taken.reports]
    found = [int(number) for number in numbers]
    assert end == "Last"
    assert found == sorted(set(found))
    assert set(told) <= set(found)
    assert len(found) <= len(told) + 4


def test_living_processes_of_one_name_do_not_disturb_each_other(port: int, bus: Bus) -> None:
    workers = [ErrorReporter("pool") for _ in range(3)]
    for number in range(30):
        workers[number % 3].report_error("Numbered", str(number))
    bus.start()
    for worker in workers:
        delivered(worker)
        worker.close()
    assert sorted(int(report.message) for report in bus.taken.reports) == list(range(30))
    assert len({key.split()[0] for key in bus.taken.places}) == 3


def test_what_a_process_left_behind_is_delivered_by_its_supervisor(port: int, bus: Bus) -> None:
    gone = ErrorReporter("gone/for ever")
    gone.report_error("Left")
    gone.metric("left", 7)
    until(lambda: bool(gone.outbox.problem))
    gone.close(0.0)
    bus.start()
    supervisor = ErrorReporter("supervisor")
    supervisor.adopt_left_behind()
    delivered(supervisor)
    supervisor.close()
    assert [report.agent for report in bus.taken.reports] == ["gone/for ever"]
    assert [point.name for point in bus.taken.points] == ["left"]


def test_what_a_process_left_behind_is_its_own_again_while_the_bus_is_away(
    port: int, bus: Bus, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(places, "SPOOLS", 3)
    monkeypatch.setattr(outbox_module, "LINGER_S", 0.01)
    supervisor = ErrorReporter("supervisor")
    for life in range(12):
        agent = ErrorReporter("reader")
        agent.report_error("Life", str(life))
        assert agent.not_kept == 0
        agent.close(0.0)
        until(lambda agent=agent: not agent.outbox.running)
        if life % 3 == 0:
            supervisor.adopt_left_behind()
            until(lambda: not supervisor.outbox.running)
    bus.start()
    supervisor.adopt_left_behind()
    until(lambda: supervisor.adopt_left_behind() or len(bus.taken.reports) >= 12)
    supervisor.close()
    assert sorted(int(report.message) for report in bus.taken.reports) == list(range(12))


def test_a_storm_of_equal_errors_is_a_few_records_and_every_one_is_counted(reporter: ErrorReporter, bus: Bus) -> None:
    bus.start()
    for number in range(50_000):
        reporter.report_error(raised(str(number)))
    delivered(reporter)
    counts = [report.count for report in bus.taken.reports]
    assert sum(counts) == 50_000
    assert len(counts) < 1_000


async def test_a_record_that_the_bus_refuses_costs_itself_alone_and_is_told_as_lost(
    reporter: ErrorReporter, port: int, tmp_path: Path
) -> None:
    for number in range(20):
        reporter.report_error("Poison" if number == 7 else "Numbered", str(number))
    async with standing_in(tmp_path / "taken", port) as (bus, _):
        await asyncio.to_thread(delivered, reporter)
        messages = [int(report.message) for report in bus.taken.reports]
        assert messages == [number for number in range(20) if number != 7]
        assert bus.taken.lost == 1


class Unsaying:
    """A client that cannot encode one of the reports."""

    def __init__(self) -> None:
        self._client = open_client(at_own_pace(5.0))

    def call(self, target: str, verb: Any, request: Any, *, timeout_s: float | None = None) -> Any:
        if any(report.message == "7" for report in request.reports):
            raise TypeError("no such thing in msgpack")
        return self._client.call(target, verb, request, timeout_s=timeout_s)

    def close(self) -> None:
        self._client.close()


async def test_a_record_that_cannot_be_said_costs_itself_alone(port: int, tmp_path: Path) -> None:
    reporter = ErrorReporter("reader", connect=Unsaying)
    for number in range(10):
        reporter.report_error("Numbered", str(number))
    async with standing_in(tmp_path / "taken", port) as (bus, _):
        await asyncio.to_thread(delivered, reporter)
        assert [int(report.message) for report in bus.taken.reports] == [0, 1, 2, 3, 4, 5, 6, 8, 9]
        assert bus.taken.lost == 1
    await asyncio.to_thread(reporter.close, 0.0)


async def test_a_refusal_that_can_be_mended_is_waited_out(reporter: ErrorReporter, port: int, tmp_path: Path) -> None:
    async with standing_in(tmp_path / "taken", port) as (bus, _):
        refusal: TandemError = Forbidden("no access yet")
        bus.refuse = refusal
        reporter.report_error("Patient")
        await asyncio.to_thread(until, lambda: len(bus.batches) > 3)
        assert reporter.outbox.problem == "no access yet"
        bus.refuse = None
        await asyncio.to_thread(delivered, reporter)
        assert [report.error_type for report in bus.taken.reports] == ["Patient"]


def test_an_error_that_was_reported_is_not_reported_again_until_it_is_raised_anew(reporter: ErrorReporter) -> None:
    error = raised()
    assert reporter.report_error(error)
    assert not reporter.report_error(error)
    assert reporter.reported == 1
    try:
        raise error.with_traceback(None)
    except ValueError as again:
        reporter.report_error(again)
    assert reporter.reported == 2


def test_a_disk_that_cannot_be_written_stops_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "home").write_text("a file in the way")
    monkeypatch.setenv("TANDEM_HOME", str(tmp_path / "home"))
    reporter = ErrorReporter("reader")
    reporter.report_error(raised())
    reporter.metric("value", 1.0)
    assert (reporter.reported, reporter.not_kept) == (1, 2)
    reporter.close()


async def test_what_could_not_be_kept_is_told_as_lost_once_something_can(port: int, tmp_path: Path) -> None:
    in_the_way = tmp_path / "home"
    in_the_way.write_text("a file")
    reporter = ErrorReporter("reader")
    for number in range(3):
        reporter.report_error("Numbered", str(number))
    in_the_way.unlink()
    reporter.report_error("Numbered", "3")
    async with standing_in(tmp_path / "taken", port) as (bus, _):
        await asyncio.to_thread(delivered, reporter)
        assert ([report.message for report in bus.taken.reports], bus.taken.lost) == (["3"], 3)
    await asyncio.to_thread(reporter.close, 0.0)


def test_how_its_work_goes_is_told_by_metrics(tmp_path: Path) -> None:
    (tmp_path / "home").write_text("no folder")
    reporter = ErrorReporter("reader", home=tmp_path / "home", environ={})
    metrics = Metrics()
    reporter.show(metrics)
    for _ in range(2):
        reporter.report_error("ReadError", "no such file")
    told = dict(line.split() for line in metrics.exposition().decode().splitlines() if not line.startswith("#"))
    assert float(told["tandem_reporting_errors_total"]) == 2
    assert float(told["tandem_reporting_not_kept_total"]) == 1
    assert float(told["tandem_reporting_own_total"]) == 0
    assert float(told["tandem_reporting_undeliverable"]) == 0
    reporter.close(0.0)


def test_what_cannot_be_shown_is_told_as_well_as_it_goes(reporter: ErrorReporter, bus: Bus) -> None:
    class Odd(Exception):
        def __str__(self) -> str:
            raise RuntimeError("no")

    reporter.report_error(Odd(), details={"much": [["x" * 6_000] * 32] * 32})
    bus.start()
    delivered(reporter)
    (report,) = bus.taken.reports
    assert (report.error_type.rpartition(".")[2], report.details) == ("Odd", {"cut": True})


def test_a_forked_child_reports_for_itself(reporter: ErrorReporter, bus: Bus) -> None:
    reporter.report_error("Numbered", "parent")
    pid = os.fork()
    if not pid:
        reporter.report_error("Numbered", "child")
        os._exit(0)
    assert os.waitpid(pid, 0)[1] == 0
    reporter.report_error("Numbered", "parent again")
    bus.start()
    reporter.adopt_left_behind()
    delivered(reporter)
    assert sorted(report.message for report in bus.taken.reports) == ["child", "parent", "parent again"]


def test_its_name_and_host_are_those_that_the_supervisor_gave(
    port: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TANDEM_AGENT_NAME", "supervised")
    monkeypatch.setenv("TANDEM_HOST", "pc2")
    reporter = ErrorReporter("by another name")
    assert (reporter.name, reporter.host) == ("supervised", "pc2")
    reporter.report_error("One")
    assert (spools_of(tmp_path / "home", "pc2") / "supervised" / "errors").is_dir()
    reporter.close(0.0)


def test_a_process_has_one_reporter_of_its_own(reporter: ErrorReporter) -> None:
    install(reporter)
    assert process_reporter() is reporter


def test_a_program_without_a_file_has_its_interpreters_name(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["/opt/importer/run.py", "-v"])
    assert ErrorReporter().name == "run"
    monkeypatch.setattr(sys, "argv", ["-c"])
    assert ErrorReporter().name == "python"


def test_what_happens_while_a_report_is_made_is_counted_and_not_reported(reporter: ErrorReporter) -> None:
    class Nested(Exception):
        def __str__(self) -> str:
            reporter.report_error("Within", "itself")
            reporter.metric("within", 1.0)
            return "said"

    reporter.report_error(Nested())
    assert (reporter.reported, reporter.swallowed > 0) == (1, True)


@pytest.mark.parametrize("name", ["", ".hidden", "a/b c", "ünïcode\n", "x" * 500])
def test_any_name_is_a_name_on_the_wire(name: str) -> None:
    named = agent_name(name)
    report = ErrorReport(agent=named, error_type="E", message="")
    assert msgspec.json.decode(msgspec.json.encode(report), type=ErrorReport).agent == named
    folder = process_folder(Path("/home"), "h", named)
    assert folder.parent == Path("/home/h/spool")
    assert sender_of(folder / "errors.2").agent == named
