"""NVIDIA's cuda-checkpoint: moves all that a process holds on its cards to host RAM, and back, without asking the process.

Read from the README of NVIDIA/cuda-checkpoint. From driver 570 on the tool has steps (`--action lock`, `checkpoint`,
`restore`, `unlock`) and tells a process's state; before that it only toggles, and which way is not asked but remembered. It acts
on one process, not on its children; it refuses UVM and IPC memory, so servers that span cards with NCCL are out of reach; a
failure in the middle may leave the process beyond help. A checkpointed process vanishes from NVML, its CUDA calls block.

This file neither decides that a process is to be checkpointed nor believes that memory came back: the card says that. A restore
takes VRAM back without asking anybody. Its caller leases those bytes first, and has the host's RAM accounted for before a
checkpoint. Nothing here raises for what the tool does: every outcome is a value.
"""

from __future__ import annotations

import asyncio
import re
import shutil
from contextlib import suppress
from typing import Final, Literal

import msgspec

TOOL: Final = "cuda-checkpoint"

State = Literal["running", "locked", "checkpointed", "failed", "unknown"]
"""A process's CUDA state as the tool prints it; `unknown` where it does not say, or says something else."""

STATES: Final[dict[str, State]] = {
    "running": "running",
    "locked": "locked",
    "checkpointed": "checkpointed",
    "failed": "failed",
}
ASK_S: Final = 5.0
"""Bound on a question, and on putting back what was begun, in seconds."""
MAX_OUTPUT: Final = 65_536
EXCERPT_CHARS: Final = 300
_VERSION: Final = re.compile(r"[Vv]ersion\s+(\d+(?:\.\d+)*)")


class Outcome(msgspec.Struct, frozen=True):
    """Whether the tool says that it did it, the state it left the process in as it tells that, and its words."""

    ok: bool
    state: State
    text: str


class CudaCheckpoint(msgspec.Struct, frozen=True):
    """The tool at `path`; without `steps` it only toggles. Every call ends within its bound, and the tool with it."""

    path: str
    version: str
    steps: bool

    async def state(self, pid: int, within_s: float = ASK_S) -> State:
        """The process's CUDA state now; `unknown` from a tool that only toggles, and for a process without CUDA."""
        if not self.steps:
            return "unknown"
        done = await _run(within_s, self.path, "--get-state", "--pid", str(pid))
        return STATES.get(done.text.strip().lower(), "unknown") if done.code == 0 else "unknown"

    async def checkpoint(self, pid: int, within_s: float) -> Outcome:
        """Off the card, into host RAM. Where that fails the process is unlocked again, within ASK_S more."""
        if not self.steps:
            return await self._toggle(pid, within_s, "checkpointed")
        half_ms = str(max(1, int(within_s * 500)))
        until = _now() + within_s
        outcome = await self._step("lock", pid, until, "--timeout", half_ms)
        if outcome.ok:
            outcome = await self._step("checkpoint", pid, until)
        return outcome if outcome.ok else await self._undone(pid, outcome)

    async def restore(self, pid: int, within_s: float) -> Outcome:
        """Back onto its cards, whose room its caller has leased; `state` says what a failure has left of it."""
        if not self.steps:
            return await self._toggle(pid, within_s, "running")
        until = _now() + within_s
        outcome = await self._step("restore", pid, until)
        if outcome.ok:
            outcome = await self._step("unlock", pid, until)
        return Outcome(outcome.ok, await self.state(pid), outcome.text)

    async def _toggle(self, pid: int, within_s: float, into: State) -> Outcome:
        done = await _run(within_s, self.path, "--toggle", "--pid", str(pid))
        return Outcome(done.code == 0, into if done.code == 0 else "unknown", done.line("toggle"))

    async def _step(self, action: str, pid: int, until: float, *more: str) -> Outcome:
        done = await _run(until - _now(), self.path, "--action", action, "--pid", str(pid), *more)
        return Outcome(done.code == 0, "checkpointed" if action == "checkpoint" else "unknown", done.line(action))

    async def _undone(self, pid: int, failed: Outcome) -> Outcome:
        """A process that is left locked answers nobody: it is unlocked; a checkpoint that did come about is left as it is."""
        state = await self.state(pid)
        if state == "locked":
            unlocked = await self._step("unlock", pid, _now() + ASK_S)
            return Outcome(ok=False, state=await self.state(pid), text=f"{failed.text}; {unlocked.text}")
        return Outcome(state == "checkpointed", state, failed.text)


class _Done(msgspec.Struct, frozen=True):
    code: int | None
    text: str

    def line(self, action: str) -> str:
        if self.code is None:
            return f"{action}: {self.text}"
        told = " ".join(self.text.split())[:EXCERPT_CHARS]
        return f"{action} ended with {self.code}" + (f": {told}" if told else "")


async def find(within_s: float = ASK_S) -> CudaCheckpoint | None:
    """The tool on PATH, with the version and the means that its help tells; None where there is none that answers."""
    path = shutil.which(TOOL)
    if path is None:
        return None
    done = await _run(within_s, path, "--help")
    version = _VERSION.search(done.text)
    if version is None:
        return None
    return CudaCheckpoint(path, version[1], "--action" in done.text and "--get-state" in done.text)


async def _run(within_s: float, *command: str) -> _Done:
    """Exit code and output; no code where it could not be started or had to be ended."""
    try:
        process = await asyncio.create_subprocess_exec(
            *command,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
    except OSError as error:
        return _Done(None, f"{command[0]} could not be started: {error.strerror}")
    try:
        async with asyncio.timeout(max(0.0, within_s)):
            output, _ = await process.communicate()
    except TimeoutError:
        return _Done(None, "not done in time")
    finally:
        if process.returncode is None:
            with suppress(ProcessLookupError):
                process.kill()
            await process.wait()
    return _Done(process.returncode, output.decode(errors="replace")[:MAX_OUTPUT])


def _now() -> float:
    return asyncio.get_running_loop().time()
