"""Prompt caches that engines saved before they were stopped: which files they are, kept over restarts, and given out once.

They are for the next engine of the same model, of the same command and files: caches of other weights, or of another size of
context, would cost time or say something else. Stale ones, and those that were restored, leave with their files. It speaks
with no engine.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

import msgspec

from common.config.models import Model
from common.config.schema import Entry
from common.engines.engine import SavedSlot
from common.errors import StorageUnavailable
from common.service.shell import Shell
from common.store.protocol import Change
from common.store.records import Records

FOLDER: Final = "--slot-save-path"


class SavedSlots(msgspec.Struct, frozen=True, kw_only=True):
    """What one model's engine saved in `folder`; `command` is its entry's, `stamps` the size and time of each of its files."""

    model: str
    command: list[str]
    stamps: list[tuple[int, int]]
    folder: str
    slots: list[SavedSlot]


SAVED: Final = Records("engine_slots", SavedSlots)


class KeptSlots:
    """One host's; `home` is the host's folder."""

    def __init__(self, shell: Shell, home: str) -> None:
        self._shell = shell
        self._home = home
        self._kept: dict[str, SavedSlots] = {}

    def restore(self, models: Iterable[Model]) -> None:
        """Takes in what an earlier life left; what no model of now could use goes. CorruptRecord, StorageUnavailable."""
        self._kept = {saved.model: saved for _, saved in SAVED.load(self._shell.store)}
        commands = {model.name: model.command for model in models}
        for saved in list(self._kept.values()):
            if commands.get(saved.model) != saved.command:
                self._shell.spawn(self.forget(saved), f"forgetting what {saved.model} saved")

    async def keep(self, model: Model, entry: Entry, slots: Sequence[SavedSlot]) -> None:
        """These lie on disk now; `entry` is the engine's as it was started."""
        folder = folder_in(entry.command)
        if folder is None or not slots:
            return
        stamps = await asyncio.to_thread(self._stamps, model)
        saved = SavedSlots(
            model=model.name,
            command=model.command,
            stamps=stamps,
            folder=os.path.join(entry.cwd, folder),
            slots=list(slots),
        )
        self._kept[model.name] = saved
        self._write(SAVED.put(model.name, saved))

    async def for_engine(self, model: Model) -> SavedSlots | None:
        """What a new engine of the model may restore; to be forgotten then."""
        saved = self._kept.get(model.name)
        if saved is None:
            return None
        if saved.command == model.command and saved.stamps == await asyncio.to_thread(self._stamps, model):
            return saved
        await self.forget(saved)
        return None

    async def forget(self, saved: SavedSlots) -> None:
        """They were restored, or are stale: nothing of them is left."""
        if self._kept.get(saved.model) is saved:
            del self._kept[saved.model]
            self._write(SAVED.delete(saved.model))
        await asyncio.to_thread(_remove, saved)

    def _stamps(self, model: Model) -> list[tuple[int, int]]:
        """What tells the model's files from others under their names; zeros for one that cannot be seen."""
        return [_stamp(each.replace("{home}", self._home)) for each in model.files]

    def _write(self, change: Change) -> None:
        with suppress(StorageUnavailable):  # they only save time
            self._shell.journal.write([change])


def folder_in(command: Sequence[str]) -> str | None:
    """The folder for prompt caches that a command names."""
    for at, word in enumerate(command):
        if word == FOLDER:
            return command[at + 1] if at + 1 < len(command) else None
        if word.startswith(f"{FOLDER}="):
            return word.partition("=")[2]
    return None


def _stamp(path: str) -> tuple[int, int]:
    try:
        found = os.stat(path)
    except OSError:
        return 0, 0
    return found.st_size, found.st_mtime_ns


def _remove(saved: SavedSlots) -> None:
    for slot in saved.slots:
        with suppress(OSError):
            (Path(saved.folder) / slot.file).unlink()
