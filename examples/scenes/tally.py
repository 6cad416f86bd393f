"""What every scene of the demo needs: a count of what was right and what was wrong, waits that end, and the `tandem` command."""

from __future__ import annotations

import asyncio
import base64
import os
import sys
import time
from asyncio.subprocess import PIPE
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from tandem import AsyncClient

EXAMPLES = Path(__file__).resolve().parents[1]
SAMPLES = EXAMPLES / "samples"
TANDEM = [sys.executable, "-m", "tandem"]


class Tally:
    """What was right and what was wrong, said as it comes."""

    def __init__(self) -> None:
        self.began = time.monotonic()
        self.wrong: list[str] = []
        self.right = 0

    def step(self, what: str) -> None:
        """Say what is done next."""
        print(f"[{time.monotonic() - self.began:5.1f} s] {what}", flush=True)

    def check(self, is_right: bool, what: str) -> None:
        """Count one answer."""
        print(f"          {'right' if is_right else 'WRONG'}  {what}", flush=True)
        if is_right:
            self.right += 1
        else:
            self.wrong.append(what)

    def show(self, text: str) -> None:
        """What a command printed."""
        for line in text.splitlines():
            print(f"          {line}", flush=True)


async def until(what: str, within_s: float, probe: Callable[[], Awaitable[Any]]) -> Any:
    """The first true answer of `probe`, or TimeoutError."""
    deadline = time.monotonic() + within_s
    while time.monotonic() < deadline:
        found = await probe()
        if found:
            return found
        await asyncio.sleep(0.1)
    raise TimeoutError(f"{what} did not come about within {within_s:.0f} s")


async def agents(client: AsyncClient) -> dict[str, dict[str, Any]]:
    """The registered agents that are alive, by name."""
    listed = await client.call("CoreOrchestrator", "list_agents")
    return {agent["agent_name"]: agent for agent in listed["agents"] if agent["liveness"] == "alive"}


async def tandem(*arguments: str, token: str = "") -> tuple[int, str]:
    """Run the `tandem` command: its exit code and what it said; with a `token` in the place of the operator's key."""
    environ = os.environ | ({"TANDEM_TOKEN": token} if token else {})
    command = await asyncio.create_subprocess_exec(*TANDEM, *arguments, env=environ, stdout=PIPE, stderr=PIPE)
    printed, complained = await command.communicate()
    return command.returncode or 0, (printed or complained).decode()


def base64_of(path: Path) -> str:
    """A file as JSON carries it."""
    return base64.b64encode(path.read_bytes()).decode()


def words_found(answer: dict[str, Any], truth: dict[str, Any]) -> int:
    """How many of the words on the page were read, ignoring case, spaces and hyphens."""
    read = "".join(answer.get("words", [])).lower().replace("-", "").replace(" ", "")
    return sum(word.lower().replace("-", "") in read for word in truth["words"])
