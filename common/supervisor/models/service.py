"""The managed models of one host, served: who asks for one gets a share of its engine's lease, and waits where that takes a load.

It asks no other host. What is decided stands in roster.py, what is done to engines in running.py, who is lent what in lending.py;
this shell turns calls into the one and has the others follow, one turn of the loop at a time.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final, NamedTuple

from common.api import models as api
from common.api.leases import Lease
from common.api.models import ModelReady, UseModel
from common.api.words import Cursor, Empty
from common.config.models import Model
from common.errors import NotFound, Unavailable
from common.service.call import Call
from common.service.shell import Shell
from common.supervisor.instructions import Exited
from common.supervisor.leasing.own_line import OwnLine
from common.supervisor.models.asking import Asking
from common.supervisor.models.cards_seen import residency
from common.supervisor.models.engine_process import EngineProcesses
from common.supervisor.models.instructions import Abandon, Begin, Changed, Refuse, Serve
from common.supervisor.models.leasing_engines import IDENTITY
from common.supervisor.models.lending import Lending
from common.supervisor.models.making_way import MakingWay
from common.supervisor.models.managed import Managed, Serving
from common.supervisor.models.news import News
from common.supervisor.models.preloading import Preloading
from common.supervisor.models.roster import Roster
from common.supervisor.models.running import Engines
from common.supervisor.models.stopping import Stopping
from common.supervisor.models.unloading import ModelUnloader
from common.supervisor.models.upkeep import Upkeep
from common.supervisor.processes import Processes
from common.vram.footprint import Footprints
from common.vram.lease_decision import EvictionOrder

TICK_S: Final = 0.25
LOOK_S: Final = 1.0
"""How often what engines hold is learned, and idle ones are looked for."""

ReadModels = Callable[[], Awaitable[Sequence[Model]]]


class _Rooms(NamedTuple):
    """What there is once the host's leases are."""

    line: OwnLine
    engines: Engines
    lending: Lending
    making_way: MakingWay
    stopping: Stopping
    asking: Asking
    upkeep: Upkeep


class ManagedModels:
    """One host's; `home` is TANDEM_HOME, `read` reads the startup file's models anew. `neighbours` as for leases."""

    def __init__(
        self,
        shell: Shell,
        host: str,
        models: Sequence[Model],
        home: Path,
        read: ReadModels,
        neighbours: Collection[str] = (),
    ) -> None:
        self._shell = shell
        self._host = host
        self._home = home
        self._read = read
        self._neighbours = neighbours
        self._now = shell.clock.monotonic
        self._footprints = Footprints.restored(host, shell.store)
        self._roster = Roster(host, models, self._footprints, self._now())
        self._preloading = Preloading(shell, self._roster)
        self._news = News(shell, host, self._footprints)
        self._rooms: _Rooms | None = None
        self._turning = False
        self._closed = False

    @property
    def footprints(self) -> Footprints:
        """What is known of models on this host, for whoever looks at its other leases to learn and to store with these."""
        return self._footprints

    def bring_back(self, lease: Lease) -> None:
        """There is room again for a lease that made way for a program without one: an engine's model is loaded anew or woken."""
        if lease.identity == IDENTITY.format(self._host) and self._rooms is not None and not self._closed:
            with suppress(NotFound):
                self._preloading.preload(self._roster.find(lease.model))
                self._soon()

    def add_routes(self) -> None:
        """Serves the models' verbs, and their metrics."""
        shell = self._shell
        shell.handle(api.USE_MODEL, self._use)
        shell.handle(api.LIST_MODELS, self._list)
        shell.handle(api.STOP_MODEL, self._stop)
        shell.handle(api.RELOAD_MODELS, self._reload)
        shell.handle(api.ASK_MODEL, self._ask)
        shell.handle(api.PACE_MODEL, self._pace)
        self._news.figures.show(shell.metrics)

    def unloader(self, order: EvictionOrder) -> ModelUnloader | None:
        """Whoever knows how the owner of these leases gives its memory back, where it is an engine."""
        return self._rooms.engines.unloader(order) if self._rooms is not None else None

    def log_name(self, name: str) -> str | None:
        """The name of a model's log; None where there is no such model."""
        try:
            return self._roster.find(name).model.label
        except NotFound:
            return next((each.model.label for each in self._roster if each.model.label == name), None)

    async def open(self, line: OwnLine, processes: Processes, environ: Mapping[str, str]) -> None:
        """From now on models can be used; those to be preloaded are loaded where there is room."""
        shell, roster, footprints = self._shell, self._roster, self._footprints
        lending = Lending(shell, self._host, self._neighbours, roster, footprints, line, self._turn, self._soon)
        launched = EngineProcesses(processes, self._host, self._home, environ)
        engines = Engines(shell, self._host, roster, footprints, line, launched, self._soon, lending.refuse)
        making_way = MakingWay(roster, engines, line)
        stopping = Stopping(shell.clock, roster, engines, line, lending.refuse)
        asking = Asking(line.find, self._serving_under)
        upkeep = Upkeep(shell, self._home / self._host, roster, engines, line, footprints, self._news.figures)
        self._rooms = _Rooms(line, engines, lending, making_way, stopping, asking, upkeep)
        line.listen(engines.heard)
        engines.resume()
        await upkeep.look_at_files()
        for managed in roster:
            if managed.model.preload:
                self._preloading.preload(managed)
        self._soon()
        shell.every(TICK_S, self._tick)
        shell.every(LOOK_S, upkeep.look)
        shell.spawn(upkeep.follow(), "following models' files and engines")

    def exited(self, event: Exited) -> bool:
        """Whether the process that ended was an engine's."""
        return self._rooms is not None and self._rooms.engines.exited(event)

    async def close(self) -> None:
        """Sends the waiting away and ends the engines that were started here."""
        self._closed = True
        if self._rooms is not None:
            self._rooms.lending.close(self._closing())
            await self._rooms.engines.close()
            await self._rooms.asking.close()

    async def _use(self, asked: UseModel, call: Call) -> ModelReady:
        rooms = self._opened()
        self._is_here(asked.host)
        return await rooms.lending.use(asked, call, rooms.upkeep.look_for)

    def _is_here(self, host: str) -> None:
        if host not in ("", self._host):
            raise NotFound(self._elsewhere(host))

    def _elsewhere(self, host: str) -> str:
        return f"this is {self._host}'s supervisor; ask {host}'s own, or ResourceManager"

    def _list(self, asked: api.ListModels, _call: Call) -> api.Models:
        if asked.host in ("", self._host):
            return self._shown()
        return api.Models(models=[], as_of=self._cursor(), missing={asked.host: self._elsewhere(asked.host)})

    def _shown(self) -> api.Models:
        now = self._now()
        managed = [*self._roster, *(Managed(model, now) for model in self._roster.disabled)]
        found = [each.shown(self._host, self._footprints, now) for each in managed]
        return api.Models(models=found, as_of=self._cursor())

    def _cursor(self) -> Cursor:
        return self._shell.publisher.cursor(api.MODEL_CHANGED.name)

    async def _stop(self, asked: api.StopModel, _call: Call) -> api.ModelStopped:
        self._is_here(asked.host)
        rooms, managed = self._opened(), self._roster.find(asked.model)
        stopped = await rooms.stopping.stop(managed)
        self._soon()
        return stopped

    async def _reload(self, _asked: api.ReloadModels, _call: Call) -> api.Models:
        rooms = self._opened()
        models = await self._read()
        self._turn()
        to_preload = self._roster.reload(models, self._now())
        await rooms.upkeep.look_at_files()
        for name in to_preload:
            self._preloading.preload(self._roster.find(name))
        self._soon()
        return self._shown()

    async def _ask(self, asked: api.AskModel, call: Call) -> api.ModelBytes:
        return await self._opened().asking.ask(asked, call)

    def _pace(self, told: api.PaceModel, _call: Call) -> Empty:
        self._opened().asking.pace(told)
        return Empty()

    def _serving_under(self, lease_id: str) -> Serving | None:
        managed = self._roster.of_lease(lease_id)
        return managed.serving if managed is not None and managed.life.state in ("ready", "expiring") else None

    def _opened(self) -> _Rooms:
        if self._rooms is None:
            raise Unavailable(f"{self._host}'s supervisor is starting", retry_after_ms=200)
        if self._closed:
            raise self._closing()
        return self._rooms

    def _closing(self) -> Unavailable:
        return Unavailable(f"{self._host}'s supervisor is shutting down", retry_after_ms=500)

    def _soon(self) -> None:
        """Looks at the roster once in the next turn, however many reasons this one has."""
        if not self._turning:
            self._turning = True
            self._shell.loop.call_soon(self._turn)

    def _turn(self) -> None:
        self._turning = False
        rooms = self._rooms
        if rooms is None or self._closed:
            return
        now, line = self._now(), rooms.line
        leases = line.leases() if self._roster.waiting else []
        seen = residency(line.candidates(), leases, self._loading(now), line.demand, line.horizon)
        for instruction in self._roster.step(seen, now):
            match instruction:
                case Begin():
                    rooms.engines.begin(instruction)
                case Abandon(name):
                    rooms.engines.abandon(name)
                case Serve(asked):
                    rooms.lending.serve(asked)
                case Refuse():
                    rooms.lending.refuse([instruction])
                case Changed(name):
                    self._news.changed(self._roster.find(name), instruction)
        rooms.making_way.look(now)
        rooms.lending.tell(now)

    def _loading(self, now: float) -> dict[str, float]:
        """The cards whose loader is taken, with the time at which that should be over."""
        found: dict[str, float] = {}
        for managed in self._roster:
            begun = managed.begun
            if begun is not None:
                cards = managed.held.card_uuids if managed.held is not None else (begun.card_uuid,)
                found |= dict.fromkeys(cards, begun.until or now + 1.0)
        return found

    def _tick(self) -> None:
        if self._roster.waiting or any(each.life.state == "queued" for each in self._roster):
            self._turn()
