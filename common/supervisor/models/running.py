"""The engines of a host's models: loads begun as the roster says, and all that happens to an engine or its lease told to it.

One engine belongs to one model, but for those that ran before. A load that did not succeed leaves nothing behind: its process is
stopped and its lease given back before anybody hears of it. It decides neither what is loaded nor what goes.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Any, Final

from common.api.leases import Lease, LeaseChanged, LeaseGranted
from common.engines.opening import open_engine
from common.errors import NoCapacity, NotFound, StorageUnavailable, TandemError
from common.gpu.process_identity import is_alive
from common.service.shell import Shell
from common.supervisor.instructions import Exited
from common.supervisor.leasing.own_line import OwnLine
from common.supervisor.models.engine_lease import held_of, stays
from common.supervisor.models.engine_process import EngineProcesses, last_words
from common.supervisor.models.instructions import Begin, Refuse
from common.supervisor.models.leasing_engines import EngineLeases
from common.supervisor.models.loads import Loads, Room
from common.supervisor.models.managed import Held, Managed, Serving
from common.supervisor.models.roster import Roster
from common.supervisor.models.slots import KeptSlots
from common.supervisor.models.unloading import ModelUnloader
from common.vram.cards import ProcessId
from common.vram.footprint import Footprints
from common.vram.lease_decision import EvictionOrder

ENDED: Final = "its engine ended"


class Engines:
    """`turn` has the roster looked at soon, `refuse` hears who is to be told that nothing came of it."""

    def __init__(
        self,
        shell: Shell,
        host: str,
        roster: Roster,
        footprints: Footprints,
        line: OwnLine,
        processes: EngineProcesses,
        turn: Callable[[], None],
        refuse: Callable[[Iterable[Refuse]], None],
    ) -> None:
        self.rooms: defaultdict[str, Room] = defaultdict(Room)
        self._shell = shell
        self._roster = roster
        self._footprints = footprints
        self._line = line
        self._processes = processes
        self._slots = KeptSlots(shell, processes.folder)
        self._loads = Loads(shell, host, line, processes, self._slots)
        self.leases = EngineLeases(shell, host, roster, footprints, line, self._loads)
        self._turn = turn
        self._refuse = refuse
        self._now = shell.clock.monotonic
        self._closed = False

    def begin(self, begin: Begin) -> None:
        """A load of this model, as the roster wants it."""
        managed, room = self._roster.find(begin.name), self.rooms[begin.name]
        room.to_stop = False
        room.task = self._shell.spawn(self._load(managed, room, begin), f"loading {begin.name}")

    def abandon(self, name: str) -> None:
        """Nobody wants what has no lease yet."""
        task = self.rooms[name].task
        if task is not None:
            task.cancel()

    def exited(self, event: Exited) -> bool:
        """Whether the process that ended was an engine's."""
        if not self._processes.exited(event):
            return False
        for managed in self._roster:
            if managed.model.label == event.name and managed.life.state not in ("loading", "expiring"):
                self._gone(managed, last_words(event))  # else the load, or its lease's end, tells what comes of it
        return True

    def heard(self, change: LeaseChanged) -> None:
        """A lease changed: an engine's own, or a share of one."""
        lease, now = change.lease, self._now()
        if lease.shares:
            managed = self._roster.of_lease(lease.shares)
            if change.change == "granted" and managed is not None:
                self._roster.used(managed.model.name, lease.lease_id)
            elif change.change not in ("granted", "marked", "expiring", "parked", "corrected"):
                self._roster.unused(lease.lease_id, now)
            self._turn()
            return
        managed = self._roster.of_lease(lease.lease_id)
        if managed is not None:
            self._heard_of(managed, change, now)
        self._turn()

    def unloader(self, order: EvictionOrder) -> ModelUnloader | None:
        """Whoever knows the owner of these leases, where they are an engine's."""
        managed = next(filter(None, map(self._roster.of_lease, order.lease_ids)), None)
        return None if managed is None else self.unloader_of(managed)

    def unloader_of(self, managed: Managed) -> ModelUnloader | None:
        """How this model's engine gives its memory back, while there is one."""
        room = self.rooms[managed.model.name]
        if room.engine is None:
            return None
        upstream = managed.serving.upstream if managed.serving else managed.model.upstream_name
        return ModelUnloader(
            managed.model, room.engine, upstream, room.process, self._processes, self._slots.keep, to_stop=room.to_stop
        )

    def put_away(self, managed: Managed, reason: str, *, to_stop: bool) -> None:
        """Has the model's lease go, in use or not; `to_stop`: for good, and not to sleep."""
        if managed.held is not None:
            self.rooms[managed.model.name].to_stop = to_stop
            self._line.evict([managed.held.lease_id], reason)

    def lost(self, managed: Managed) -> None:
        """The lease of its engine is not there, so neither may the engine be."""
        if managed.held is not None and managed.life.state in ("ready", "parked", "expiring"):
            self._roster.ended(managed.model.name, self._now())
            self._shell.spawn(self._clear(self.rooms[managed.model.name]), f"closing {managed.model.name}")
            self._turn()

    async def find(self, managed: Managed, already: dict[str, int], owner: ProcessId, upstream: str) -> None:
        """Takes a lease for a model that an engine has loaded already, for what is missing of the bytes that are on the cards.

        What its process holds beyond the lease is added by the looks at the cards.
        """
        model, room = managed.model, self.rooms[managed.model.name]
        uuid = max(already, key=lambda each: already[each], default=model.card_uuid)
        need = managed.need_bytes(self._footprints)
        missing = max(1, need - min(need, already.get(uuid, 0)))
        granted = await self.leases.for_found(managed, owner, missing, uuid)
        if managed.life.state not in ("absent", "failed") or self._closed:
            self.leases.give_back(granted.lease_id)
            return
        already[uuid] = max(0, already.get(uuid, 0) - need)
        room.engine = room.engine or open_engine(model.engine, model.url, health_path=model.health.path)
        room.loaded_at = self._now()
        serving = Serving(url=room.engine.url, upstream=upstream, pid=owner.pid, start_time=owner.start_time)
        self._roster.found(model.name, held_of(granted), serving, self._now())
        self._line.mark(granted.lease_id, in_use=stays(managed.model, room.engine), loaded=True)
        self._turn()

    def resume(self) -> None:
        """What an earlier life of this supervisor left: leases of engines that ran on go on, any others are given back."""
        self._slots.restore(managed.model for managed in self._roster)
        left = self._processes.end_left()
        if left is not None:
            self._shell.spawn(left, "ending the containers that were left running")
        for lease in self.leases.live():
            if not self._resumed(lease):
                self.leases.give_back(lease.lease_id)

    def _resumed(self, lease: Lease) -> bool:
        try:
            managed = self._roster.find(lease.model)
        except NotFound:
            return False
        model, owner = managed.model, lease.owner
        runs_on = model.adopted and lease.state == "held" and is_alive(owner.pid, owner.start_time)
        if not runs_on or managed.life.state != "absent":
            return False
        room = self.rooms[model.name]
        room.engine = open_engine(model.engine, model.url, health_path=model.health.path)
        room.loaded_at = self._now()
        held = Held(lease_id=lease.lease_id, card_uuids=tuple(lease.card_uuids), bytes=lease.bytes)
        serving = Serving(url=room.engine.url, upstream=model.upstream_name, pid=owner.pid, start_time=owner.start_time)
        self._roster.found(model.name, held, serving, self._now())
        for share in self._line.leases():
            if share.shares == lease.lease_id:
                self._roster.used(model.name, share.lease_id)
        return True

    async def close(self) -> None:
        """Ends every load and every engine that was started here."""
        self._closed = True
        tasks = [room.task for room in self.rooms.values() if room.task is not None and not room.task.done()]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=2.0)
        await self._processes.stop_all()
        for room in self.rooms.values():
            await room.close()

    async def _load(self, managed: Managed, room: Room, begin: Begin) -> None:
        name = managed.model.name
        try:
            granted, owner = await self.leases.for_load(managed, begin)
        except asyncio.CancelledError:
            self._roster.no_room(name, "", self._now())
            self._turn()
            return
        except TandemError as error:
            self._not_leased(managed, error)
            return
        began, tier = self._now(), managed.tier
        serving = managed.serving
        self._roster.granted(name, held_of(granted), began)
        self._turn()
        try:
            serving = await self._bring(managed, room, granted, owner, serving, wake=begin.wake)
            if managed.life.state == "loading":
                self._loaded(managed, room, granted, serving, began, tier)
        except asyncio.CancelledError:
            return  # whoever cancelled it sees to what is left
        except Exception as error:
            if not isinstance(error, TandemError):
                self._shell.log.exception("loading %s failed", name)
            reason = error.message if isinstance(error, TandemError) else f"{type(error).__name__}: {error}"
            await self._failed(managed, room, granted, reason, wake=begin.wake)

    async def _bring(
        self,
        managed: Managed,
        room: Room,
        granted: LeaseGranted,
        owner: ProcessId,
        serving: Serving | None,
        *,
        wake: bool,
    ) -> Serving:
        model = managed.model
        if wake and serving is not None:
            return await self._loads.wake(model, room, serving)
        if model.adopted:
            return await self._loads.bring(model, room, owner)
        return await self._loads.start(model, room, granted)

    def _loaded(
        self, managed: Managed, room: Room, granted: LeaseGranted, serving: Serving, began: float, tier: Any
    ) -> None:
        model, now = managed.model, self._now()
        seconds = now - began
        self._line.mark(granted.lease_id, loaded=True)
        measured = self._line.find(granted.lease_id).measured_bytes or managed.need_bytes(self._footprints)
        self._footprints.loaded(managed.key, tier, seconds, measured * model.cards)
        room.loaded_at = now
        self._roster.loaded(model.name, serving, seconds, now)
        self._shell.log.info(
            "model %s is ready at %s after %.2f s (%s), lease %s",
            model.name,
            serving.url,
            seconds,
            tier,
            granted.lease_id,
        )
        self._turn()  # those who wait are served before the lease is let go of
        if not stays(managed.model, room.engine):
            self._shell.loop.call_soon(self._line.let_go, granted.lease_id)

    def _not_leased(self, managed: Managed, error: TandemError) -> None:
        name, now = managed.model.name, self._now()
        if isinstance(error, NoCapacity | StorageUnavailable) or managed.life.state != "queued":
            self._roster.no_room(name, error.message, now)
        else:
            self._refuse(self._roster.failed(name, error.message, now))
        self._turn()

    async def _failed(self, managed: Managed, room: Room, granted: LeaseGranted, reason: str, *, wake: bool) -> None:
        name = managed.model.name
        self._shell.log.warning("model %s did not load: %s", name, reason)
        await self._undo(room, granted.lease_id)
        if managed.life.state == "loading":
            if wake:
                self._roster.again(name, self._now())
            else:
                self._refuse(self._roster.failed(name, reason, self._now()))
        self._turn()

    async def _undo(self, room: Room, lease_id: str) -> None:
        """Nothing of a load is left: no process, no lease."""
        if room.process is not None:
            with suppress(TandemError):
                await self._processes.stop(room.process)
        await room.close()
        self.leases.give_back(lease_id)

    def _heard_of(self, managed: Managed, change: LeaseChanged, now: float) -> None:
        name, room, what = managed.model.name, self.rooms[managed.model.name], change.change
        if what == "expiring":
            self._cancel(managed, room)
            self._roster.leaving(name, now)
        elif what == "parked":
            lease = change.lease
            held = Held(lease_id=lease.lease_id, card_uuids=tuple(lease.card_uuids), bytes=lease.bytes)
            self._roster.asleep(name, held, now)
        elif what in ("released", "expired", "owner-died", "evicted", "card-lost"):
            self._lease_over(managed, room, change, now)

    def _lease_over(self, managed: Managed, room: Room, change: LeaseChanged, now: float) -> None:
        state = managed.life.state
        if state == "loading" and change.change in ("released", "owner-died"):
            return  # the load sees it by itself, and knows why
        if state == "loading":
            self._cancel(managed, room)
            self._refuse(self._roster.failed(managed.model.name, change.reason, now))
        elif change.change == "owner-died" and not managed.model.adopted:
            self._gone(managed, ENDED)
            return
        else:
            self._roster.ended(managed.model.name, now)
        self._shell.spawn(self._clear(room), f"closing {managed.model.name}")

    def _gone(self, managed: Managed, why: str) -> None:
        """Its process ended: by itself, or because it was on its way out."""
        room, name = self.rooms[managed.model.name], managed.model.name
        if managed.held is not None or managed.serving is not None:
            self._refuse(self._roster.died(name, why, self._now()))
            self._shell.spawn(self._clear(room), f"closing {name}")
        elif managed.life.problem == ENDED:
            managed.life.problem = why
        self._turn()

    def _cancel(self, managed: Managed, room: Room) -> None:
        """A load that was under way is over; its lease is not in use by it any more."""
        if room.task is not None and not room.task.done() and managed.life.state in ("queued", "loading"):
            room.task.cancel()
            if managed.held is not None:
                self._shell.loop.call_soon(self._line.let_go, managed.held.lease_id)

    async def _clear(self, room: Room) -> None:
        """Nothing is left of an engine whose lease has ended."""
        process = room.process
        await room.close()
        if process is not None and not process.ended.done():
            await self._processes.stop(process)
