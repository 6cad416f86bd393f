"""The stepped clock: the wall clock steps in processes that stand under it, the monotonic one goes on."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from tests.lab.clock import SteppedClock

PROGRAM = """
import datetime, sys, time
for _ in sys.stdin:
    print(time.time(), time.monotonic(), datetime.datetime.now().timestamp(), flush=True)
"""


def test_a_step_is_seen_at_once_by_the_wall_clock_alone(tmp_path: Path, needs: Callable[[str], str]) -> None:
    clock = SteppedClock(tmp_path, needs("gcc"))
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM],
        env=os.environ | clock.environ,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as program:

        def asked() -> tuple[float, float, float]:
            assert program.stdin is not None
            assert program.stdout is not None
            program.stdin.write("\n")
            program.stdin.flush()
            wall, monotonic, date = (float(word) for word in program.stdout.readline().split())
            return wall - time.time(), monotonic - time.monotonic(), date - time.time()

        assert max(map(abs, asked())) < 60
        for step in (3_600.0, -86_400.0):
            clock.step(step)
            wall, monotonic, date = asked()
            assert abs(wall - step) < 60
            assert abs(monotonic) < 60
            assert abs(date - step) < 60
        assert program.stdin is not None
        program.stdin.close()
