"""Queueing: requests hold their model for a while, and what counts is how long they wait.

A simulation of events, with no chance in it: each model serves SLOTS requests at a time, a card loads one model at a time, a
model that is used or loading cannot go. How long a request waits is from its arrival until it is served.
"""

from __future__ import annotations

import math
from collections import Counter, deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from heapq import heappop, heappush
from typing import Final, Literal, Protocol

from benchmarks.vram.peers import Rule, Shelf
from benchmarks.vram.traces import CardSpec, Request

SLOTS: Final = 8

Event = tuple[float, int, Literal["arrived", "served", "loaded", "tick"], int, str]


@dataclass(frozen=True, slots=True)
class Waits:
    """How long requests waited, and what was loaded for that."""

    mean_s: float
    p50_s: float
    p99_s: float
    loads: int
    load_s: float
    unserved: int


class Scheduler(Protocol):
    """Whoever decides; told of each event after the simulation took it in."""

    def arrived(self, sim: Simulation, number: int) -> None:
        """A request came; it is served by `sim.serve`."""

    def served(self, sim: Simulation, model: str) -> None:
        """A request ended."""

    def loaded(self, sim: Simulation, model: str, card: int) -> None:
        """A load ended."""

    def act(self, sim: Simulation) -> None:
        """Everything at this instant was told."""


class Simulation:
    """The cards, the requests, and what happens next."""

    def __init__(self, asked: Sequence[Request], sizes: Mapping[str, float], cards: Sequence[CardSpec]) -> None:
        self.asked = asked
        self.sizes = sizes
        self.cards = cards
        self.now = 0.0
        self.using: Counter[str] = Counter()
        self.home: dict[str, int] = {}
        self.loading: dict[int, str] = {}
        self.loads, self.load_s = 0, 0.0
        self._free = [card.gib for card in cards]
        self._waited: list[float] = []
        self._events: list[Event] = []
        self._sequence = 0

    def run(self, scheduler: Scheduler) -> Waits:
        """Plays all requests through the scheduler."""
        for number, request in enumerate(self.asked):
            self._push(request.at, "arrived", number, request.model)
        while self._events:
            self.now, _, kind, number, model = heappop(self._events)
            if kind == "arrived":
                scheduler.arrived(self, number)
            elif kind == "served":
                self.using[model] -= 1
                scheduler.served(self, model)
            elif kind == "loaded":
                del self.loading[number]
                scheduler.loaded(self, model, number)
            scheduler.act(self)
        waited = sorted(self._waited)
        unserved = len(self.asked) - len(waited)
        mean = sum(waited) / max(1, len(waited))
        return Waits(mean, _share(waited, 0.5), _share(waited, 0.99), self.loads, self.load_s, unserved)

    def is_ready(self, model: str) -> bool:
        """Whether the model is loaded and has a slot."""
        return model in self.home and not self.is_loading(model) and self.using[model] < SLOTS

    def is_loading(self, model: str) -> bool:
        """Whether a load of it goes on."""
        return self.loading.get(self.home[model]) == model

    def free_gib(self, card: int) -> float:
        """What is free on the card."""
        return self._free[card]

    def serve(self, number: int) -> None:
        """Serves a request whose model is ready."""
        request = self.asked[number]
        self._waited.append(self.now - request.at)
        self.using[request.model] += 1
        self._push(self.now + request.hold_s, "served", number, request.model)

    def unload(self, model: str) -> None:
        """Ends a model that nobody uses."""
        if self.using[model] or self.is_loading(model):
            raise RuntimeError(f"{model} is in use at {self.now} s")
        self._free[self.home.pop(model)] += self.sizes[model]

    def load(self, model: str, card: int) -> float:
        """Begins a load; when it will be over."""
        self._free[card] -= self.sizes[model]
        if card in self.loading or model in self.home or self._free[card] < -1e-6:
            raise RuntimeError(f"{model} cannot be loaded on card {card} at {self.now} s")
        self.home[model], self.loading[card] = card, model
        took_s = self.cards[card].load_s(self.sizes[model])
        self.loads, self.load_s = self.loads + 1, self.load_s + took_s
        self._push(self.now + took_s, "loaded", card, model)
        return self.now + took_s

    def tick(self, at: float) -> None:
        """Asks for another look at that time."""
        self._push(at, "tick", 0, "")

    def _push(self, at: float, kind: Literal["arrived", "served", "loaded", "tick"], number: int, model: str) -> None:
        self._sequence += 1
        heappush(self._events, (at, self._sequence, kind, number, model))


class InTurn:
    """A peer's rule at work: who finds the model loaded is served, others are helped first come first served.

    What cannot be helped yet is passed over, unless the rule waits in line.
    """

    def __init__(self, rule: Rule) -> None:
        self._rule = rule
        self._waiting: deque[int] = deque()
        self._used_at: dict[str, float] = {}

    def arrived(self, sim: Simulation, number: int) -> None:
        self._rule.used(sim.asked[number].model, sim.now)
        self._waiting.append(number)

    def served(self, sim: Simulation, model: str) -> None:
        self._used_at[model] = sim.now

    def loaded(self, sim: Simulation, model: str, card: int) -> None:
        self._used_at[model] = sim.now

    def act(self, sim: Simulation) -> None:
        self._expire(sim)
        if not self._rule.waits_in_line:
            self._serve(sim)
        still: deque[int] = deque()
        tried: set[str] = set()
        while self._waiting:
            number = self._waiting.popleft()
            model = sim.asked[number].model
            if sim.is_ready(model):
                sim.serve(number)
                continue
            if model not in sim.home and model not in tried and not self._load(sim, model):
                tried.add(model)
                if self._rule.waits_in_line:
                    self._waiting.appendleft(number)
                    break
            still.append(number)
        self._waiting = still + self._waiting

    def _serve(self, sim: Simulation) -> None:
        still: deque[int] = deque()
        for number in self._waiting:
            if sim.is_ready(sim.asked[number].model):
                sim.serve(number)
            else:
                still.append(number)
        self._waiting = still

    def _load(self, sim: Simulation, model: str) -> bool:
        chosen = self._rule.choose(model, self._shelves(sim))
        if chosen is None:
            return False
        number, going = chosen
        for each in going:
            self._unload(sim, each)
        sim.load(model, number)
        return True

    def _unload(self, sim: Simulation, model: str) -> None:
        spec = sim.cards[sim.home[model]]
        sim.unload(model)
        self._rule.gone(model, spec)

    def _expire(self, sim: Simulation) -> None:
        if not math.isinf(self._rule.keep_alive_s):
            before = sim.now - self._rule.keep_alive_s
            for each in [each for each in _idle(sim) if self._used_at[each] < before]:
                self._unload(sim, each)

    def _shelves(self, sim: Simulation) -> list[Shelf]:
        idle = frozenset(_idle(sim))
        shelves = []
        for number, spec in enumerate(sim.cards):
            resident = frozenset(model for model, home in sim.home.items() if home == number)
            can_load = number not in sim.loading
            shelves.append(Shelf(spec, number, resident, resident & idle, sim.free_gib(number), can_load))
        return shelves


def _idle(sim: Simulation) -> Iterable[str]:
    return (model for model in sim.home if not sim.using[model] and not sim.is_loading(model))


def _share(ordered: Sequence[float], share: float) -> float:
    """The value at that share of an ordered list, between two by their distance."""
    place = share * (len(ordered) - 1)
    low = math.floor(place)
    return ordered[low] + (place - low) * (ordered[min(low + 1, len(ordered) - 1)] - ordered[low])
