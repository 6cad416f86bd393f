from __future__ import annotations

from statistics import mean

import pytest

from benchmarks.vram.comparing import PEERS, REFERENCE, TANDEM, Slice, best_peer, thinned, waits
from benchmarks.vram.queueing import SLOTS, InTurn, Simulation, Waits
from benchmarks.vram.tandem import Tandem
from benchmarks.vram.traces import SEEDS, TRACES, CardSpec, Request, fabric, reference, requests, sizes

SIMPLE = ("llama-swap default", "llama-swap, a group per card")
LIGHT = ("LRU", "GreedyDual-Size-Frequency", "llama-swap matrix")


def played(name: str, played: Slice) -> Waits:
    sim = Simulation(*played, fabric())
    return sim.run(Tandem(sim) if name == TANDEM else InTurn(PEERS[name](played)))


@pytest.mark.parametrize("name", SIMPLE)
@pytest.mark.parametrize("trace", TRACES)
def test_waits_and_loads_are_those_of_an_independent_simulator(trace: str, name: str) -> None:
    found = played(name, (requests(trace), sizes(0)))
    for figure, column in ((found.mean_s, "q_mean"), (found.p99_s, "q_p99"), (found.loads, "q_loads")):
        assert figure == pytest.approx(reference(trace, REFERENCE[name], column)[0], rel=0.002)


@pytest.mark.parametrize("name", LIGHT)
def test_rules_that_share_cards_wait_about_as_long_as_an_independent_simulator_found(name: str) -> None:
    found = [played(name, (requests("servegen"), sizes(seed))).mean_s for seed in (0, 1)]
    assert mean(found) == pytest.approx(mean(reference("servegen", REFERENCE[name], "q_mean")[:2]), rel=0.05)


@pytest.mark.parametrize("trace", TRACES)
def test_with_tandem_requests_wait_no_longer_than_with_the_best_peer(trace: str) -> None:
    slices = [(requests(trace), sizes(seed)) for seed in SEEDS]
    found = {name: [played(name, each) for each in slices] for name in (TANDEM, *LIGHT)}
    means = {name: [each.mean_s for each in runs] for name, runs in found.items()}
    p99s = {name: [each.p99_s for each in runs] for name, runs in found.items()}
    assert sum(each.unserved for each in found[TANDEM]) == 0
    assert mean(means[TANDEM]) <= 1.05 * best_peer(means)
    assert mean(p99s[TANDEM]) <= 1.15 * best_peer(p99s)


def test_on_another_slice_it_is_no_different() -> None:
    found = waits([thinned(requests("azure23"), sizes(0), 7)])
    assert found[TANDEM][0].unserved == 0
    assert found[TANDEM][0].mean_s <= 1.05 * min(found[name][0].mean_s for name in LIGHT)


CARDS = (CardSpec("one", 10.0, 1.0, 0.0),)
SIZES = {"a": 6.0, "b": 6.0}


def alone(*asked: Request) -> Waits:
    sim = Simulation(asked, SIZES, CARDS)
    return sim.run(Tandem(sim))


def test_requests_of_one_model_share_a_load_and_those_of_another_follow() -> None:
    found = alone(*(Request(float(n), "ab"[n % 2], 1.0) for n in range(4)))
    assert found.loads == 2
    assert found.unserved == 0


def test_a_model_serves_so_many_at_a_time_and_no_more() -> None:
    found = alone(*(Request(0.0, "a", 10.0) for _ in range(SLOTS + 1)))
    assert found.p50_s == 6.0
    assert found.mean_s == pytest.approx((SLOTS * 6.0 + 16.0) / (SLOTS + 1))


def test_a_model_that_is_never_idle_makes_way_for_one_that_has_waited_a_minute() -> None:
    steady = [Request(float(n), "a", 5.0) for n in range(300)]
    found = alone(*steady[:10], Request(9.5, "b", 1.0), *steady[10:])
    assert found.loads == 3
    assert found.unserved == 0
