"""An agent as a process: what goes wrong in it, however, reaches the bus once."""

from __future__ import annotations

import asyncio
import os
import socket
import sys
from pathlib import Path

from tests.common.reporting.stand_in import ROOT, services, standing_in
from tests.common.supervisor.host import ask

AGENT = """
import asyncio, threading
from tandem import Agent, verb

class Faulty(Agent):
    @verb(capability="work")
    async def work(self, how: str) -> str:
        if how == "task":
            self.task = asyncio.get_running_loop().create_task(self.fail())
            return "begun"
        if how == "forget":
            self.task = None
            return "forgotten"
        if how == "thread":
            threading.Thread(target=self.fail_in_thread).start()
        elif how == "log":
            self.log.error("the %s is warm", "card")
        elif how == "name":
            self.report_error("Overheated", "87 degrees", severity="warning", details={"card": 0})
        elif how == "metric":
            self.metric("queue_length", 7, {"model": "whisper"})
        else:
            raise LookupError(how)
        return "done"

    async def fail(self) -> None:
        raise OSError("in a task")

    def fail_in_thread(self) -> None:
        raise EOFError("in a thread")

Faulty("faulty").run()
"""


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        number: int = free.getsockname()[1]
    return number


async def test_what_goes_wrong_in_an_agent_is_told_once_however_it_went_wrong(tmp_path: Path) -> None:
    async with standing_in(tmp_path / "taken") as (bus, bus_port):
        port = free_port()
        environment = os.environ | {
            "TANDEM_HOME": str(tmp_path / "home"),
            "TANDEM_SERVICES": f"{services(bus_port)},CoreOrchestrator={free_port()}@127.0.0.1",
            "TANDEM_PORT": str(port),
            "PYTHONPATH": str(ROOT),
        }
        agent = await asyncio.create_subprocess_exec(
            sys.executable, "-c", AGENT, cwd=ROOT, env=environment, stderr=asyncio.subprocess.DEVNULL
        )
        try:
            answers = [
                await ask(port, "work", how=how)
                for how in ("verb", "task", "forget", "thread", "log", "name", "metric")
            ]
        finally:
            agent.terminate()
            await asyncio.wait_for(agent.wait(), 60)
        reports = {report.error_type: report for report in bus.taken.reports}
        points = bus.taken.points
    assert [answer["status"] for answer in answers] == ["error"] + ["success"] * 6
    told = sorted((report.error_type, report.message, report.severity) for report in reports.values())
    assert told == [
        ("EOFError", "in a thread", "error"),
        ("LookupError", "verb", "error"),
        ("OSError", "in a task", "error"),
        ("Overheated", "87 degrees", "warning"),
        ("tandem.agent.faulty", "the card is warm", "error"),
    ]
    assert len(bus.taken.reports) == 5
    assert {report.count for report in reports.values()} == {1}
    assert {report.agent for report in reports.values()} == {"faulty"}
    assert reports["LookupError"].details["verb"] == "work"
    assert reports["EOFError"].details["uncaught"]
    assert [(point.name, point.value, point.labels) for point in points] == [
        ("queue_length", 7.0, {"model": "whisper"})
    ]
