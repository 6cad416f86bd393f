"""The scenarios, one file each, in the order they run.

Each file declares its targets and has `run(rounds) -> Result`. A new one is a file and a line here.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Final, cast

from benchmarks.result import Result

ORDER: Final = (
    "sequential",
    "in_flight_64",
    "in_flight_1500",
    "curve",
    "flooding",
    "tokens",
    "tasks",
    "errors",
    "points",
    "probing",
    "watched",
    "fabric",
    "swapping",
    "vram_residency",
    "vram_queueing",
    "vram_placement",
    "vram_decisions",
)


def scenario(name: str) -> Callable[[int], Result]:
    """The `run` of the scenario of that name."""
    return cast("Callable[[int], Result]", importlib.import_module(f"benchmarks.scenarios.{name}").run)
