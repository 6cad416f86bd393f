from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from common.supervisor import vitals
from common.supervisor.vitals import ProcessUses, Use, host_vitals
from tests.common.supervisor.lives import wait_until

BUSY = "import os, sys; child = os.fork(); print(1, flush=True)\nwhile True: pass"


def test_the_host_is_told_as_the_kernel_has_it(tmp_path: Path) -> None:
    seen = host_vitals("h", tmp_path, 12.5)
    assert (seen.host, seen.cpu_pct, seen.cores) == ("h", 12.5, os.cpu_count())
    assert 0 < seen.memory_used_bytes < seen.memory_total_bytes
    assert 0 < seen.disk_free_bytes <= seen.disk_total_bytes
    assert seen.uptime_s > 0
    assert seen.processes >= 1


def test_a_process_is_charged_with_its_children(monkeypatch: pytest.MonkeyPatch) -> None:
    uses = ProcessUses()
    with subprocess.Popen(
        [sys.executable, "-I", "-S", "-c", BUSY], stdout=subprocess.PIPE, start_new_session=True
    ) as busy:
        assert busy.stdout is not None
        busy.stdout.readline()
        try:
            uses.sample({"busy": busy.pid}, time.monotonic())
            assert uses.of("busy").cpu_pct == 0.0, "there is nothing to compare with yet"

            def charged() -> bool:
                uses.sample({"busy": busy.pid}, time.monotonic())
                return uses.of("busy").cpu_pct > 0

            wait_until(charged)
            both = uses.of("busy").rss_bytes
            monkeypatch.setattr(vitals, "MAX_TREE", 1)
            uses.sample({"busy": busy.pid}, time.monotonic())
            assert 0 < uses.of("busy").rss_bytes < both
        finally:
            os.killpg(busy.pid, 9)
    uses.sample({"busy": busy.pid}, time.monotonic())
    assert uses.of("busy") == Use(), "one that is gone uses nothing"
    uses.sample({}, time.monotonic())
    assert uses.of("busy") == Use()
