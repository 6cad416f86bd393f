"""Engines that ran before Tandem knew them: seen at their addresses, and what they have loaded taken into account.

What an engine says of itself is a claim. It decides which of its models is looked upon as loaded; how many bytes that takes is
read from the cards. It starts, stops and signals nobody.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from contextlib import suppress

from common.engines.engine import Engine, LoadedModel, served_as
from common.engines.opening import open_engine
from common.errors import TandemError
from common.service.shell import Shell
from common.supervisor.leasing.own_line import OwnLine
from common.supervisor.models.listeners import absence, listener, port_of, unleased
from common.supervisor.models.managed import Managed
from common.supervisor.models.roster import Roster
from common.supervisor.models.running import Engines


class Adopted:
    """Looks at each address once for all models there."""

    def __init__(self, shell: Shell, roster: Roster, engines: Engines, line: OwnLine) -> None:
        self._log = shell.log
        self._roster = roster
        self._engines = engines
        self._line = line

    async def look(self) -> None:
        """One look at every engine; one that does not answer is left as it is."""
        by_url: defaultdict[str, list[Managed]] = defaultdict(list)
        for managed in self._roster:
            if managed.model.adopted:
                by_url[managed.model.url.rstrip("/")].append(managed)
        for models in by_url.values():
            first = models[0].model
            engine = open_engine(first.engine, first.url, health_path=first.health.path)
            try:
                await self._look_at(engine, models)
            except TandemError as error:
                self._log.debug("%s at %s: %s", first.engine, first.url, error.message)
            finally:
                await engine.close()

    async def look_for(self, managed: Managed, *, seen: bool = False) -> None:
        """Takes down whether the model's engine is there, `seen` where it is known to be."""
        why = "" if seen else await asyncio.to_thread(absence, managed.model)
        self._roster.is_away(managed.model.name, why)

    async def _look_at(self, engine: Engine, models: list[Managed]) -> None:
        owner = await asyncio.to_thread(listener, port_of(engine.url))
        for managed in models:
            await self.look_for(managed, seen=owner is not None)
        if owner is None:
            return
        loaded = await engine.loaded()
        already = dict(unleased(owner, self._line.cards()))
        for managed in models:
            said = _among(managed.model.upstream_name, loaded)
            state = managed.life.state
            if said is not None and state in ("absent", "failed") and (already or not managed.model.vram):
                with suppress(TandemError):
                    await self._engines.find(managed, already, owner, said.name)
            elif said is None and state == "ready" and not managed.users and managed.held is not None:
                self._log.info("model %s is loaded no more at %s", managed.model.name, engine.url)
                with suppress(TandemError):
                    self._line.release(managed.held.lease_id)


def _among(name: str, loaded: list[LoadedModel]) -> LoadedModel | None:
    """The model among those that an engine says it has in memory."""
    awake = [each for each in loaded if each.state == "loaded"]
    found = served_as(name, [each.name for each in awake])
    return next((each for each in awake if each.name == found), None)
