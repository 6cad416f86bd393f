from __future__ import annotations

from common.supervisor.leasing.settling import Settling
from common.vram.placement import Candidate

CARDS = [Candidate("mainpc", 0, "GPU-a", 10, 20), Candidate("mainpc", 1, "GPU-b", 5, 10)]


def figures(cards: list[Candidate]) -> list[int]:
    return [card.grantable_bytes for card in cards]


def test_what_just_ended_is_hoped_for_and_not_sure() -> None:
    settling = Settling()
    settling.ended("GPU-a", 4, 1.0)
    settling.ended("GPU-a", 4, 2.0)
    assert settling
    assert [settling.concerns(card.uuid) for card in CARDS] == [True, False]
    assert figures(settling.sure(CARDS)) == [2, 5]
    assert figures(settling.hoped(CARDS)) == [18, 5]
    assert settling.unsure(CARDS, 3) == {"GPU-a"}
    assert settling.unsure(CARDS, 2) == settling.unsure(CARDS, 11) == frozenset()


def test_no_figure_leaves_the_card() -> None:
    settling = Settling()
    settling.ended("GPU-b", 15, 1.0)
    assert figures(settling.sure(CARDS)) == [10, 0]
    assert figures(settling.hoped(CARDS)) == [10, 10]


def test_only_a_look_that_began_later_settles_an_end() -> None:
    settling = Settling()
    settling.ended("GPU-a", 4, 2.0)
    settling.looked(1.9)
    settling.looked(2.0)
    assert settling
    settling.looked(2.1)
    assert not settling
