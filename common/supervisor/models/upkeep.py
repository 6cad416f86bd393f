"""What is done for managed models now and then: sizes are learned, the idle put away, files and older engines looked at."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from common.errors import Unavailable
from common.service.shell import Shell
from common.supervisor.leasing.files import HostFiles
from common.supervisor.leasing.own_line import OwnLine
from common.supervisor.models.adopted import Adopted
from common.supervisor.models.managed import Managed
from common.supervisor.models.metrics import ModelFigures
from common.supervisor.models.roster import Roster
from common.supervisor.models.running import Engines
from common.vram.footprint import Footprints

FOLLOW_S: Final = 5.0
"""How often the models' files, and the engines that ran before, are looked at."""


class Upkeep:
    """For one host's models; `home` is the host's folder."""

    def __init__(
        self,
        shell: Shell,
        home: Path,
        roster: Roster,
        engines: Engines,
        line: OwnLine,
        footprints: Footprints,
        figures: ModelFigures,
    ) -> None:
        self._shell = shell
        self._home = home
        self._roster = roster
        self._engines = engines
        self._line = line
        self._footprints = footprints
        self._figures = figures
        self._files = HostFiles()
        self._adopted = Adopted(shell, roster, engines, line)
        self._now = shell.clock.monotonic

    def look(self) -> None:
        """Learns what engines hold, puts away who is idle for longer than it may, and takes the figures.

        What a failed commit undid is told of by nobody: leases and shares that are gone so are noticed here.
        """
        if not len(self._roster):
            return
        engines, now = self._engines, self._now()
        leases = {lease.lease_id: lease for lease in self._line.leases()}
        for managed in self._roster:
            for share_id in managed.users - leases.keys():
                self._roster.unused(share_id, now)
            lease = leases.get(managed.held.lease_id) if managed.held is not None else None
            if lease is None:
                self._engines.lost(managed)
            if lease is None or managed.life.state != "ready":
                continue
            if lease.verified and managed.model.vram:
                warm_s = now - engines.rooms[managed.model.name].loaded_at
                self._footprints.looked(managed.key, lease.measured_bytes, warm_s)
            idle = managed.model.idle
            if idle.after_s is not None and not managed.users and now - managed.idle_since >= idle.after_s:
                why = f"idle for {now - managed.idle_since:.0f} s"
                engines.put_away(managed, why, to_stop=idle.then == "stop")
        self._figures.models = tuple(
            managed.shown(self._shell.settings.host, self._footprints, now) for managed in self._roster
        )
        self._figures.waiting = self._roster.waiting

    async def follow(self) -> None:
        """Looks at files and engines until it is cancelled."""
        while True:
            try:
                await self._adopted.look()
                await self.look_at_files()
            except Exception:
                self._shell.log.exception("looking at models' files and engines failed")
            await asyncio.sleep(FOLLOW_S)

    async def look_for(self, managed: Managed) -> None:
        """Looks whether what the model lacked is there by now: its files, and an engine that is run by others."""
        if managed.missing:
            await self.look_at_files()
        if managed.model.adopted and managed.held is None:
            await self._adopted.look_for(managed)

    async def look_at_files(self) -> None:
        """Takes down which of the models' files are not there; a folder that does not answer keeps no other model waiting."""
        home = str(self._home)
        wanted = {m.model.name: [each.replace("{home}", home) for each in m.model.files] for m in self._roster}
        lacking: dict[str, Sequence[str]]
        try:
            absent = set(await self._files.lacking([each for files in wanted.values() for each in files]))
            lacking = {name: [each for each in files if each in absent] for name, files in wanted.items()}
        except Unavailable:
            each_lacks = await asyncio.gather(*(self._lacking(files) for files in wanted.values()))
            lacking = dict(zip(wanted, each_lacks, strict=True))
        for managed in self._roster:
            self._roster.lacks(managed.model.name, lacking.get(managed.model.name, ()))

    async def _lacking(self, files: Sequence[str]) -> Sequence[str]:
        """Those that are not there; where their folder does not answer, that."""
        try:
            return await self._files.lacking(files)
        except Unavailable as error:
            return [error.message]
