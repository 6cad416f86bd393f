"""Tandem at work in the queueing simulation: the decisions are those of common.vram, and this only carries them out."""

from __future__ import annotations

import math
from collections import defaultdict, deque

from benchmarks.vram.queueing import Simulation
from common.vram.amount import GIB
from common.vram.demand import Demand, Horizon, ModelKey
from common.vram.loading import Load, LoadAsked, LoadQueue
from common.vram.placement import Candidate, Wish
from common.vram.priced_cards import Tenant
from common.vram.residency import Residency
from common.vram.waiting import DEFAULT as LINE

PRIORITY = 50


class Tandem:
    """Requests of a model that is loaded are served as slots come free; the others wait in the product's queue for loading."""

    def __init__(self, sim: Simulation) -> None:
        self._residency = Residency(Demand(), Horizon())
        self._queue = LoadQueue()
        self._slots: defaultdict[str, deque[int]] = defaultdict(deque)
        self._draining: dict[int, Load] = {}
        self._going: dict[str, list[int]] = {}
        for number in range(len(sim.cards)):
            self._see(sim, number)

    def arrived(self, sim: Simulation, number: int) -> None:
        request = sim.asked[number]
        self._residency.used(ModelKey(request.model), sim.now)
        if request.model in sim.home and not sim.is_loading(request.model) and request.model not in self._going:
            self._slots[request.model].append(number)
            return
        if request.model in self._going:
            self._going[request.model].append(number)
        else:
            self._queue.ask(self._asked(sim, number))
        sim.tick(sim.now + LINE.reserve_after_s + 1e-3)

    def served(self, sim: Simulation, model: str) -> None:
        if not sim.using[model]:
            self._put(sim, model)

    def loaded(self, sim: Simulation, model: str, card: int) -> None:
        self._residency.loading(f"card{card}", 0.0)
        self._slots[model].extend(int(asked.ticket) for asked in self._queue.loaded(ModelKey(model), f"card{card}"))
        self._put(sim, model)

    def act(self, sim: Simulation) -> None:
        for card in [
            card for card, load in self._draining.items() if not any(map(sim.using.__getitem__, load.victims))
        ]:
            self._begin(sim, self._draining.pop(card))
        self._serve(sim)
        while (load := self._queue.next(self._residency, sim.now)) is not None:
            self._mark(sim, load)
            if any(map(sim.using.__getitem__, load.victims)):
                self._draining[load.card.index] = load
            else:
                self._begin(sim, load)

    def _serve(self, sim: Simulation) -> None:
        for model, waiting in self._slots.items():
            began = False
            while waiting and sim.is_ready(model) and model not in self._going:
                began = True
                sim.serve(waiting.popleft())
            if began:
                self._put(sim, model)

    def _mark(self, sim: Simulation, load: Load) -> None:
        """Marks the victims as going and the card's loader as taken; who asks for a victim waits until it is gone."""
        for victim in load.victims:
            self._going[victim] = list(self._slots.pop(victim, ()))
            self._residency.evict(load.card.uuid, victim, sim.now)
        until = sim.now + load.first.load_s
        self._residency.loading(load.card.uuid, until)
        self._queue.started(load, until)

    def _begin(self, sim: Simulation, load: Load) -> None:
        for victim in load.victims:
            sim.unload(victim)
            self._residency.drop(load.card.uuid, victim)
            for number in self._going.pop(victim):
                self._queue.ask(self._asked(sim, number))
        until = sim.load(load.key.model, load.card.index)
        self._residency.loading(load.card.uuid, until)
        self._put(sim, load.key.model)
        self._see(sim, load.card.index)

    def _put(self, sim: Simulation, model: str) -> None:
        """Tells the residency how the model stands."""
        card = sim.home[model]
        in_use = sim.using[model] > 0 or sim.is_loading(model)
        load_s = sim.cards[card].load_s(sim.sizes[model])
        expiring = model in self._going
        tenant = Tenant(
            model, ModelKey(model), self._bytes(sim, model), PRIORITY, load_s, in_use=in_use, expiring=expiring
        )
        self._residency.put(f"card{card}", tenant)

    def _see(self, sim: Simulation, card: int) -> None:
        spec, free = sim.cards[card], math.floor(sim.free_gib(card) * GIB + 1)
        self._residency.see(Candidate(spec.host, card, f"card{card}", free, int(spec.gib * GIB)))

    def _asked(self, sim: Simulation, number: int) -> LoadAsked:
        request = sim.asked[number]
        gib = sim.sizes[request.model]
        return LoadAsked(
            ticket=f"{number:06d}",
            key=ModelKey(request.model),
            wish=Wish(request.model, self._bytes(sim, request.model)),
            priority=PRIORITY,
            asked_at=request.at,
            deadline=math.inf,
            load_s=max(card.load_s(gib) for card in sim.cards if gib <= card.gib),
        )

    def _bytes(self, sim: Simulation, model: str) -> int:
        return math.floor(sim.sizes[model] * GIB)
