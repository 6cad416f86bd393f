"""How others decide what goes for a model that is asked for, written from the descriptions of their rules.

A rule sees the cards that may load now and, on each, the models that nobody uses. It names the card and the models that
go, or nothing when it has to wait.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

from benchmarks.vram.traces import CardSpec, Request

ROUNDING = 1e-9
FIT = 0.8
"""Ollama loads beside others where this share of what is free is enough."""


@dataclass(frozen=True, slots=True)
class Shelf:
    """A card as a rule sees it: what is on it, and which of that nobody uses."""

    spec: CardSpec
    number: int
    resident: frozenset[str]
    idle: frozenset[str]
    free_gib: float
    can_load: bool = True


Chosen = tuple[int, Sequence[str]]


class Rule:
    """What all rules have; `waits_in_line` says that nothing is served past a request that waits for memory."""

    waits_in_line = False
    keep_alive_s = float("inf")

    def __init__(self, sizes: Mapping[str, float]) -> None:
        self.sizes = sizes

    def used(self, model: str, now: float) -> None:
        """The model was asked for."""

    def gone(self, model: str, spec: CardSpec) -> None:
        """The model was evicted."""

    def choose(self, model: str, shelves: Sequence[Shelf]) -> Chosen | None:
        """The card for the model and who goes there first."""
        raise NotImplementedError


class OneByOne(Rule):
    """llama-swap: each model belongs to a group, and a group has one model loaded at a time (`swap: true`)."""

    def __init__(self, sizes: Mapping[str, float], groups: Mapping[str, int]) -> None:
        super().__init__(sizes)
        self._groups = groups

    def choose(self, model: str, shelves: Sequence[Shelf]) -> Chosen | None:
        shelf = shelves[self._groups[model]]
        ready = shelf.can_load and shelf.idle == shelf.resident
        return (shelf.number, sorted(shelf.resident)) if ready else None


def one_group(sizes: Mapping[str, float]) -> dict[str, int]:
    """llama-swap as it comes: one model at a time, on the larger card."""
    return dict.fromkeys(sizes, 0)


def group_per_card(sizes: Mapping[str, float], asked: Iterable[Request], cards: Sequence[CardSpec]) -> dict[str, int]:
    """A group for each card, the models dealt out so that each is asked for about as often; the large go where they fit."""
    counts = Counter(request.model for request in asked)
    load = [0] * len(cards)
    groups = {}
    for model in sorted(counts, key=lambda each: (_homes(sizes[each], cards), -counts[each])):
        groups[model] = min((n for n, card in enumerate(cards) if sizes[model] <= card.gib), key=load.__getitem__)
        load[groups[model]] += counts[model]
    return groups


class Priced(Rule):
    """Evicts the cheapest until the model fits, on the card whose dearest victim is cheapest."""

    puts_back = False

    def price(self, model: str, spec: CardSpec) -> float:
        """What the model's staying is worth; the least goes first."""
        raise NotImplementedError

    def choose(self, model: str, shelves: Sequence[Shelf]) -> Chosen | None:
        need = self.sizes[model]
        offers = [offer for shelf in shelves if shelf.can_load and (offer := self._offer(need, shelf)) is not None]
        return min(offers)[2:] if offers else None

    def _offer(self, need: float, shelf: Shelf) -> tuple[bool, float, int, list[str]] | None:
        missing = need - shelf.free_gib - ROUNDING
        if missing <= 0:
            return False, -missing, shelf.number, []
        going: list[tuple[float, str]] = []
        for each in sorted((self.price(model, shelf.spec), model) for model in shelf.idle):
            if missing <= 0:
                break
            going.append(each)
            missing -= self.sizes[each[1]]
        if missing > 0:
            return None
        needed = []
        for price, model in reversed(going):
            if self.puts_back and missing + self.sizes[model] <= 0:
                missing += self.sizes[model]
            else:
                needed.append((price, model))
        return True, needed[0][0], shelf.number, [model for _, model in reversed(needed)]


class LeastRecentlyUsed(Priced):
    """LRU: who was asked for longest ago goes first; who turns out not to be needed stays."""

    puts_back = True

    def __init__(self, sizes: Mapping[str, float]) -> None:
        super().__init__(sizes)
        self._used_at: dict[str, float] = {}

    def used(self, model: str, now: float) -> None:
        self._used_at[model] = now

    def price(self, model: str, spec: CardSpec) -> float:
        return self._used_at[model]


class GreedyDualSizeFrequency(Priced):
    """GDSF (Cherkasova, HP Labs 1998): inflation when last used + times used x seconds of load / size."""

    def __init__(self, sizes: Mapping[str, float]) -> None:
        super().__init__(sizes)
        self._times: Counter[str] = Counter()
        self._base: dict[str, float] = {}
        self._inflation = 0.0

    def used(self, model: str, now: float) -> None:
        self._times[model] += 1
        self._base[model] = self._inflation

    def gone(self, model: str, spec: CardSpec) -> None:
        self._inflation = max(self._inflation, self.price(model, spec))

    def price(self, model: str, spec: CardSpec) -> float:
        gib = self.sizes[model]
        return self._base[model] + self._times[model] * spec.load_s(gib) / gib


class Matrix(Rule):
    """llama-swap's matrix with every set that fits declared: as few as possible go, of those the ones loaded longest ago."""

    def __init__(self, sizes: Mapping[str, float]) -> None:
        super().__init__(sizes)
        self._order: dict[str, int] = {}

    def choose(self, model: str, shelves: Sequence[Shelf]) -> Chosen | None:
        offers = [offer for shelf in shelves if shelf.can_load for offer in self._offers(self.sizes[model], shelf)]
        if not offers:
            return None
        _, _, number, going = min(offers)
        self._order.pop(model, None)
        self._order[model] = max(self._order.values(), default=0) + 1
        return number, going

    def _offers(self, need: float, shelf: Shelf) -> Iterator[tuple[int, int, int, tuple[str, ...]]]:
        for count in range(len(shelf.idle) + 1):
            fitting = [
                going
                for going in combinations(sorted(shelf.idle), count)
                if shelf.free_gib + sum(self.sizes[each] for each in going) + ROUNDING >= need
            ]
            if fitting:
                yield from (
                    (count, max((self._order[each] for each in going), default=0), shelf.number, going)
                    for going in fitting
                )
                return


class Ollama(Rule):
    """Ollama's scheduler: one request after the other; what is idle goes in a fixed order, whichever card it is on.

    A model goes where it finds room within FIT of what is free, or a card to itself; one unused for five minutes goes.
    """

    waits_in_line = True
    keep_alive_s = 300.0

    def __init__(self, sizes: Mapping[str, float]) -> None:
        super().__init__(sizes)
        self._loaded: dict[str, None] = {}

    def gone(self, model: str, spec: CardSpec) -> None:
        del self._loaded[model]

    def choose(self, model: str, shelves: Sequence[Shelf]) -> Chosen | None:
        need, going = self.sizes[model], list[str]()
        able = [shelf for shelf in shelves if need <= shelf.spec.gib]
        idle = frozenset[str]().union(*(shelf.idle for shelf in able))
        for victim in (None, *(each for each in self._loaded if each in idle)):
            going += [victim] if victim else []
            free = {shelf: _freed(shelf, going, self.sizes) for shelf in able if shelf.can_load}
            fitting = [s for s in free if need <= FIT * free[s] + ROUNDING or s.resident <= set(going)]
            if fitting:
                self._loaded[model] = None
                return max(fitting, key=lambda shelf: (free[shelf], -shelf.number)).number, going
        return None


def _freed(shelf: Shelf, going: Iterable[str], sizes: Mapping[str, float]) -> float:
    return shelf.free_gib + sum(sizes[each] for each in going if each in shelf.resident)


def _homes(gib: float, cards: Sequence[CardSpec]) -> int:
    return sum(gib <= card.gib for card in cards)
