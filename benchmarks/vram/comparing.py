"""All rules side by side on one trace, over the permutations of the models' sizes: what `make bench` and its tests show."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from random import Random
from statistics import mean
from typing import Final

from benchmarks.result import Figure
from benchmarks.vram.peers import (
    GreedyDualSizeFrequency,
    LeastRecentlyUsed,
    Matrix,
    Ollama,
    OneByOne,
    Rule,
    group_per_card,
    one_group,
)
from benchmarks.vram.queueing import InTurn, Simulation, Waits
from benchmarks.vram.reloading import reload_s, tandem_reload_s
from benchmarks.vram.tandem import Tandem
from benchmarks.vram.traces import Request, fabric

Slice = tuple[Sequence[Request], Mapping[str, float]]
"""Requests, and GiB of each model."""

TANDEM: Final = "Tandem"
PEERS: Final[dict[str, Callable[[Slice], Rule]]] = {
    "Ollama's rule": lambda played: Ollama(played[1]),
    "llama-swap default": lambda played: OneByOne(played[1], one_group(played[1])),
    "llama-swap, a group per card": lambda played: OneByOne(played[1], group_per_card(played[1], played[0], fabric())),
    "llama-swap matrix": lambda played: Matrix(played[1]),
    "LRU": lambda played: LeastRecentlyUsed(played[1]),
    "GreedyDual-Size-Frequency": lambda played: GreedyDualSizeFrequency(played[1]),
}
REFERENCE: Final = {
    "Ollama's rule": "Ollama (as coded)",
    "llama-swap default": "llama-swap default (1 model)",
    "llama-swap, a group per card": "llama-swap group/GPU",
    "llama-swap matrix": "llama-swap matrix, free GPU (ideal)",
    "LRU": "LRU",
    "GreedyDual-Size-Frequency": "GDSF",
}
"""How the reference results call the rules."""


def reloads(slices: Sequence[Slice]) -> dict[str, list[float]]:
    """Seconds of loading by rule, one for each slice."""
    found = {name: [reload_s(each[0], made(each), fabric()) for each in slices] for name, made in PEERS.items()}
    return found | {TANDEM: [tandem_reload_s(*each, fabric()) for each in slices]}


def waits(slices: Sequence[Slice]) -> dict[str, list[Waits]]:
    """How long requests wait by rule, one for each slice."""
    found = {name: [_played(each, made(each)) for each in slices] for name, made in PEERS.items()}
    return found | {TANDEM: [_played(each, None) for each in slices]}


def thinned(asked: Sequence[Request], sizes: Mapping[str, float], seed: int) -> Slice:
    """Another slice of the same kind: every other request by chance, and the sizes dealt anew."""
    rng = Random(seed)
    kept = [request for request in asked if rng.random() < 0.5]
    dealt = sorted(sizes.values())
    rng.shuffle(dealt)
    return kept, dict(zip(sorted(sizes), dealt, strict=True))


def best_peer(found: Mapping[str, Sequence[float]]) -> float:
    """The least mean of all rules but ours."""
    return min(mean(values) for name, values in found.items() if name != TANDEM)


def figure(name: str, unit: str, values: Sequence[float]) -> Figure:
    """The mean over the slices, as the reference results have it, with the least and the most."""
    return Figure(name, unit, mean(values), min(values), max(values))


def _played(played: Slice, rule: Rule | None) -> Waits:
    sim = Simulation(*played, fabric())
    return sim.run(Tandem(sim) if rule is None else InTurn(rule))
