"""The managed models of one host, served: who asks for one gets a share of its engine's lease, and waits where that takes a load.

It asks no other host. What is decided stands in roster.py, what is done to engines in running.py; this shell turns calls into
the one and has the other follow, one turn of the loop at a time.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

from common.api import models as api
from common.api.leases import Lease, LeaseGranted
from common.api.models import ModelReady, UseModel
from common.api.supervisor import AdmitLease
from common.api.words import Cursor
from common.config.models import Model
from common.errors import (
    Cancelled,
    Conflict,
    NoCapacity,
    NotFound,
    StaleFence,
    TandemError,
    Unavailable,
)
from common.ids import new_id
from common.service.call import Call
from common.service.shell import Shell
from common.supervisor.instructions import Exited
from common.supervisor.leasing.own_line import OwnLine
from common.supervisor.leasing.owners import pinned
from common.supervisor.models.asking import Asking
from common.supervisor.models.cards_seen import residency
from common.supervisor.models.engine_process import EngineProcesses
from common.supervisor.models.managed import Asked, Managed, Serving
from common.supervisor.models.metrics import ModelFigures
from common.supervisor.models.roster import Abandon, Begin, Changed, Refuse, Roster, Serve
from common.supervisor.models.running import IDENTITY, Engines
from common.supervisor.models.seats import Seat, Seats
from common.supervisor.models.unloading import ModelUnloader
from common.supervisor.models.upkeep import Upkeep
from common.supervisor.processes import Processes
from common.vram.footprint import Footprints
from common.vram.lease_decision import EvictionOrder

TICK_S: Final = 0.25
LOOK_S: Final = 1.0
"""How often what engines hold is learned, and idle ones are looked for."""
STOP_LOOK_S: Final = 0.02
STOP_S: Final = 60.0
"""How long a stop is waited for; it goes on after that."""
PRELOAD_S: Final = 60.0
"""How long after the start a model that is to be preloaded waits for room."""
TROUBLED: Final = 2
"""After so many failures in a row a model is a problem of its host's health."""

ReadModels = Callable[[], Awaitable[Sequence[Model]]]


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
        self._seats = Seats()
        self._figures = ModelFigures()
        self._engines: Engines | None = None
        self._line: OwnLine | None = None
        self._asking: Asking | None = None
        self._upkeep: Upkeep | None = None
        self._turning = False
        self._closed = False

    @property
    def footprints(self) -> Footprints:
        """What is known of models on this host, for whoever looks at its other leases to learn and to store with these."""
        return self._footprints

    def bring_back(self, lease: Lease) -> None:
        """There is room again for a lease that made way for a program without one: an engine's model is loaded anew or woken."""
        if lease.identity == IDENTITY.format(self._host) and self._line is not None and not self._closed:
            with suppress(NotFound):
                self._preload(self._roster.find(lease.model))
                self._soon()

    def add_routes(self) -> None:
        """Serves the models' verbs, and their metrics."""
        shell = self._shell
        shell.handle(api.USE_MODEL, self._use)
        shell.handle(api.LIST_MODELS, self._list)
        shell.handle(api.STOP_MODEL, self._stop)
        shell.handle(api.RELOAD_MODELS, self._reload)
        shell.handle(api.ASK_MODEL, self._ask)
        self._figures.show(shell.metrics)

    def unloader(self, order: EvictionOrder) -> ModelUnloader | None:
        """Whoever knows how the owner of these leases gives its memory back, where it is an engine."""
        return self._engines.unloader(order) if self._engines is not None else None

    def log_name(self, name: str) -> str | None:
        """The name of a model's log; None where there is no such model."""
        try:
            return self._roster.find(name).model.label
        except NotFound:
            return next((each.model.label for each in self._roster if each.model.label == name), None)

    async def open(self, line: OwnLine, processes: Processes, environ: Mapping[str, str]) -> None:
        """From now on models can be used; those to be preloaded are loaded where there is room."""
        self._line = line
        engines = EngineProcesses(processes, self._host, self._home, environ)
        self._engines = Engines(
            self._shell, self._host, self._roster, self._footprints, line, engines, self._soon, self._refuse
        )
        self._asking = Asking(line.find, self._serving_under)
        line.listen(self._engines.heard)
        self._engines.resume()
        upkeep = self._upkeep = Upkeep(
            self._shell, self._home / self._host, self._roster, self._engines, line, self._footprints, self._figures
        )
        await upkeep.look_at_files()
        for managed in self._roster:
            if managed.model.preload:
                self._preload(managed)
        self._soon()
        self._shell.every(TICK_S, self._tick)
        self._shell.every(LOOK_S, upkeep.look)
        self._shell.spawn(upkeep.follow(), "following models' files and engines")

    def exited(self, event: Exited) -> bool:
        """Whether the process that ended was an engine's."""
        return self._engines is not None and self._engines.exited(event)

    async def close(self) -> None:
        """Sends the waiting away and ends the engines that were started here."""
        self._closed = True
        for seat in self._seats:
            seat.end(Unavailable(f"{self._host}'s supervisor is shutting down", retry_after_ms=500))
        if self._engines is not None:
            await self._engines.close()
        if self._asking is not None:
            await self._asking.close()

    async def _use(self, asked: UseModel, call: Call) -> ModelReady:
        line = self._opened()
        self._is_here(asked.host)
        managed = self._roster.find(asked.model)
        if managed.missing and self._upkeep is not None:
            await self._upkeep.look_at_files()
        self._fits(managed, line)
        now = self._now()
        wait_s = call.patience_s(now, asked.wait_s)
        ticket = new_id("req", self._shell.rng)
        seat = Seat(self._share_of(managed, asked, call), call)
        wanted = Asked(
            ticket=ticket, model=managed.model.name, priority=asked.priority, asked_at=now, deadline=now + wait_s
        )
        self._roster.ask(wanted, asked.capability, now)
        self._seats.sit(ticket, seat)
        late = self._shell.loop.call_later(wait_s, self._soon)
        try:
            self._turn()
            granted = await seat.outcome
        except asyncio.CancelledError:
            self._left(seat)
            raise
        finally:
            late.cancel()
            self._seats.leave(ticket)
            self._roster.leave(ticket)
            self._soon()
        return self._ready(managed, seat, granted, now)

    def _ready(self, managed: Managed, seat: Seat, granted: LeaseGranted, asked_at: float) -> ModelReady:
        serving = managed.serving
        if serving is None:
            raise StaleFence(f"{managed.model.name} was put away at this moment", retry_after_ms=100)
        return ModelReady(
            model=managed.model.name,
            host=self._host,
            url=serving.url,
            upstream=serving.upstream,
            engine=managed.model.engine,
            lease=granted,
            waited_s=self._now() - asked_at,
            loaded=seat.waited,
        )

    def _share_of(self, managed: Managed, asked: UseModel, call: Call) -> AdmitLease:
        request = AdmitLease(
            lease_id=new_id("lease", self._shell.rng),
            identity=call.identity,
            model=managed.model.name,
            config=managed.model.config,
            bytes=0,
            share=True,
            priority=asked.priority,
            ttl_s=asked.ttl_s,
            owner=asked.owner,
            idempotency_key=asked.idempotency_key,
        )
        return pinned(request, self._host, self._neighbours)

    def _is_here(self, host: str) -> None:
        if host not in ("", self._host):
            raise NotFound(f"this is {self._host}'s supervisor; ask {host}'s own, or ResourceManager")

    def _fits(self, managed: Managed, line: OwnLine) -> None:
        """NoCapacity where no card of this host could ever hold the model."""
        if managed.held is not None:
            return
        wish, cards = managed.wish(self._footprints), line.candidates()
        if not cards:
            raise NoCapacity(f"{self._host} has no cards, and an engine's lease is one of a card")
        if sum(wish.could_hold(card) for card in cards) < wish.cards:
            most = max((card.capacity_bytes for card in cards), default=0) / 2**30
            raise NoCapacity(
                f"{managed.model.name} needs {wish.need}; a card of {self._host} holds {most:.1f} GiB at most"
            )

    def _left(self, seat: Seat) -> None:
        """A caller left as it was being served: what it cannot have heard of is given back."""
        if (
            self._line is not None
            and seat.outcome.done()
            and not seat.outcome.cancelled()
            and not seat.outcome.exception()
        ):
            try:
                self._line.release(seat.outcome.result().lease_id)
            except TandemError as error:
                self._shell.log.info("a share whose caller left was not given back: %s", error.message)

    def _list(self, asked: api.ListModels, _call: Call) -> api.Models:
        ours = asked.host in ("", self._host)
        why = (
            {} if ours else {asked.host: f"this is {self._host}'s supervisor; ask that host's own, or ResourceManager"}
        )
        return self._shown(why) if ours else api.Models(models=[], as_of=self._cursor(), missing=why)

    def _shown(self, missing: dict[str, str]) -> api.Models:
        now = self._now()
        found = [managed.shown(self._host, self._footprints, now) for managed in self._roster]
        return api.Models(models=found, as_of=self._cursor(), missing=missing)

    def _cursor(self) -> Cursor:
        return self._shell.publisher.cursor(api.MODEL_CHANGED.name)

    async def _stop(self, asked: api.StopModel, _call: Call) -> api.ModelStopped:
        self._is_here(asked.host)
        line, managed = self._opened(), self._roster.find(asked.model)
        name = managed.model.name
        for waiting in list(managed.waiting.values()):
            self._roster.leave(waiting.ticket)
            self._refuse([Refuse(waiting, Cancelled(f"{name} was stopped"))])
        if managed.held is None:
            self._soon()
            return api.ModelStopped(state=managed.life.state, returned_bytes=0)
        if managed.model.adopted and (why := self._unstoppable(managed)):
            raise Conflict(why)
        lease_id = managed.held.lease_id
        self._put_away(managed, "stopped by its operator")
        until = self._now() + STOP_S
        while (there := self._roster.of_lease(lease_id) is managed) and self._now() < until:
            await asyncio.sleep(STOP_LOOK_S)
        return api.ModelStopped(state=managed.life.state, returned_bytes=0 if there else line.returned_bytes(lease_id))

    def _unstoppable(self, managed: Managed) -> str:
        """Why nothing can be done to have it go; empty where something can."""
        unloader = self._engines.unloader_of(managed) if self._engines is not None else None
        spared = unloader.spared if unloader is not None and not unloader.rungs else ""
        return f"{managed.model.name} cannot be put away: {spared}" if spared else ""

    def _put_away(self, managed: Managed, reason: str) -> None:
        """Has it go at once, its users' shares first."""
        line, engines = self._opened(), self._engines
        assert engines is not None
        assert managed.held is not None
        parent = managed.held.lease_id
        engines.put_away(managed, reason, to_stop=True)
        for lease in line.leases():
            if lease.shares == parent:
                line.release(lease.lease_id)
        line.let_go(parent)

    async def _reload(self, _asked: api.ReloadModels, _call: Call) -> api.Models:
        self._opened()
        models = await self._read()
        self._turn()
        self._roster.reload(models, self._now())
        if self._upkeep is not None:
            await self._upkeep.look_at_files()
        self._soon()
        return self._shown({})

    async def _ask(self, asked: api.AskModel, call: Call) -> api.ModelBytes:
        self._opened()
        assert self._asking is not None
        return await self._asking.ask(asked, call)

    def _serving_under(self, lease_id: str) -> Serving | None:
        managed = self._roster.of_lease(lease_id)
        return managed.serving if managed is not None and managed.life.state in ("ready", "expiring") else None

    def _opened(self) -> OwnLine:
        if self._line is None:
            raise Unavailable(f"{self._host}'s supervisor is starting", retry_after_ms=200)
        if self._closed:
            raise Unavailable(f"{self._host}'s supervisor is shutting down", retry_after_ms=500)
        return self._line

    def _soon(self) -> None:
        """Looks at the roster once in the next turn, however many reasons this one has."""
        if not self._turning:
            self._turning = True
            self._shell.loop.call_soon(self._turn)

    def _turn(self) -> None:
        self._turning = False
        line = self._line
        if line is None or self._closed:
            return
        now = self._now()
        leases = line.leases() if self._roster.waiting else []
        seen = residency(line.candidates(), leases, self._loading(now), line.demand, line.horizon)
        for instruction in self._roster.step(seen, now):
            match instruction:
                case Begin() if self._engines is not None:
                    self._engines.begin(instruction)
                case Abandon(name) if self._engines is not None:
                    self._engines.abandon(name)
                case Serve(asked):
                    self._serve(asked, line)
                case Refuse():
                    self._refuse([instruction])
                case Changed():
                    self._publish(instruction)
        self._seats.tell(lambda ticket: self._roster.progress(ticket, now), now)

    def _loading(self, now: float) -> dict[str, float]:
        """The cards whose loader is taken, with the time at which that should be over."""
        found: dict[str, float] = {}
        for managed in self._roster:
            begun = managed.begun
            if begun is not None:
                cards = managed.held.card_uuids if managed.held is not None else (begun.card_uuid,)
                found |= dict.fromkeys(cards, begun.until or now + 1.0)
        return found

    def _serve(self, asked: Asked, line: OwnLine) -> None:
        managed, seat = self._roster.find(asked.model), self._seats.get(asked.ticket)
        if seat is None or managed.held is None:
            return  # a preload, or a caller that is leaving
        try:
            granted = line.share(managed.held.lease_id, seat.asked)
        except StaleFence:
            self._roster.unserved(asked, self._now())
        except TandemError as error:
            seat.end(error)
        else:
            self._roster.used(managed.model.name, granted.lease_id)
            seat.end(granted)

    def _refuse(self, refused: Iterable[Refuse]) -> None:
        for each in refused:
            seat = self._seats.get(each.asked.ticket)
            if seat is not None:
                seat.end(each.error)

    def _publish(self, changed: Changed) -> None:
        managed = self._roster.find(changed.name)
        name, life, figures = changed.name, managed.life, self._figures
        shown = managed.shown(self._host, self._footprints, self._now())
        self._shell.log.info("model %s went from %s to %s %s", name, changed.was, life.state, life.problem)
        self._shell.publisher.publish(api.MODEL_CHANGED, name, api.ModelChanged(model=shown, was=changed.was))
        if changed.was == "loading" and life.state == "ready":
            figures.loads[name] += 1
            figures.load_s = {**figures.load_s, name: managed.load_s}
        figures.failures[name] += life.state == "failed"
        if life.failures >= TROUBLED:
            self._shell.problems[f"model {name}"] = f"{name} does not load: {life.problem}"
        elif life.state == "ready":
            self._shell.problems.pop(f"model {name}", None)

    def _preload(self, managed: Managed) -> None:
        now, name = self._now(), managed.model.name
        wanted = Asked(
            ticket=f"preload {name}",
            model=name,
            priority=managed.model.priority,
            asked_at=now,
            deadline=now + PRELOAD_S,
            preload=True,
        )
        try:
            self._roster.ask(wanted, "", now)
        except TandemError as error:
            self._shell.log.warning("model %s is not preloaded: %s", name, error.message)

    def _tick(self) -> None:
        if self._roster.waiting or any(each.life.state == "queued" for each in self._roster):
            self._turn()
