from __future__ import annotations

from benchmarks.vram.placing import allocated, nodes, pods


def test_the_trace_has_its_nodes_and_pods() -> None:
    assert len(nodes()) == 1_213
    assert sum(nodes()) == 6_212
    assert {count for count, _ in pods()} == {1, 2, 4, 8}


def test_a_tenth_of_the_cluster_is_filled_about_as_well_as_the_whole() -> None:
    assert 0.94 < allocated(0, share=0.1) <= 1.0
