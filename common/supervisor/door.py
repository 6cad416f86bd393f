"""Runs one host's supervisor in the foreground, from its startup file to its end: `python -m main_pc`, `python -m pc2`.

    python -m main_pc [--config FILE] [--keep-going] [--json]

What is wrong with the file is told all at once, and nothing is started. A start that leaves a process out says which and why with
its last lines on standard error, stops the rest in reverse order and exits 1; with `--keep-going` it stays up with what is
ready. TERM, INT and a closed terminal stop everything in reverse order, and the exit code is 0. The supervisor's own log is
TANDEM_HOME/HOST/logs/supervisor.log.
"""

from __future__ import annotations

import argparse
import io
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from common.config.schema import Startup
from common.config.settings import Settings
from common.config.units import format_seconds
from common.errors import TandemError
from common.reporting.handler import report_everything, report_from_loop
from common.service.loop import allow_many_files, on_stop_signal, run
from common.supervisor.board import Board, open_board
from common.supervisor.home import HostHome
from common.supervisor.launching import lacking, missing_wrappers
from common.supervisor.listing import told
from common.supervisor.logs import LogWriter
from common.supervisor.service import OWN_LOG, Supervisor
from common.supervisor.startup_file import read_startup
from common.telemetry.logs import configure
from common.telemetry.system_clock import SystemClock

LOG_BYTES: Final = 10 * 1024 * 1024
LOG_KEEP: Final = 3


def main(default_config: Path, arguments: Sequence[str]) -> int:
    """The door; its exit code."""
    options = _options(default_config, arguments)
    allow_many_files()
    try:
        settings = Settings.read()
        startup = read_startup(options.config)
    except TandemError as error:
        return _refuse(error.message)
    if isinstance(startup, str):
        return _refuse(startup)
    if missing := missing_wrappers(startup):
        return _refuse(f"nothing was started: {lacking(missing)}")
    home = HostHome(settings.home, startup.host)
    try:
        home.claim(SystemClock())
    except TandemError as error:
        return _refuse(f"nothing was started: {error.message}")
    except OSError as error:
        return _refuse(f"nothing was started: {home.root} cannot be written: {error.strerror}")
    configure(OWN_LOG, startup.host, stream=_LogStream(home.log_file(OWN_LOG)))
    return run(_supervise(startup, home, settings, options), small=True)


async def _supervise(startup: Startup, home: HostHome, settings: Settings, options: argparse.Namespace) -> int:
    board = open_board([startup.host], as_json=options.json)
    try:
        supervisor = Supervisor(startup, home, settings, board.show, config=options.config)
    except TandemError as error:
        home.release()
        return _refuse(f"nothing was started: {error.message}")
    report_everything(supervisor.reporter)
    report_from_loop(supervisor.reporter, supervisor.shell.loop)
    on_stop_signal(supervisor.stop)
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # as nohup leaves it
        supervisor.shell.loop.add_signal_handler(signal.SIGHUP, supervisor.stop)
    try:
        return await _serve(startup, supervisor, board, keep_going=options.keep_going)
    except TandemError as error:
        return _refuse(f"{startup.host}: {error.message}")
    finally:
        await supervisor.close()
        board.close()


async def _serve(startup: Startup, supervisor: Supervisor, board: Board, *, keep_going: bool) -> int:
    await supervisor.open()
    verdict = await supervisor.started()
    if verdict == "ready":
        board.say(f"{startup.host}: ready in {format_seconds(supervisor.elapsed_s())}")
        if why := supervisor.no_cards():
            board.say(f"{startup.host}: no cards to lease: {why}")
    failed = verdict == "failed"
    if failed:
        print(told(startup.host, supervisor.missing(), supervisor.elapsed_s()), file=sys.stderr, flush=True)
        if not keep_going:
            supervisor.stop()
    await supervisor.finished()
    return int(failed and not keep_going)


def _options(default_config: Path, arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Run one host's supervisor in the foreground.", allow_abbrev=False)
    parser.add_argument("--config", type=Path, default=default_config, help="the startup file (%(default)s)")
    parser.add_argument("--keep-going", action="store_true", help="stay up though a process did not become ready")
    parser.add_argument("--json", action="store_true", help="show each change as one line of JSON")
    return parser.parse_args(arguments)


def _refuse(text: str) -> int:
    print(text, file=sys.stderr, flush=True)
    return 1


class _LogStream(io.StringIO):
    """The supervisor's log as a stream: rotated, and stopped by no full disk."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._writer = LogWriter(path, LOG_BYTES, LOG_KEEP)

    def write(self, text: str) -> int:
        self._writer.write(text.encode())
        return len(text)
