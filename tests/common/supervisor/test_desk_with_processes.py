"""The desk's decisions performed on real processes, by the smallest shell that keeps the desk's contract."""

from __future__ import annotations

import asyncio
import os
import random
import signal
from collections import deque
from pathlib import Path

import pytest

from common.config.schema import Agent, HealthProbe, Ports, Restart, Startup, Stop
from common.config.units import Duration
from common.supervisor.desk import Desk
from common.supervisor.home import HostHome
from common.supervisor.instructions import (
    Asked,
    Event,
    Finished,
    Instruction,
    Kill,
    Launch,
    OperationEnded,
    ShutdownAsked,
    Terminate,
    Tick,
)
from common.supervisor.processes import Processes
from common.supervisor.watchdog import Process
from common.telemetry.system_clock import SystemClock
from tests.common.supervisor.lives import gone, until

pytestmark = pytest.mark.usefixtures("wrappers")


class Shell:
    """One loop around a desk and its host's processes."""

    def __init__(self, folder: Path, agents: list[Agent]) -> None:
        self.clock = SystemClock()
        startup = Startup(version=1, host="h", supervisor=Ports(), agents=agents)
        self.home = HostHome(folder, "h")
        self.home.claim(self.clock)
        self.desk = Desk(startup, random.Random(1), self.clock.monotonic())
        self.processes = Processes(
            startup, self.home, f"boot-{os.getpid()}", self.clock, self.feed, {"PATH": os.environ["PATH"]}
        )
        self.ended: list[OperationEnded] = []
        self.finished = False
        self.events: deque[Event] = deque()
        self.timer: asyncio.TimerHandle | None = None

    async def begin(self) -> None:
        await self.processes.open()
        self.perform(self.desk.begin(self.clock.monotonic()))
        self.work_off()

    def feed(self, event: Event) -> None:
        """Events wait their turn: each instruction is performed before the next event is looked at."""
        self.events.append(event)
        asyncio.get_running_loop().call_soon(self.work_off)

    def work_off(self) -> None:
        while self.events:
            self.perform(self.desk.handle(self.events.popleft()))
        if self.timer:
            self.timer.cancel()
        if (due := self.desk.next_at()) is not None:
            pause_s = max(due - self.clock.monotonic(), 0)
            self.timer = asyncio.get_running_loop().call_later(pause_s, lambda: self.feed(Tick(self.clock.monotonic())))

    def perform(self, instructions: list[Instruction]) -> None:
        for instruction in instructions:
            match instruction:
                case Launch(name, life):
                    self.feed(self.processes.launch(name, life))
                case Terminate(name):
                    self.processes.terminate(name)
                case Kill(name):
                    self.processes.kill(name)
                case OperationEnded():
                    self.ended.append(instruction)
                case Finished():
                    self.finished = True

    def process(self, name: str) -> Process | None:
        launched = self.desk.standing(name, 0.0).launched
        return Process(launched.pid, launched.start_time) if launched else None

    def ask(self, name: str, doing: str) -> None:
        self.feed(Asked(name, doing, f"op-{doing}", self.clock.monotonic()))  # type: ignore[arg-type]

    async def close(self) -> None:
        self.feed(ShutdownAsked(self.clock.monotonic()))
        await until(lambda: self.finished)
        await self.processes.close()
        self.home.release()
        if self.timer:
            self.timer.cancel()


def agent(name: str, script: str, *depends_on: str, attempts: int = 3) -> Agent:
    return Agent(
        name=name,
        command=["sh", "-c", script],
        depends_on=list(depends_on),
        health=HealthProbe(how="none"),
        stop=Stop(term_s=Duration(0.2)),
        restart=Restart(delay_s=Duration(0.01), attempts=attempts),
    )


async def test_a_host_lives_from_start_through_crashes_and_operations_to_its_end(tmp_path: Path) -> None:
    shell = Shell(
        tmp_path,
        [
            agent("top", "exec sleep 60", "base"),
            agent("base", "exec sleep 60"),
            agent("deaf", "trap '' TERM; while :; do sleep 0.05; done"),
            agent("broken", "echo cannot >&2; exit 3", attempts=2),
            agent("missing", "true"),
        ],
    )
    await shell.begin()
    base, top = shell.process("base"), shell.process("top")
    assert base is not None
    assert top is not None
    await until(lambda: shell.desk.standing("broken", 0.0).phase == "crash-looping")
    broken = shell.desk.standing("broken", 0.0)
    assert (broken.restarts, broken.stderr_tail) == (2, ("cannot",))
    assert broken.last_exit == "exit 3; ended 3 times within 60 s"
    assert shell.desk.standing("missing", 0.0).last_exit == "exit 0"

    os.kill(base.pid, signal.SIGKILL)
    await until(lambda: shell.process("base") not in (None, base))
    assert shell.process("top") == top, "the death of a dependency restarts nobody"

    shell.ask("top", "restart")
    await until(lambda: shell.ended)
    assert shell.ended == [OperationEnded("op-restart", "top", succeeded=True)]
    assert shell.process("top") not in (None, top)

    shell.ask("deaf", "stop")
    await until(lambda: len(shell.ended) == 2)
    assert shell.desk.standing("deaf", 0.0).last_exit == "killed by signal 9"

    left = [shell.process("base"), shell.process("top")]
    await shell.close()
    assert gone(*(process for process in left if process))
    assert {standing.phase for standing in shell.desk.standings(0.0)} == {"stopped", "crash-looping"}
