"""Residency alone: each request is served at once, and what counts is the seconds spent loading.

Nothing is in use when the next request comes, so a rule may evict what it likes; what differs between rules is only what
they keep. The figure of a schedule that knows the future is in the traces' reference results.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

from benchmarks.vram.peers import Rule, Shelf
from benchmarks.vram.traces import CardSpec, Request
from common.vram.amount import GIB
from common.vram.demand import Demand, Horizon, ModelKey
from common.vram.placement import Candidate, Wish
from common.vram.priced_cards import Tenant
from common.vram.residency import Residency


def reload_s(asked: Iterable[Request], rule: Rule, cards: Sequence[CardSpec]) -> float:
    """Seconds that the rule spends loading on these requests."""
    on: list[dict[str, float]] = [{} for _ in cards]
    spent = 0.0
    for request in asked:
        _expire(on, request.at - rule.keep_alive_s, rule, cards)
        rule.used(request.model, request.at)
        home = next((models for models in on if request.model in models), None)
        if home is None:
            number, going = _chosen(rule, request.model, on, cards)
            for models, spec in zip(on, cards, strict=True):
                for each in going:
                    if models.pop(each, None) is not None:
                        rule.gone(each, spec)
            home = on[number]
            spent += cards[number].load_s(rule.sizes[request.model])
        home[request.model] = request.at
    return spent


def tandem_reload_s(asked: Iterable[Request], sizes: Mapping[str, float], cards: Sequence[CardSpec]) -> float:
    """Seconds that Tandem's own decisions spend loading on these requests."""
    residency = Residency(Demand(), Horizon())
    free = [int(card.gib * GIB) for card in cards]
    spent = 0.0
    for number in range(len(cards)):
        residency.see(_candidate(number, free, cards))
    for request in asked:
        key = ModelKey(request.model)
        residency.used(key, request.at)
        if any(residency.homes(key)):
            continue
        need = math.floor(sizes[request.model] * GIB)
        room = residency.room(Wish(request.model, need), 50, request.at)
        assert room is not None, "on these traces every model fits on some empty card"
        number, load_s = room.card.index, cards[room.card.index].load_s(sizes[request.model])
        for lease_id in room.victims:
            residency.evict(room.card.uuid, lease_id, request.at)
            residency.drop(room.card.uuid, lease_id)
            free[number] += math.floor(sizes[lease_id] * GIB)
        free[number] -= need
        residency.put(room.card.uuid, Tenant(request.model, key, need, 50, load_s))
        residency.see(_candidate(number, free, cards))
        spent += load_s
    return spent


def _candidate(number: int, free: Sequence[int], cards: Sequence[CardSpec]) -> Candidate:
    return Candidate(cards[number].host, number, f"card{number}", free[number], int(cards[number].gib * GIB))


def _chosen(
    rule: Rule, model: str, on: Sequence[Mapping[str, float]], cards: Sequence[CardSpec]
) -> tuple[int, Sequence[str]]:
    shelves = [
        Shelf(spec, number, frozenset(models), frozenset(models), spec.gib - sum(rule.sizes[each] for each in models))
        for number, (models, spec) in enumerate(zip(on, cards, strict=True))
    ]
    chosen = rule.choose(model, shelves)
    assert chosen is not None, "nothing is in use, so there is always somebody who can go"
    return chosen


def _expire(on: Iterable[dict[str, float]], before: float, rule: Rule, cards: Iterable[CardSpec]) -> None:
    for models, spec in zip(on, cards, strict=True):
        for each in [model for model, used_at in models.items() if used_at < before]:
            del models[each]
            rule.gone(each, spec)
