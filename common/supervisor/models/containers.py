"""Engines whose command runs a container: shown the leased cards, known by the container's cgroup, and never left behind.

The command is only the container engine's client: what holds the card descends from a daemon, outlives a client that is killed,
and would be a stranger's. Of a supervisor that is killed a shell ends it, which notices by a pipe; what that could not end its
next life does. It starts no engine.
"""

from __future__ import annotations

import asyncio
import logging
import shutil
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Final, NamedTuple

import msgspec

from common.config.schema import Entry
from common.config.settings import MARK
from common.errors import Unavailable
from common.gpu.container import Container, end_left
from common.gpu.container_words import container_run

CLOSE_S: Final = 5.0
GUARD: Final = """trap "" HUP INT TERM
read -r _ && exit
[ -s "$0" ] && exec "$@" "$(cat "$0")"
"""
"""Waits for a line that dismisses it, or for the end of whoever would write it; then ends the container."""
OF: Final = "@"
"""Between an engine's name and its lease's id, in the name of a container's folder."""
END_FILE: Final = "end.json"
"""Beside the container's id, how it is ended: the file with its id, and the command that takes it."""


class LeftContainer(NamedTuple):
    """One of an earlier life: `command` and its id end it; `folder` remembers it."""

    name: str
    container_id: str
    command: list[str]
    folder: Path

    @property
    def by_hand(self) -> str:
        """What somebody may try who has to end it."""
        return " ".join([*self.command, self.container_id])


class EngineContainers:
    """One host's; each has a folder of its own in `folder`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._log = logging.getLogger("tandem.supervisor")

    def prepared(self, entry: Entry, lease_id: str, card_uuids: Sequence[str]) -> tuple[Entry, Container | None]:
        """The entry as it is to be started, and the container that it runs, if it runs one; Unavailable where that may not be."""
        found = container_run(entry.command)
        if found is None:
            return entry, None
        if found.detached:
            raise Unavailable(
                f"{entry.name}: a detached container would outlive its lease; leave -d out of its command"
            )
        folder = self._folder / f"{entry.name}{OF}{lease_id}"  # an earlier one's may be on its way out yet
        try:
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True, mode=0o700)
            container = Container(found, partial(self._log.warning, "%s: %s", entry.name), str(folder), entry.cwd)
            words = container.words(card_uuids, lease_id)
            Path(container.last_words[0]).unlink(missing_ok=True)  # with that of an earlier life no engine starts
            (folder / END_FILE).write_bytes(msgspec.json.encode(container.last_words))
        except OSError as error:
            raise Unavailable(f"{entry.name}: nothing can be written into {folder}: {error.strerror}") from error
        return msgspec.structs.replace(entry, command=words), container

    def guarded(self, container: Container, environ: Mapping[str, str]) -> ContainerGuard | None:
        """Whoever ends the container when this process is gone; None, and a warning, where nobody can be had."""
        try:
            return ContainerGuard(container.last_words, environ)
        except OSError as error:
            self._log.warning("a container would outlive this supervisor: %s", error)
            return None

    def left(self) -> list[LeftContainer]:
        """What an earlier life may have left running; folders of which no container came are forgotten here."""
        found = []
        for folder in _folders(self._folder):
            left = _left(folder)
            if left is None:
                shutil.rmtree(folder, ignore_errors=True)
            else:
                found.append(left)
        return found

    async def end(self, left: Iterable[LeftContainer]) -> None:
        """Ends those that run on; one that has ended is forgotten, any other is the next life's to end."""
        for each in left:
            ended = await end_left(each.container_id, each.command)
            if ended is not False:
                shutil.rmtree(each.folder, ignore_errors=True)
            if ended:
                self._log.warning("the container of %s had been left running, and was ended", each.name)
            elif ended is not None:
                self._log.warning(
                    "the container of %s was left running, and could not be ended: %s", each.name, each.by_hand
                )


class ContainerGuard:
    """The shell; in a session of its own, and without the mark by which this supervisor's watchdog knows what it has to end."""

    def __init__(self, last_words: Sequence[str], environ: Mapping[str, str]) -> None:
        self._process = subprocess.Popen(
            ["/bin/sh", "-c", GUARD, *last_words],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env={name: value for name, value in environ.items() if name != MARK},
            cwd="/",
            start_new_session=True,
            bufsize=0,
        )

    async def dismiss(self) -> None:
        """The container has ended: nobody is needed any more."""
        with suppress(subprocess.TimeoutExpired):
            await asyncio.to_thread(self._process.communicate, b"\n", CLOSE_S)


def _left(folder: Path) -> LeftContainer | None:
    try:
        cidfile, *command = msgspec.json.decode((folder / END_FILE).read_bytes(), type=list[str])
        return LeftContainer(folder.name.partition(OF)[0], Path(cidfile).read_text().strip(), command, folder)
    except (OSError, ValueError):
        return None  # it was killed before there was a container


def _folders(folder: Path) -> list[Path]:
    return sorted(each for each in folder.iterdir() if each.is_dir()) if folder.is_dir() else []
