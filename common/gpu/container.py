"""The container that a command runs, while it runs: told which card it has, followed to its cgroup, and never left behind.

The command is only the engine's client; what holds the card descends from a daemon. Its cgroup is told to the card's supervisor,
so that what it holds is seen to be the lease's. Where the client ends and the container does not, the engine is told to end it.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import shutil
import tempfile
from asyncio.subprocess import DEVNULL
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Final

from common.gpu import cgroups, process_identity
from common.gpu.container_words import ContainerRun

CIDFILE: Final = "cid"
FIRST_LOOK_S: Final = 0.1
LAST_LOOK_S: Final = 2.0
UNSEEN_S: Final = 30.0
"""A container that runs and has no process here after this long is on another machine, or hidden from us."""
STOP_S: Final = 5.0
"""From the engine's TERM to its KILL."""
END_S: Final = 15.0
"""How long the engine has for one command."""
POLL_S: Final = 0.05
FOLDER: Final = re.compile(r"tandem-run-(\d{1,10})-(\d{1,19})-(\d{1,19})-\w+")
"""Where a run keeps its container's id: its pid, its start time, its PID namespace, and something of chance."""


class Container:
    """One container; `warn` tells the user. Its id is written into `folder`, its own, or else into a temporary one.

    Where the command names a file for it, that is relative to `cwd`. An id that is there already is another container's: no
    engine starts one over it.
    """

    def __init__(self, run: ContainerRun, warn: Callable[[str], None], folder: str = "", cwd: str = "") -> None:
        self._run = run
        self._warn = warn
        self._folder = folder or ("" if run.cidfile else _own_folder())
        self._cidfile = Path(cwd, run.cidfile or f"{self._folder}/{CIDFILE}").absolute()
        self._another = _read(self._cidfile)

    def words(self, uuids: Sequence[str], lease_id: str) -> list[str]:
        """The command with the lease's cards in it; what the user said of cards stands, and is told where it is another's."""
        if self._run.cards and not all(uuid in " ".join(self._run.cards) for uuid in uuids):
            self._warn(
                f"the container is shown {', '.join(self._run.cards)}, as the command says; leased is {', '.join(uuids)}"
            )
        return self._run.with_cards(uuids, lease_id, str(self._cidfile))

    @property
    def last_words(self) -> list[str]:
        """For whoever outlives us: the file with the container's id, and the command that ends it."""
        return [str(self._cidfile), *self._run.program, "kill"]

    async def follow(self, tell: Callable[[str], Awaitable[bool]]) -> None:
        """Wait until the container has a cgroup on this machine, and tell it until it is taken down."""
        pause_s, waited_s = FIRST_LOOK_S, 0.0
        while True:
            await asyncio.sleep(pause_s)
            cgroup = await asyncio.to_thread(self._cgroup)
            if cgroup and await tell(cgroup):
                return
            if not cgroup and self._id() and waited_s < UNSEEN_S <= waited_s + pause_s:
                self._warn(
                    "the container's processes are not seen on this machine: what it holds is not counted as the lease's"
                )
            waited_s += pause_s
            pause_s = min(LAST_LOOK_S, pause_s * 1.5)

    async def end(self) -> None:
        """Stop the container if it goes on; returns when no process of it is left, or the engine would not end it."""
        container_id = self._id()
        if not await _lives(container_id):
            return
        self._warn("the container goes on without its command; it is stopped")
        for words in (["stop", "-t", f"{STOP_S:.0f}"], ["kill"]):
            await _performed([*self._run.program, *words, container_id])
            if await _gone(container_id):
                return
        self._warn(f"the container {container_id[:12]} could not be stopped; its memory is nobody's lease from now on")

    def close(self) -> None:
        """Forget its own folder; a file that the command names is the user's."""
        if self._folder:
            shutil.rmtree(self._folder, ignore_errors=True)

    def _id(self) -> str:
        found = _read(self._cidfile)
        return "" if found == self._another else found

    def _cgroup(self) -> str:
        return cgroups.container_cgroup(self._id())


async def end_left(container_id: str, command: Sequence[str]) -> bool | None:
    """Ends the container that somebody who was killed left running; whether it has ended, None where it had before."""
    if not await _lives(container_id):
        return None
    await _performed([*command, container_id])
    return await _gone(container_id)


async def _lives(container_id: str) -> bool:
    return bool(await asyncio.to_thread(cgroups.members, container_id))


async def _gone(container_id: str) -> bool:
    """Whether no process of it is left within STOP_S."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(STOP_S):
            while await _lives(container_id):
                await asyncio.sleep(POLL_S)
            return True
    return False


async def _performed(command: Sequence[str]) -> None:
    """Has the engine do something, for END_S at most."""
    try:
        process = await asyncio.create_subprocess_exec(*command, stdin=DEVNULL, stdout=DEVNULL, stderr=DEVNULL)
    except OSError:
        return
    try:
        await asyncio.wait_for(process.wait(), END_S)
    except TimeoutError:
        process.kill()
        await process.wait()


def _own_folder() -> str:
    """A new folder of this run; those of runs that were killed, and whose containers have ended, leave with it."""
    me, space = process_identity.this_process(), _pid_namespace()
    for folder in Path(tempfile.gettempdir()).glob("tandem-run-*"):
        named = FOLDER.fullmatch(folder.name)
        if named is None or int(named[3]) != space or not _mine(folder):
            continue
        if process_identity.is_alive(int(named[1]), int(named[2])):
            continue
        if not cgroups.members(_read(folder / CIDFILE)):
            shutil.rmtree(folder, ignore_errors=True)
    return tempfile.mkdtemp(prefix=f"tandem-run-{me.pid}-{me.start_time}-{space}-")


def _pid_namespace() -> int:
    """In which namespace this process's pid means something; temporary folders are shared by several."""
    return os.stat("/proc/self/ns/pid").st_ino


def _mine(folder: Path) -> bool:
    """Whether a folder is this user's: in another's may lie whatever that one likes."""
    try:
        return folder.lstat().st_uid == os.geteuid()
    except OSError:
        return False


def _read(cidfile: Path) -> str:
    try:
        return cidfile.read_text(errors="replace").strip()
    except OSError:
        return ""
