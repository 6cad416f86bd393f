from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys

import pytest
import uvloop

from common.service import loop


def test_a_process_runs_on_uvloop_with_a_short_switch_interval() -> None:
    before = sys.getswitchinterval()

    async def main() -> type:
        return type(asyncio.get_running_loop())

    try:
        assert loop.run(main()) is uvloop.Loop
        assert sys.getswitchinterval() == pytest.approx(loop.SWITCH_INTERVAL_S)
    finally:
        sys.setswitchinterval(before)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stop_signal_means_stop(number: signal.Signals) -> None:
    before = sys.getswitchinterval()

    async def main() -> bool:
        stopped = asyncio.Event()
        loop.on_stop_signal(stopped.set)
        os.kill(os.getpid(), number)
        async with asyncio.timeout(60):
            return await stopped.wait()

    try:
        assert loop.run(main())
    finally:
        sys.setswitchinterval(before)


def test_a_process_may_open_as_many_files_as_its_hard_limit_allows() -> None:
    script = (
        "import resource as r; r.setrlimit(r.RLIMIT_NOFILE, (200, 3_000)); from common.service import loop; "
        "loop.allow_many_files(); print(r.getrlimit(r.RLIMIT_NOFILE), loop.FILES_AT_START)"
    )
    told = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120, check=True)
    assert told.stdout == "(3000, 3000) 200\n"


def test_a_ready_services_collector_looks_at_what_is_new_and_seldom() -> None:
    script = (
        "import gc; from common.service import loop; before = gc.get_freeze_count(); loop.calm_collector(); "
        "print(gc.get_threshold() == loop.COLLECT_AFTER, before, gc.get_freeze_count() > 1_000)"
    )
    told = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120, check=True)
    assert told.stdout == "True 0 True\n"
