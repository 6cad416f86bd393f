"""The house rules of every run: nothing is skipped in silence, nothing is expected to fail, and no fabric of the user's is met.

A test that cannot run here says so with `pytest.skip(reason)`, or through the `needs` fixture, which names the Debian
package. All of them are listed by name with their reason at the end of the run, and in build/could-not-run.txt for
`make test` to repeat.

Whatever a test starts finds nobody on the well-known ports, unless it is told of somebody. With CI in the environment those
ports are held, and the run fails where one is called.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from common.client.directory import SERVICES_VARIABLE
from scripts.system import PACKAGES, SBIN
from tests.lab.doorstep import Doorstep
from tests.lab.netns import TwoHosts, why_not
from tests.lab.nowhere import NOWHERE

ROOT = Path(__file__).resolve().parent.parent
LIST = "build/could-not-run.txt"
DOORSTEP = pytest.StashKey[Doorstep]()

os.environ[SERVICES_VARIABLE] = NOWHERE

settings.register_profile(
    "house",
    max_examples=50,
    deadline=None,
    derandomize="CI" in os.environ,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("house")


@pytest.fixture(scope="session")
def repository() -> Path:
    """The repository's root folder."""
    return ROOT


@pytest.fixture(scope="session")
def needs() -> Callable[[str], str]:
    """Call with a command's name for its path; where it is missing the test is skipped, naming the Debian package."""

    def find(command: str) -> str:
        found = shutil.which(command, path=os.environ.get("PATH", "") + SBIN)
        if found is None:
            package = next((package.name for package in PACKAGES if package.shown_by == command), command)
            pytest.skip(f"needs {command} (Debian package {package}: make system)")
        return found

    return find


@pytest.fixture
def two_hosts() -> Iterator[TwoHosts]:
    """Two hosts on one switch, built for this test alone; skipped where the machine does not allow it."""
    if reason := why_not():
        pytest.skip(reason)
    with TwoHosts() as hosts:
        yield hosts


def pytest_configure(config: pytest.Config) -> None:
    if "CI" in os.environ and not hasattr(config, "workerinput"):
        config.stash[DOORSTEP] = Doorstep()


def pytest_sessionfinish(session: pytest.Session) -> None:
    doorstep = session.config.stash.get(DOORSTEP, None)
    if doorstep is not None:
        doorstep.close()
        if doorstep.callers and session.exitstatus == pytest.ExitCode.OK:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    expected_to_fail = [item.nodeid for item in items if item.get_closest_marker("xfail")]
    if expected_to_fail:
        raise pytest.UsageError(f"no test may be expected to fail: {', '.join(expected_to_fail)}")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]):  # type: ignore[no-untyped-def]
    report = yield
    # A lone surrogate in what a test logged would not pass from a process of pytest-xdist to the one that reports.
    report.sections = [(name, text.encode(errors="backslashreplace").decode()) for name, text in report.sections]
    if hasattr(report, "wasxfail"):
        del report.wasxfail
        report.outcome = "failed"
        report.longrepr = f"{item.nodeid} says that it is expected to fail; mend it or say why it cannot run"
    return report


def reason_of(report: pytest.TestReport | pytest.CollectReport) -> str:
    """Why a test did not run, in its own words."""
    told = report.longrepr[2] if isinstance(report.longrepr, (tuple, list)) else str(report.longrepr)
    return told.removeprefix("Skipped: ")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    lines = sorted(f"{report.nodeid}: {reason_of(report)}" for report in terminalreporter.stats.get("skipped", []))
    listed = terminalreporter.config.rootpath / LIST
    listed.parent.mkdir(exist_ok=True)
    listed.write_text("".join(f"{line}\n" for line in lines))
    if lines:
        terminalreporter.section(f"could not run here: {len(lines)}")
        for line in lines:
            terminalreporter.write_line(line)
    doorstep = terminalreporter.config.stash.get(DOORSTEP, None)
    if doorstep is not None and doorstep.callers:
        terminalreporter.section(
            f"calls at well-known ports, where a fabric of the user's may be: {len(doorstep.callers)}"
        )
        for caller in doorstep.callers:
            terminalreporter.write_line(caller)
