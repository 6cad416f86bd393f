from __future__ import annotations

import msgspec

from common.vram.amount import GIB
from common.vram.placement import Candidate
from common.vram.ranking import Ranked, Site, rank
from tests.common.vram.test_eviction import resident

H = 600.0


def site(index: int, free_gib: float, *residents: object, queued_load_s: float = 0.0) -> Site:
    card = Candidate("mainpc", index, f"GPU-{index}", int(free_gib * GIB), 24 * GIB)
    return Site(card, residents, queued_load_s)  # type: ignore[arg-type]


def order(*sites: Site, need_gib: float = 4.0) -> list[int]:
    ranked = rank(int(need_gib * GIB), sites, 50, H)
    assert ranked == rank(int(need_gib * GIB), sites[::-1], 50, H)
    return [each.site.card.index for each in ranked]


def first(*sites: Site, need_gib: float = 4.0) -> Ranked:
    return rank(int(need_gib * GIB), sites, 50, H)[0]


def test_the_tightest_fit_comes_first() -> None:
    assert order(site(0, 20), site(1, 5), site(2, 8)) == [1, 2, 0]


def test_room_beside_an_idle_loader_comes_before_a_tighter_fit_that_has_to_wait() -> None:
    assert order(site(0, 5, queued_load_s=3), site(1, 20)) == [1, 0]


def test_a_card_that_all_share_comes_before_one_that_was_anothers_alone() -> None:
    alone = msgspec.structs.replace(site(0, 5).card, exclusive=True)
    assert order(Site(alone), site(1, 20)) == [1, 0]
    assert order(Site(alone), site(1, 0, resident("a"))) == [0, 1]


def test_room_comes_before_an_eviction() -> None:
    assert order(site(0, 0, resident("a")), site(1, 20)) == [1, 0]


def test_evicting_what_nobody_wants_comes_before_waiting_for_a_long_queue() -> None:
    assert order(site(0, 20, queued_load_s=30), site(1, 0, resident("forgotten", gap_s=7_000))) == [1, 0]


def test_several_that_nobody_wants_go_before_one_that_is_wanted() -> None:
    many = [resident(name, 1, gap_s=1_000, load_s=1) for name in "abcdefgh"]
    one = resident("wanted", 8, gap_s=30)
    assert order(site(0, 0, *many), site(1, 0, one), need_gib=8) == [0, 1]


def test_the_card_that_can_never_take_it_comes_last_with_the_reason() -> None:
    hopeless = site(0, 0, resident("pinned", pinned=True))
    ranked = rank(4 * GIB, [hopeless, site(1, 0, resident("a"))], 50, H)
    assert [each.possible for each in ranked] == [True, False]
    assert ranked[1].verdict.reason == "4.0 GiB more needed; 0.0 GiB could be had by evictions"
    assert not ranked[1].verdict.feasible


def test_a_verdict_says_what_would_go_and_at_what_price() -> None:
    verdict = first(site(0, 1, resident("a"), queued_load_s=2)).verdict
    assert verdict.feasible
    assert [victim.model for victim in verdict.victims] == ["a"]
    assert verdict.price == verdict.victims[0].price > 0
    assert verdict.reason == "a (4.0 GiB) would go, 2.5 s of loading lost, 2 s of loading are queued"


def test_a_verdict_of_a_card_with_room_names_no_victims() -> None:
    verdict = first(site(0, 5, resident("a"))).verdict
    assert (verdict.reason, verdict.victims, verdict.price) == ("fits, 1.0 GiB to spare", [], 0.0)
