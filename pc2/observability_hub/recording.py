"""Recording: points of metrics are taken into memory, written to the history every few seconds by a thread aside, and asked for.

What was pushed since the last write lives in memory alone; so do the marks of which batches were taken, and a batch is never
half kept. While the disk takes nothing the newest buckets wait, as many as MAX_WAITING, and the rest is counted as lost.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

from common.api import observability_hub as api
from common.api.observability_hub import MetricKind
from common.clock import timestamp
from common.errors import TandemError
from common.service.call import Call
from common.service.shell import Shell
from pc2.observability_hub.asking import MAX_SERIES, Span, merged, span, values
from pc2.observability_hub.deliveries import Delivered, Deliveries
from pc2.observability_hub.history import History
from pc2.observability_hub.series import Bucket, Closed, SeriesKey, SeriesTable

WRITE_S: Final = 10.0
FORGET_EVERY: Final = 360
"""Writes between two looks for series that have no history left: an hour's."""
MAX_WAITING: Final = 100_000
PROBLEM: Final = "metric history"


class Recording:
    """The metrics of one hub, with their history in the file `path`."""

    def __init__(self, shell: Shell, path: Path, table: SeriesTable | None = None) -> None:
        self._shell = shell
        self._wall = shell.clock.wall
        self.table = table or SeriesTable()
        self._history = History(path)
        self._aside = ThreadPoolExecutor(1, "metric history")
        self._deliveries = Deliveries()
        self._waiting: list[Closed] = []
        self._marks: dict[tuple[str, int], Delivered] = {}
        self._writing = asyncio.Lock()
        self._remembers = False
        self.writes = 0
        self.failures = 0
        self.lost: Counter[str] = Counter()

    def add_routes(self) -> None:
        """Serve the metric verbs."""
        self._shell.handle(api.PUSH_METRICS, self._push)
        self._shell.handle(api.QUERY_METRICS, self._query)

    async def open(self) -> None:
        """Learns which batches an earlier life took; where the disk does not say, that is a problem and no more."""
        await self.write()

    async def close(self) -> None:
        """Writes what there is, and closes the file."""
        await self.write()
        await self._shell.loop.run_in_executor(self._aside, self._history.close)
        self._aside.shutdown(wait=False)

    def record(self, agent: str, name: str, value: float, labels: Mapping[str, str], kind: MetricKind) -> None:
        """One value of now."""
        now = self._wall()
        self.table.add(agent, name, value, labels, now, now, kind)

    async def keep_writing(self) -> None:
        """Writes every WRITE_S until cancelled."""
        while True:
            await asyncio.sleep(WRITE_S)
            await self.write()

    async def write(self) -> None:
        """Writes what is new; what cannot be written waits for the next time."""
        async with self._writing:
            self._waiting += self.table.close(self._wall())
            self._marks |= {one.life: one for one in self._deliveries.changed()}
            try:
                await self._write()
            except TandemError as error:
                self.failures += 1
                self._shell.problems[PROBLEM] = error.message
                self._bound()
            else:
                self._shell.problems.pop(PROBLEM, None)

    async def _write(self) -> None:
        run, now = self._shell.loop.run_in_executor, self._wall()
        if not self._remembers:
            self._deliveries.load(await run(self._aside, self._history.delivered))
            self._remembers = True
        await run(self._aside, self._history.write, list(self._waiting), list(self._marks.values()), now)
        self._waiting, self._marks = [], {}  # they are kept, whatever comes of the rest
        self.writes += 1
        if self.writes % FORGET_EVERY == 1:
            await run(self._aside, self._history.forget, now)

    def _bound(self) -> None:
        beyond = len(self._waiting) - MAX_WAITING
        if beyond > 0:
            del self._waiting[:beyond]
            self.lost["the disk took none for too long"] += beyond

    # verbs

    def _push(self, asked: api.PushMetrics, call: Call) -> api.MetricsTaken:
        if asked.sender and self._deliveries.repeated(asked.sender, asked.epoch, asked.seq):
            return api.MetricsTaken(taken=0, repeated=True)
        taken, why = self.table.take(asked.agent, asked.points, self._wall(), call.identity)
        return api.MetricsTaken(taken=taken, dropped=len(asked.points) - taken, reason=why)

    async def _query(self, asked: api.QueryMetrics, _call: Call) -> api.MetricHistory:
        start = asked.start.timestamp() if asked.start is not None else None
        end = asked.end.timestamp() if asked.end is not None else None
        exact = span(start, end, asked.step_s, self._wall())
        kept, more = await self._kept(asked, exact)
        fresh = self._fresh(asked)  # only now: what a write under way was to keep is in `kept`
        found: dict[SeriesKey, tuple[MetricKind, list[Bucket]]] = {key: (kind, rows) for key, kind, rows in kept}
        for key, (kind, rows) in fresh.items():
            there = found.get(key)
            if there is not None:
                there[1].extend(rows)
            elif len(found) < MAX_SERIES:
                found[key] = kind, rows
            else:
                more += 1
        series = [_series(key, kind, rows, exact, asked.aggregate) for key, (kind, rows) in sorted(found.items())]
        answer = [one for one in series if one.points]
        return api.MetricHistory(name=asked.name, step_s=float(exact.step_s), series=answer, more=more)

    async def _kept(
        self, asked: api.QueryMetrics, exact: Span
    ) -> tuple[list[tuple[SeriesKey, MetricKind, list[Bucket]]], int]:
        """What is on disk; nothing where it cannot be read, which is told as this service's problem."""
        run, read = self._shell.loop.run_in_executor, self._history.read
        async with self._writing:
            try:
                return await run(self._aside, read, asked.name, asked.agent, asked.labels, exact)
            except TandemError as error:
                self._shell.problems[PROBLEM] = error.message
                return [], 0

    def _fresh(self, asked: api.QueryMetrics) -> dict[SeriesKey, tuple[MetricKind, list[Bucket]]]:
        """What is not on disk yet."""
        found: dict[SeriesKey, tuple[MetricKind, list[Bucket]]] = {}
        for series in self.table.matching(asked.name, asked.agent, asked.labels):
            found[series.key] = series.kind, list(series.open.values())
        for closed in self._waiting:
            if closed.key.answers(asked.name, asked.agent, asked.labels):
                found.setdefault(closed.key, (closed.kind, []))[1].insert(0, closed.bucket)
        return found


def _series(
    key: SeriesKey, kind: MetricKind, buckets: list[Bucket], exact: Span, aggregate: api.Aggregate
) -> api.MetricSeries:
    points = values(merged(buckets, exact), aggregate, kind)
    return api.MetricSeries(
        agent=key.agent,
        labels=dict(key.labels),
        kind=kind,
        points=[api.MetricValue(at=timestamp(start), value=value) for start, value in points],
    )
