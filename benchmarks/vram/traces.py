"""The traces in benchmarks/data/vram: requests, the sizes of models, the fabric, and what others found on them."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final

DATA: Final = Path(__file__).resolve().parents[1] / "data" / "vram"
TRACES: Final = ("azure23", "servegen")
SEEDS: Final = range(5)
NEAR_OPTIMAL: Final = "offline near-optimal (beam 1000)"


@dataclass(frozen=True, slots=True)
class Request:
    """One request: when it comes, what it needs, and how long it holds that."""

    at: float
    model: str
    hold_s: float


@dataclass(frozen=True, slots=True)
class CardSpec:
    """One card, how much it holds and how fast its host loads onto it."""

    host: str
    gib: float
    gib_per_s: float
    fixed_s: float

    def load_s(self, gib: float) -> float:
        """Seconds that a load of so many GiB takes."""
        return self.fixed_s + gib / self.gib_per_s


@cache
def requests(trace: str) -> tuple[Request, ...]:
    """The trace's requests in the order of their arrival."""
    rows = _rows(f"requests_{trace}")
    return tuple(Request(float(row["t_s"]), row["model"], float(row["hold_s"])) for row in rows)


@cache
def sizes(seed: int) -> dict[str, float]:
    """GiB of each model in that permutation of the catalogue."""
    return {row["model"]: float(row[f"gib_seed{seed}"]) for row in _rows("model_sizes")}


@cache
def fabric() -> tuple[CardSpec, ...]:
    """The two cards."""
    return tuple(
        CardSpec(row["host"], float(row["vram_gib"]), float(row["load_gib_per_s"]), float(row["load_fixed_s"]))
        for row in _rows("fabric")
    )


def reference(trace: str, policy: str, column: str) -> list[float]:
    """What the independent simulator gave for a rule, by seed."""
    rows = (row for row in _rows("reference_results") if (row["trace"], row["policy"]) == (trace, policy))
    return [float(row[column]) for row in sorted(rows, key=lambda row: row["seed"])]


def _rows(name: str) -> Iterator[dict[str, str]]:
    with (DATA / f"{name}.csv").open(newline="") as file:
        yield from csv.DictReader(file)
