"""A host's managed models together: who is served, who waits for what, and which model is loaded next; never touches an engine.

How a shell drives it, on one loop, with `now` of its monotonic clock:

    roster.ask(...)                             a place in the line, or the error that refuses at once
    perform(roster.step(residency, now))        after anything happened, and now and then
    roster.progress(ticket, now)                what to tell one who waits; roster.leave(ticket) when it is gone

`perform` answers each instruction: `Begin` with `granted`, then `loaded`; or `no_room`, or `failed`. `Serve` with `used`, or
`unserved`. What the lease of an engine goes through comes in as `leaving`, `asleep`, `ended` and `died`.

One load at a time per card, joins, batches and ageing are those of common/vram/loading.py. Beside it: a loaded model has so
many slots, and who comes later waits for one; one that failed is tried again after a pause, and each who waits sees at most
ATTEMPTS loads of it fail.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

import msgspec

from common.api.models import ModelProgress
from common.config.models import Model
from common.errors import BadRequest, Unavailable
from common.supervisor.models.entries import Entries
from common.supervisor.models.instructions import Abandon, Begin, Changed, Instruction, Refuse, Serve
from common.supervisor.models.loading_line import LoadingLine
from common.supervisor.models.managed import Asked, Begun, Held, Managed, Serving
from common.supervisor.models.states import Move
from common.supervisor.models.telling import Telling
from common.vram.footprint import Footprints
from common.vram.residency import Residency

ATTEMPTS: Final = 2
"""How many loads of a model may fail while one caller waits."""
GIVE_UP: Final = 4
"""After so many failures in a row nobody waits for the next load: whoever asks in the pause before it is told why."""
NO_ROOM_PAUSE_S: Final = 0.5


class Roster:
    """All models of one host's startup file, by name and alias; `footprints` are what has been learned of them."""

    def __init__(self, host: str, models: Sequence[Model], footprints: Footprints, at: float) -> None:
        self._host = host
        self._footprints = footprints
        self._telling = Telling(host, footprints)
        self._entries = Entries(host)
        self._models: dict[str, Managed] = {}
        self._names: dict[str, str] = {}
        self._tickets: dict[str, str] = {}
        self._line = LoadingLine(footprints)
        self._changes: list[Changed] = []
        self.reload(models, at)

    def __iter__(self) -> Iterator[Managed]:
        return iter(tuple(self._models.values()))

    def __len__(self) -> int:
        return len(self._models)

    @property
    def waiting(self) -> int:
        """How many wait for a model."""
        return len(self._tickets)

    @property
    def disabled(self) -> list[Model]:
        """The entries that cannot be asked for, and have no engine from before."""
        return [model for name, model in self._entries.disabled.items() if name not in self._models]

    def reload(self, models: Sequence[Model], at: float) -> list[str]:
        """Takes in what the file says now; the names of those that are to be preloaded by now, and were not before.

        A model with an engine keeps its entry as it was until that is gone.
        """
        to_preload = self._entries.replace(models)
        for model in self._entries:
            self._models.setdefault(model.name, Managed(model, at))
        for managed in self:
            self._settle(managed)
        self._name()
        return to_preload

    def _settle(self, managed: Managed) -> None:
        """A model that has no engine is as the file says now, and is forgotten where that names it no more."""
        if managed.life.state not in ("absent", "failed") or managed.begun is not None:
            return
        name, entry = managed.model.name, self._entries.get(managed.model.name)
        if entry is not None:
            managed.model = entry
        elif not managed.waiting:
            del self._models[name]

    def _name(self) -> None:
        self._names = {alias: name for name, managed in self._models.items() for alias in managed.model.names}

    def find(self, name: str) -> Managed:
        """The model of that name or alias; NotFound with a close match."""
        if name not in self._names:
            raise self._entries.unknown(name, self._names)
        return self._models[self._names[name]]

    def of_lease(self, lease_id: str) -> Managed | None:
        """The model whose engine holds this lease."""
        return next((each for each in self if each.held is not None and each.held.lease_id == lease_id), None)

    def ask(self, asked: Asked, capability: str, now: float) -> None:
        """Takes a place in the line, which `step` may serve at once.

        Raises NotFound; BadRequest where the model does not serve the capability; Unavailable where something is lacking for it,
        or it keeps failing; NoCapacity where nothing may be waited for and it is not ready.
        """
        managed = self.find(asked.model)
        model = managed.model
        if capability and capability not in model.served:
            raise BadRequest(
                f"{model.name} serves {', '.join(model.served)}, not {capability}", served=list(model.served)
            )
        if managed.lack:
            raise Unavailable(f"{model.name} cannot be loaded on {self._host}: {managed.lack}")
        life = managed.life
        if life.failures >= GIVE_UP and not life.may_retry(now):
            raise self._telling.failing(managed, now)
        if asked.deadline <= now and (managed.free_slots == 0 or managed.waiting):
            raise self._telling.refusal(managed, now)
        managed.waiting[asked.ticket] = msgspec.structs.replace(asked, model=model.name)
        self._tickets[asked.ticket] = model.name
        if life.state in ("queued", "loading"):
            self._line.join(managed, now)

    def leave(self, ticket: str) -> None:
        """One who waited is gone; no matter if it did not."""
        name = self._tickets.pop(ticket, None)
        if name is not None:
            self._models[name].waiting.pop(ticket, None)
            self._models[name].failed_for.pop(ticket, None)
            self._line.leave(ticket)

    def step(self, residency: Residency, now: float) -> list[Instruction]:
        """What is to be done now; `residency` shows the cards as they are, and is changed."""
        found: list[Instruction] = [*self._overdue(now)]
        for managed in self:
            found += self._look_after(managed, now)
        found += self._begin_some(residency, now)
        changes, self._changes = self._changes, []
        return [*(each for each in changes if each.name in self._models), *found]

    def granted(self, name: str, held: Held, now: float) -> None:
        """The lease of a load is there: it goes on."""
        managed = self._models[name]
        managed.held = held
        self._move(managed, Move.BEGIN, now)

    def loaded(self, name: str, serving: Serving, took_s: float, now: float) -> None:
        """The engine answers, so long after its lease was granted: those who wait can be served."""
        managed = self._models[name]
        self._line.over(managed, loaded=True)
        managed.serving, managed.sleeps, managed.idle_since = serving, False, now
        managed.loads, managed.load_s = managed.loads + 1, took_s
        managed.failed_for.clear()
        self._move(managed, Move.PROVE, now)

    def found(self, name: str, held: Held, serving: Serving, now: float) -> None:
        """An engine that runs already had the model loaded."""
        managed = self._models[name]
        managed.held, managed.serving, managed.idle_since = held, serving, now
        managed.loads += 1
        self._move(managed, Move.FIND, now)

    def no_room(self, name: str, reason: str, now: float) -> None:
        """The lease was not to be had: the model waits on."""
        managed = self._models[name]
        self._line.over(managed, loaded=False)
        managed.no_room, managed.no_room_until = reason, now + NO_ROOM_PAUSE_S
        self._line.withdraw(managed)

    def again(self, name: str, now: float) -> None:
        """A load was given up before it could fail, such as a wake that did not succeed: it is begun anew, from nothing."""
        managed = self._models[name]
        self._line.over(managed, loaded=False)
        self._empty(managed)
        if managed.life.state == "loading":
            self._move(managed, Move.RETRY, now)
        self._line.join(managed, now)

    def failed(self, name: str, reason: str, now: float) -> list[Refuse]:
        """A load did not succeed, or the engine died: some have waited long enough."""
        managed = self._models[name]
        self._line.over(managed, loaded=False)
        self._empty(managed)
        was = managed.life.fail(reason, now)
        self._changes.append(Changed(name, was))
        refused = []
        for asked in list(managed.waiting.values()):
            self._line.leave(asked.ticket)
            failures = managed.failed_for[asked.ticket] = managed.failed_for.get(asked.ticket, 0) + 1
            if failures >= ATTEMPTS or asked.preload or managed.life.failures >= GIVE_UP:
                self.leave(asked.ticket)
                refused.append(Refuse(asked, self._telling.failing(managed, now)))
        return refused

    def leaving(self, name: str, now: float) -> None:
        """Its lease has to go: nobody is let in any more."""
        managed = self._models[name]
        if managed.life.state in ("ready", "parked", "loading", "queued"):
            self._line.over(managed, loaded=False)
            self._line.withdraw(managed)
            self._move(managed, Move.LEAVE, now)

    def asleep(self, name: str, held: Held, now: float) -> None:
        """Its engine sleeps, and its lease keeps what is left on the card."""
        managed = self._models[name]
        managed.held, managed.sleeps, managed.idle_since = held, True, now
        managed.users.clear()
        self._move(managed, Move.SLEEP, now)

    def ended(self, name: str, now: float) -> None:
        """Its lease has ended as it should, and its engine has gone or has let go of it."""
        managed = self._models[name]
        self._line.over(managed, loaded=False)
        self._empty(managed)
        if managed.life.state == "queued":
            self._line.join(managed, now)
        elif managed.life.state != "absent":
            self._move(managed, Move.END, now)
            if self._entries.get(name) is not managed.model:
                self._settle(managed)
                self._name()

    def died(self, name: str, reason: str, now: float) -> list[Refuse]:
        """Its engine ended by itself; one that was on its way out is simply gone."""
        state = self._models[name].life.state
        if state in ("expiring", "absent", "failed"):
            self.ended(name, now)
            return []
        return self.failed(name, reason, now)

    def used(self, name: str, share_id: str) -> None:
        """A share of the model's lease lives."""
        self._models[name].users.add(share_id)

    def unused(self, share_id: str, now: float) -> None:
        """A share has ended; no matter whose."""
        for managed in self:
            if share_id in managed.users:
                managed.users.discard(share_id)
                managed.idle_since = now

    def unserved(self, asked: Asked, now: float) -> None:
        """A share could not be given, because the lease had to go at that moment: the caller waits on."""
        managed = self._models[asked.model]
        managed.waiting[asked.ticket] = asked
        self._tickets[asked.ticket] = asked.model

    def lacks(self, name: str, missing: Sequence[str]) -> None:
        """Which of the model's files are not on this host."""
        self._models[name].missing = tuple(missing)

    def is_away(self, name: str, why: str) -> None:
        """Why the engine, which others run, is not there; empty where it is."""
        if name in self._models:
            self._models[name].away = why

    def hears(self, name: str, reason: str) -> None:
        """Why the lease of its load is still waited for."""
        self._models[name].no_room = reason

    def short_of_host(self, name: str, why: str) -> None:
        """Why its load waits for what the host has beside cards; empty where it does not."""
        self._models[name].short = why

    def progress(self, ticket: str, now: float) -> ModelProgress:
        """What to tell one who waits; KeyError for one who does not."""
        managed = self._models[self._tickets[ticket]]
        return self._telling.progress(
            managed, managed.waiting[ticket], lambda: self._line.standing(ticket, self, now), now
        )

    def _overdue(self, now: float) -> Iterator[Refuse]:
        for managed in self:
            for asked in list(managed.waiting.values()):
                if asked.deadline <= now and not (managed.free_slots and self._next_served(managed) == asked):
                    self.leave(asked.ticket)
                    yield Refuse(asked, self._telling.refusal(managed, now))

    def _look_after(self, managed: Managed, now: float) -> Iterator[Instruction]:
        life = managed.life
        if managed.waiting and life.state in ("absent", "parked", "failed") and life.may_retry(now):
            self._move(managed, Move.WANT, now)
        if life.state == "ready":
            yield from self._served(managed)
        elif life.state == "queued":
            yield from self._queued(managed, now)

    def _served(self, managed: Managed) -> Iterator[Serve]:
        for _ in range(min(managed.free_slots, len(managed.waiting))):
            asked = self._next_served(managed)
            self.leave(asked.ticket)
            yield Serve(asked)

    def _queued(self, managed: Managed, now: float) -> Iterator[Instruction]:
        begun = managed.begun
        if begun is not None:
            if not managed.waiting or begun.priority < managed.urgency:
                yield Abandon(managed.model.name)
        elif not managed.waiting:
            self._move(managed, Move.REST if managed.sleeps else Move.FORGO, now)
        elif managed.no_room_until <= now:
            self._line.join(managed, now)
            if not managed.model.vram:  # it needs no card, whatever goes on there
                yield self._begun(managed, "", evicts=False, now=now)

    def _begin_some(self, residency: Residency, now: float) -> list[Instruction]:
        found: list[Instruction] = []
        while (load := self._line.next(residency, now)) is not None:
            managed = self._models[load.key.model]
            if load.victims and all(asked.preload for asked in managed.waiting.values()):
                for asked in list(managed.waiting.values()):
                    self.leave(asked.ticket)
                    found.append(Refuse(asked, self._telling.refusal(managed, now)))
                continue
            self._line.begin(managed, load, residency, now)
            found.append(self._begun(managed, load.card.uuid, evicts=bool(load.victims), now=now))
        return found

    def _begun(self, managed: Managed, card_uuid: str, *, evicts: bool, now: float) -> Begin:
        seconds, known = managed.seconds(self._footprints)
        until = now + seconds if known else None
        managed.begun = Begun(
            at=now, until=until, card_uuid=card_uuid, wake=managed.sleeps, evicts=evicts, priority=managed.urgency
        )
        managed.no_room = ""
        deadline = max(asked.deadline for asked in managed.waiting.values())
        several = managed.model.cards > 1 and not managed.sleeps
        return Begin(managed.model.name, "" if several else card_uuid, managed.sleeps, deadline)

    def _empty(self, managed: Managed) -> None:
        """Nothing is left of its engine."""
        managed.held = managed.serving = None
        managed.sleeps = False
        managed.users.clear()

    def _move(self, managed: Managed, move: Move, now: float) -> None:
        self._changes.append(Changed(managed.model.name, managed.life.move(move, now)))

    def _next_served(self, managed: Managed) -> Asked:
        return min(managed.waiting.values(), key=lambda asked: asked.rank)
