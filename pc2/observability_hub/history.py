"""The history of metrics on disk: SQLite tables of buckets at three levels, each with its retention. One thread uses it.

Buckets are added to what is there, so that a bucket may be written in pieces and in any order. Rows lie by time and then by
series: writing appends, forgetting cuts off the beginning, and a question seeks each of its steps. Durability is NORMAL: what
was written outlives kill -9.
"""

from __future__ import annotations

import os
import sqlite3
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import msgspec

from common.api.observability_hub import MetricKind
from common.errors import StorageUnavailable
from pc2.observability_hub.asking import LEVELS, MAX_SERIES, Span
from pc2.observability_hub.deliveries import MAX_SENDERS, Delivered
from pc2.observability_hub.series import Bucket, Closed, SeriesKey

SCHEMA: Final = 1
IDS_KEPT: Final = 50_000
TOUCH_S: Final = 300
"""A series that goes on is noted as heard of this often, and this far ahead, so that few writes do for it."""
SENDERS_KEPT_S: Final = 30 * 86_400
TRIM_ROWS: Final = 20_000
"""Rows forgotten in one go; after a long absence the rest goes with the next ones."""

_ADD: Final = """
INSERT INTO {table} VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO UPDATE SET count = count + excluded.count,
total = total + excluded.total, least = min(least, excluded.least), most = max(most, excluded.most), last = excluded.last
"""
_READ: Final = """
WITH RECURSIVE steps(at) AS (SELECT ?1 UNION ALL SELECT at + ?2 FROM steps WHERE at + ?2 < ?3)
SELECT start, count, total, least, most, last FROM steps CROSS JOIN {table} ON start = at AND series = ?4
"""
_TRIM: Final = """
DELETE FROM {table} WHERE (start, series) IN (SELECT start, series FROM {table} WHERE start < ? LIMIT ?)
"""


class History:
    """The file `path`; opened at the first use, and again after it failed. StorageUnavailable says what and where."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._connection: sqlite3.Connection | None = None
        self._ids: dict[SeriesKey, tuple[int, int]] = {}
        """The number of a series, and until when it is noted as heard of."""

    def write(self, closed: Sequence[Closed], delivered: Sequence[Delivered], now: float) -> None:
        """Adds buckets at every level and notes batches as taken, at once or not at all; forgets what is too old."""
        with self._use() as connection:
            connection.execute("BEGIN IMMEDIATE")
            ids = {one.key: self._id(connection, one, now) for one in closed}
            for level in LEVELS:
                rows = [_row(one.bucket, ids[one.key], level.step_s) for one in closed]
                connection.executemany(_ADD.format(table=f"every_{level.step_s}"), rows)
                limits = (int(now - level.kept_s) - level.step_s, TRIM_ROWS)
                connection.execute(_TRIM.format(table=f"every_{level.step_s}"), limits)
            connection.executemany(
                "INSERT OR REPLACE INTO senders VALUES (?, ?, ?, ?)",
                [(one.sender, one.epoch, one.seq, int(now)) for one in delivered],
            )
            connection.execute("COMMIT")

    def forget(self, now: float) -> None:
        """Forgets the series that have no bucket left, and senders unheard for long; called now and then."""
        with self._use() as connection:
            connection.execute("BEGIN IMMEDIATE")
            connection.execute("DELETE FROM series WHERE last_at < ?", (int(now) - LEVELS[-1].kept_s,))
            connection.execute("DELETE FROM senders WHERE at < ?", (int(now) - SENDERS_KEPT_S,))
            connection.execute("COMMIT")
            self._ids.clear()

    def delivered(self) -> list[Delivered]:
        """The last batch taken of every sender, the one heard last at the end."""
        with self._use() as connection:
            query = "SELECT sender, epoch, seq FROM (SELECT * FROM senders ORDER BY at DESC LIMIT ?) ORDER BY at"
            return [Delivered(*row) for row in connection.execute(query, (MAX_SENDERS,))]

    def read(
        self, name: str, agent: str, labels: Mapping[str, str], span: Span
    ) -> tuple[list[tuple[SeriesKey, MetricKind, list[Bucket]]], int]:
        """The series of a metric with their buckets in `span`, and how many more there may be than one answer holds.

        One that ended before is noted as heard of for TOUCH_S more, and left out.
        """
        with self._use() as connection:
            known = self._series(connection, name, agent, span)
            found = deque(row for row in known if labels.items() <= row[3].items())
            query = _READ.format(table=f"every_{span.level.step_s}")
            first = span.start - span.start % span.level.step_s
            answer: list[tuple[SeriesKey, MetricKind, list[Bucket]]] = []
            while found and len(answer) < MAX_SERIES:
                series, owner, kind, told = found.popleft()
                rows = connection.execute(query, (first, span.level.step_s, span.end, series))
                if buckets := [Bucket(*row) for row in rows]:
                    answer.append((SeriesKey(name, owner, tuple(sorted(told.items()))), kind, buckets))
            return answer, len(found)

    def close(self) -> None:
        """Closes the file; a second call does nothing."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    def _series(
        self, connection: sqlite3.Connection, name: str, agent: str, span: Span
    ) -> Iterator[tuple[int, str, MetricKind, dict[str, str]]]:
        query = "SELECT id, agent, kind, labels FROM series WHERE name = ? AND (? = '' OR agent = ?) AND last_at >= ?"
        for series, owner, kind, labels in connection.execute(query, (name, agent, agent, span.start)):
            yield series, owner, kind, msgspec.json.decode(labels, type=dict[str, str])

    def _id(self, connection: sqlite3.Connection, one: Closed, now: float) -> int:
        key, known = one.key, self._ids.get(one.key)
        if known is not None and now <= known[1]:
            return known[0]
        until = int(now) + TOUCH_S
        (found,) = connection.execute(
            "INSERT INTO series (name, agent, labels, kind, last_at) VALUES (?, ?, ?, ?, ?) "
            "ON CONFLICT DO UPDATE SET last_at = excluded.last_at RETURNING id",
            (key.name, key.agent, msgspec.json.encode(dict(key.labels)).decode(), one.kind, until),
        ).fetchone()
        if len(self._ids) >= IDS_KEPT:
            self._ids.clear()
        self._ids[key] = int(found), until
        return int(found)

    @contextmanager
    def _use(self) -> Iterator[sqlite3.Connection]:
        try:
            if self._connection is None:
                self._connection = self._opened()
            yield self._connection
        except (sqlite3.Error, OSError) as error:
            self._ids.clear()
            self.close()
            raise StorageUnavailable(
                f"{self._path}: the history of metrics cannot be kept: {error}; free space, or move the file aside"
            ) from error

    def _opened(self) -> sqlite3.Connection:
        self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not self._path.exists():
            os.close(os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
        connection = sqlite3.connect(self._path, timeout=1.0, isolation_level=None, check_same_thread=False)
        try:
            self._set_up(connection)
        except BaseException:
            connection.close()
            raise
        return connection

    def _set_up(self, connection: sqlite3.Connection) -> None:
        connection.execute("PRAGMA locking_mode = EXCLUSIVE")
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = NORMAL")
        connection.execute("PRAGMA journal_size_limit = 16777216")
        (schema,) = connection.execute("PRAGMA user_version").fetchone()
        if schema > SCHEMA:
            raise sqlite3.DatabaseError(f"it has schema {schema} and this Tandem knows up to {SCHEMA}")
        if schema == SCHEMA:
            return
        connection.execute("BEGIN IMMEDIATE")
        connection.execute(
            "CREATE TABLE series (id INTEGER PRIMARY KEY, name TEXT NOT NULL, agent TEXT NOT NULL, labels TEXT NOT NULL, "
            "kind TEXT NOT NULL, last_at INTEGER NOT NULL, UNIQUE (name, agent, labels))"
        )
        connection.execute(
            "CREATE TABLE senders (sender TEXT, epoch INTEGER, seq INTEGER, at INTEGER, PRIMARY KEY (sender, epoch)) "
            "WITHOUT ROWID"
        )
        for level in LEVELS:
            connection.execute(
                f"CREATE TABLE every_{level.step_s} (start INTEGER, series INTEGER, count INTEGER, total REAL, "
                "least REAL, most REAL, last REAL, PRIMARY KEY (start, series)) WITHOUT ROWID"
            )
        connection.execute(f"PRAGMA user_version = {SCHEMA}")
        connection.execute("COMMIT")


def _row(bucket: Bucket, series: int, step_s: int) -> tuple[int, int, int, float, float, float, float]:
    start = bucket.start - bucket.start % step_s
    return start, series, bucket.count, bucket.total, bucket.least, bucket.most, bucket.last
