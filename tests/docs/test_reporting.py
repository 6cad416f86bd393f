"""The program of docs/agents.md that is no agent, with a bus that takes what it tells."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

from tests.common.reporting.stand_in import services, standing_in
from tests.docs.documents import ROOT


async def test_the_program_that_is_no_agent_tells_its_error_and_its_metric(tmp_path: Path) -> None:
    async with standing_in(tmp_path / "taken") as (bus, port):
        environment = os.environ | {"TANDEM_HOME": str(tmp_path), "TANDEM_SERVICES": services(port)}
        program = ROOT / "examples" / "reporting" / "row_importer.py"
        done = await asyncio.create_subprocess_exec(
            sys.executable,
            str(program),
            cwd=ROOT,
            env=environment | {"PYTHONPATH": str(ROOT)},
            stderr=asyncio.subprocess.PIPE,
        )
        _, told = await asyncio.wait_for(done.communicate(), 60)
        assert (done.returncode, b"row 'three' cannot be read" in told) == (0, True)
        (report,), (point,) = bus.taken.reports, bus.taken.points
    assert (report.agent, report.error_type) == ("row-importer", "ValueError")
    assert report.details["logged"] == "row 'three' cannot be read"
    assert (point.name, point.value, point.labels) == ("rows_seen", 3.0, {"table": "people"})
