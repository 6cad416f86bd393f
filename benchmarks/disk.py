"""What this disk allows: bare SQLite commits that outlive power loss, with nothing around them."""

from __future__ import annotations

import sqlite3
import tempfile
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Final

ROW: Final = bytes(300)
MEASURE_S: Final = 0.5


def rows_per_s(group: int) -> float:
    """Rows a second in commits of `group` rows, write-ahead log, synchronous=FULL."""
    times = _commits(group)
    return group * len(times) / sum(times)


def commit_ms() -> float:
    """The p50 of a commit of one row."""
    return median(_commits(1)) * 1e3


def _commits(group: int) -> list[float]:
    times: list[float] = []
    with tempfile.TemporaryDirectory(prefix="tandem-bench-") as folder:
        store = sqlite3.connect(Path(folder) / "floor.db", isolation_level=None)
        store.execute("PRAGMA journal_mode=WAL")
        store.execute("PRAGMA synchronous=FULL")
        store.execute("CREATE TABLE rows (key INTEGER PRIMARY KEY, row BLOB)")
        while sum(times) < MEASURE_S:
            began = perf_counter()
            store.execute("BEGIN")
            store.executemany("INSERT INTO rows (row) VALUES (?)", [(ROW,)] * group)
            store.execute("COMMIT")
            times.append(perf_counter() - began)
        store.close()
    return times
