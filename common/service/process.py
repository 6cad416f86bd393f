"""A service as a process: its place and its store from the environment, and its life until it is told to stop."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from typing import Protocol

from common.api import error_bus
from common.api.catalog import ServiceSpec
from common.client.directory import Directory
from common.client.opening import directory_of_environment
from common.config.settings import AgentEnvironment
from common.errors import TandemError
from common.reporting.handler import report_everything, report_from_loop
from common.reporting.reporter import ErrorReporter
from common.service.loop import allow_many_files, calm_collector, on_stop_signal, run
from common.service.settings import ShellSettings
from common.service.shell import Shell
from common.store.open import open_store
from common.store.protocol import Durability, RecordStore
from common.telemetry.logs import configure


class Service(Protocol):
    """What a service's room makes of its shell."""

    shell: Shell

    async def open(self) -> None:
        """Load what was known and serve; TandemError when it cannot begin."""
        ...

    async def close(self) -> None:
        """Take no new work, finish, and stop."""
        ...


Make = Callable[[ShellSettings, Directory, RecordStore], Service]


def run_service(
    spec: ServiceSpec, home_host: str, store_name: str, make: Make, durability: Durability = Durability.NORMAL
) -> int:
    """Run a service to its end (SIGTERM, SIGINT); the process's exit status, 1 when it could not begin.

    `home_host` is where it belongs when no supervisor says; ports that none says are the well-known ones, and records that
    nobody wants elsewhere (TANDEM_STORE) lie in the host's home. What it logs as an error is reported. `durability` is the
    strongest that it asks of its store.
    """
    allow_many_files()
    environment = AgentEnvironment.read()
    host = environment.host or home_host
    settings = ShellSettings(
        service=spec.name,
        host=host,
        port=environment.port or spec.port,
        events_port=environment.events_port or spec.events_port,
        health_port=environment.health_port or spec.health_port,
        addresses=environment.addresses,
        keys=environment.key_file,
        lone=not environment.supervised,
    )
    configure(spec.name, host)
    reporter = _reporter(spec, store_name, host)
    try:
        store = open_store(environment.store or environment.home / host, store_name, durability)
        run(_serve(lambda: make(settings, directory_of_environment(), store), reporter))
    except TandemError as error:
        print(f"{spec.name} cannot start: {error.message}", file=sys.stderr)
        return 1
    return 0


def _reporter(spec: ServiceSpec, name: str, host: str) -> ErrorReporter | None:
    """What tells of this service's own errors; ErrorBus has none, for it would tell itself."""
    if spec.name == error_bus.SERVICE:
        return None
    reporter = ErrorReporter(name, host=host)
    report_everything(reporter)
    return reporter


async def _serve(make: Callable[[], Service], reporter: ErrorReporter | None) -> None:
    if reporter is not None:
        report_from_loop(reporter, asyncio.get_running_loop())
    service = make()
    if reporter is not None:
        reporter.show(service.shell.metrics)
    on_stop_signal(service.shell.stop)  # before it serves: what it acknowledges is kept
    await service.open()
    calm_collector()
    try:
        await service.shell.stopped()
    finally:
        await service.close()
