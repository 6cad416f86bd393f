from __future__ import annotations

from statistics import mean

import pytest

from benchmarks.vram.comparing import PEERS, REFERENCE, TANDEM, reloads, thinned
from benchmarks.vram.reloading import reload_s, tandem_reload_s
from benchmarks.vram.traces import NEAR_OPTIMAL, SEEDS, TRACES, fabric, reference, requests, sizes

EXACT = {"llama-swap default": 0.001, "llama-swap, a group per card": 0.001, "LRU": 0.003}
CLOSE = {"Ollama's rule": 0.07, "llama-swap matrix": 0.1, "GreedyDual-Size-Frequency": 0.07}


@pytest.mark.parametrize("trace", TRACES)
@pytest.mark.parametrize("name", PEERS)
def test_a_peers_rule_reloads_as_much_as_an_independent_simulator_found(trace: str, name: str) -> None:
    seeds = SEEDS[:2] if name in EXACT else SEEDS
    found = [reload_s(requests(trace), PEERS[name]((requests(trace), sizes(seed))), fabric()) for seed in seeds]
    known = reference(trace, REFERENCE[name], "l1_reload_s")[: len(seeds)]
    if name in EXACT:
        assert found == pytest.approx(known, rel=EXACT[name])
    else:
        assert mean(found) == pytest.approx(mean(known), rel=CLOSE[name])


@pytest.mark.parametrize(("trace", "bound"), [("azure23", 1.26), ("servegen", 1.29)])
def test_tandem_reloads_little_more_than_one_who_knows_the_future(trace: str, bound: float) -> None:
    optimal = reference(trace, NEAR_OPTIMAL, "l1_reload_s")
    found = [tandem_reload_s(requests(trace), sizes(seed), fabric()) for seed in SEEDS]
    assert 1.0 < mean(spent / best for spent, best in zip(found, optimal, strict=True)) <= bound


@pytest.mark.parametrize("trace", TRACES)
def test_on_other_slices_tandem_reloads_no_more_than_any_peer(trace: str) -> None:
    found = reloads([thinned(requests(trace), sizes(0), seed) for seed in range(10, 13)])
    assert mean(found[TANDEM]) < min(mean(found[name]) for name in PEERS)


def test_the_same_requests_are_decided_alike() -> None:
    first, second = (tandem_reload_s(requests("azure23"), sizes(3), fabric()) for _ in range(2))
    assert first == second
