"""As much of ErrorBus and ObservabilityHub as a sender needs, on one port; what it has taken is on disk before it answers.

python -m tests.common.reporting.stand_in PORT FILE
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec

from common.api import error_bus, observability_hub
from common.errors import BadRequest, TandemError, Unavailable
from common.service.call import Call
from common.service.loop import on_stop_signal
from common.service.shell import Shell, ShellSettings
from tests.lab.nowhere import only

ROOT = Path(__file__).resolve().parents[3]


class Taken(msgspec.Struct):
    """Everything taken, and the last number of each sender and epoch."""

    places: dict[str, int] = {}
    reports: list[error_bus.ErrorReport] = []
    points: list[observability_hub.MetricPoint] = []
    lost: int = 0


class StandIn:
    """The two verbs. `refuse` is raised instead of taking; with `answers_lost` it takes, and nobody hears of it.

    A report of type `Poison` is refused for what it says.
    """

    def __init__(self, shell: Shell, file: Path) -> None:
        self._file = file
        self.taken = read_taken(file)
        self.refuse: TandemError | None = None
        self.answers_lost = False
        self.batches: list[int] = []
        shell.handle(error_bus.REPORT_ERRORS, self.report_errors)
        shell.handle(observability_hub.PUSH_METRICS, self.push_metrics)

    def report_errors(self, request: error_bus.ReportErrors, call: Call) -> error_bus.ErrorsTaken:
        self._admit(len(request.reports))
        if any(report.error_type == "Poison" for report in request.reports):
            raise BadRequest("poison")
        key = f"{request.sender} {request.epoch}"
        last = self.taken.places.get(key, 0)
        fresh = [report for number, report in enumerate(request.reports, request.first_seq) if number > last]
        self.taken.reports += fresh
        self.taken.lost += request.lost if fresh else 0
        seq = max(last, request.first_seq + len(request.reports) - 1)
        self._keep(key, seq)
        return error_bus.ErrorsTaken(seq=seq, taken=len(fresh), repeated=len(request.reports) - len(fresh))

    def push_metrics(self, request: observability_hub.PushMetrics, call: Call) -> observability_hub.MetricsTaken:
        self._admit(len(request.points))
        key = f"{request.sender} {request.epoch} points"
        if request.seq <= self.taken.places.get(key, 0):
            return observability_hub.MetricsTaken(taken=0, repeated=True)
        self.taken.points += request.points
        self._keep(key, request.seq)
        return observability_hub.MetricsTaken(taken=len(request.points))

    def _admit(self, count: int) -> None:
        self.batches.append(count)
        if self.refuse is not None:
            raise self.refuse

    def _keep(self, key: str, seq: int) -> None:
        self.taken.places[key] = seq
        beside = self._file.with_suffix(".new")
        beside.write_bytes(msgspec.msgpack.encode(self.taken))
        os.replace(beside, self._file)
        if self.answers_lost:
            raise Unavailable("it was taken, and the answer was lost")


def read_taken(file: Path) -> Taken:
    return msgspec.msgpack.decode(file.read_bytes(), type=Taken) if file.exists() else Taken()


@asynccontextmanager
async def standing_in(file: Path, port: int = 0) -> AsyncIterator[tuple[StandIn, int]]:
    """A stand-in on the running loop, and its port."""
    shell = Shell(ShellSettings("ErrorBus", "pc2", port))
    stand_in = StandIn(shell, file)
    await shell.open()
    try:
        yield stand_in, shell.port
    finally:
        await shell.close(drain_s=0)


def services(port: int) -> str:
    """TANDEM_SERVICES with both at `port`, and nobody else."""
    return only(f"ErrorBus={port}@127.0.0.1", f"ObservabilityHub={port}@127.0.0.1")


async def main(port: int, file: Path) -> None:
    async with standing_in(file, port):
        stop = asyncio.Event()
        on_stop_signal(stop.set)
        print("ready", flush=True)
        await stop.wait()


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]), Path(sys.argv[2])))
