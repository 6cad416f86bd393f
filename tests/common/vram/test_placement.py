from __future__ import annotations

import time
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.api.decisions import PlanLease, Victim
from common.api.leases import AcquireLease
from common.errors import NoCapacity, NotFound, TooLarge
from common.vram.amount import GIB
from common.vram.placement import (
    EXPLAINED,
    KEPT,
    NOT_ASKED,
    PIN_FRACTION,
    SHARED,
    TAKEN,
    Candidate,
    Wish,
    choose,
    lease_plan,
    pick,
    picks,
    refusal,
)


def card(host: str, index: int, free: float, most: float = 24, problem: str = "") -> Candidate:
    return Candidate(host, index, f"GPU-{host}-{index}", int(free * GIB), int(most * GIB), problem)


def wish(need: float, host: str = "", card_uuid: str = "") -> Wish:
    return Wish("whisper-large", int(need * GIB), host, card_uuid)


BIG, SMALL = card("mainpc", 0, 20), card("pc2", 0, 11, 12)


def test_the_tightest_fit_is_chosen() -> None:
    assert pick(wish(10), [BIG, SMALL]) is SMALL
    assert pick(wish(11.5), [BIG, SMALL]) is BIG
    assert pick(wish(21), [BIG, SMALL]) is None


def test_ties_go_to_the_first_host_and_then_the_first_card() -> None:
    cards = [card("pc2", 0, 8), card("mainpc", 1, 8), card("mainpc", 0, 8)]
    assert pick(wish(5), cards) is cards[2]
    assert pick(wish(5), cards[:2]) is cards[1]


def test_a_named_host_or_card_shuts_out_the_others() -> None:
    assert pick(wish(10, host="mainpc"), [BIG, SMALL]) is BIG
    assert pick(wish(10, card_uuid="GPU-mainpc-0"), [BIG, SMALL]) is BIG
    assert pick(wish(10, host="pc2", card_uuid="GPU-mainpc-0"), [BIG, SMALL]) is None


def test_a_closed_or_kept_card_takes_nothing() -> None:
    closed = card("pc2", 0, 11, 12, "NVML is gone")
    assert pick(wish(10), [closed]) is None
    assert pick(wish(10), [SMALL], {SMALL.uuid}) is None


def test_a_grant_explains_every_card() -> None:
    choice = choose(wish(10), [BIG, SMALL, card("pc2", 1, 2)])
    assert (choice.outcome, choice.card, choice.free_bytes) == ("grant", SMALL, 11 * GIB)
    assert choice.reason == "whisper-large needs 10.0 GiB; the tightest fit is pc2:0"
    assert [(verdict.feasible, verdict.reason) for verdict in choice.verdicts] == [
        (True, "fits, 10.0 GiB to spare"),
        (True, "fits, 1.0 GiB to spare"),
        (False, "2.0 GiB free, 10.0 GiB needed"),
    ]


def test_on_many_cards_a_grant_explains_only_the_card_it_chose() -> None:
    choice = choose(wish(10), [card("mainpc", n, 11 + n) for n in range(EXPLAINED + 1)])
    assert [verdict.card for verdict in choice.verdicts] == [0]


def test_a_card_of_unknown_size_says_why_it_is_unknown() -> None:
    taken = msgspec.structs.replace(card("mainpc", 0, 0, 0), problem="owned by pc2 (pid 7)")
    assert choose(wish(10), [taken]).verdicts[0].reason == "owned by pc2 (pid 7)"


def test_what_fits_an_empty_card_but_not_now_waits_and_says_what_is_free() -> None:
    choice = choose(wish(10), [card("mainpc", 0, 3.2), card("mainpc", 1, 5, 6)])
    assert (choice.outcome, choice.card, choice.free_bytes) == ("wait", None, int(3.2 * GIB))
    assert choice.reason == "whisper-large needs 10.0 GiB; 3.2 GiB free on mainpc:0"
    assert choice.verdicts[1].reason == "gives 6.0 GiB at most, 10.0 GiB needed"
    error = refusal(wish(10), choice, 250, position=3)
    assert isinstance(error, NoCapacity)
    assert (error.retry_after_ms, error.details["position"], error.details["need_bytes"]) == (250, 3, 10 * GIB)
    assert error.details["cards"][0]["reason"] == "3.2 GiB free, 10.0 GiB needed"


def test_a_request_for_all_that_a_card_has_waits_for_it() -> None:
    assert choose(wish(24), [card("pc2", 0, 4, most=24)]).outcome == "wait"
    assert choose(wish(24), [card("pc2", 0, 24, most=24)]).outcome == "grant"


def test_a_card_that_has_nothing_to_grant_at_all_takes_nothing() -> None:
    choice = choose(wish(1), [card("pc2", 0, 0, most=0)])
    assert [verdict.reason for verdict in choice.verdicts] == ["gives 0.0 GiB at most, 1.0 GiB needed"]


def test_what_no_card_in_question_could_ever_hold_is_refused_for_good() -> None:
    choice = choose(wish(23, host="pc2"), [BIG, SMALL])
    assert choice.outcome == "never"
    assert choice.reason == "whisper-large needs 23.0 GiB; the largest card in question, pc2:0, gives 12.0 GiB at most"
    assert choice.verdicts[0].reason == NOT_ASKED
    assert isinstance(refusal(wish(23, host="pc2"), choice), TooLarge)


@pytest.mark.parametrize(
    ("asked", "text"),
    [
        (wish(1, host="pc9"), "there is no card on pc9"),
        (wish(1, card_uuid="GPU-x"), "there is no card GPU-x"),
        (wish(1, host="pc9", card_uuid="GPU-x"), "there is no card GPU-x on pc9"),
    ],
)
def test_a_card_that_does_not_exist_is_not_found(asked: Wish, text: str) -> None:
    choice = choose(asked, [BIG])
    assert choice.outcome == "never"
    assert choice.reason.endswith(text)
    assert isinstance(refusal(asked, choice), NotFound)


def test_while_a_host_in_question_is_missing_nothing_is_refused_for_good() -> None:
    missing = {"pc2": "link down"}
    choice = choose(wish(23), [card("mainpc", 0, 5, 8)], missing=missing)
    assert (choice.outcome, choice.reason) == ("wait", "whisper-large needs 23.0 GiB; pc2: link down")
    assert choose(wish(23, host="mainpc"), [card("mainpc", 0, 5, 8)], missing=missing).outcome == "never"


def test_a_closed_card_that_could_hold_it_gives_its_reason() -> None:
    choice = choose(wish(10), [card("mainpc", 0, 0, problem="last measured 9.0 s ago")])
    assert choice.outcome == "wait"
    assert choice.reason.endswith("0.0 GiB free on mainpc:0 (last measured 9.0 s ago)")
    assert choice.verdicts[0].reason == "last measured 9.0 s ago"


def test_a_kept_card_says_that_it_is_kept() -> None:
    choice = choose(wish(10), [BIG], {BIG.uuid})
    assert choice.reason.endswith(f"({KEPT})")
    assert choice.verdicts[0].reason == KEPT


def test_a_plan_says_what_would_happen() -> None:
    granted = lease_plan(wish(10), choose(wish(10), [BIG, SMALL]))
    assert (granted.outcome, granted.host, granted.card_uuid) == ("grant", "pc2", SMALL.uuid)
    waiting = lease_plan(wish(22), choose(wish(22), [BIG, SMALL]))
    assert (waiting.outcome, waiting.host, waiting.card_uuid, waiting.free_bytes) == ("wait", "", "", 20 * GIB)


cards = st.lists(
    st.builds(
        card,
        st.sampled_from(["mainpc", "pc2"]),
        st.integers(0, 7),
        st.floats(0, 24),
        st.just(24),
        st.sampled_from(["", "", "gone"]),
    ),
    max_size=8,
)


@given(cards, st.floats(0, 30), st.sampled_from(["", "mainpc", "pc2"]))
def test_the_choice_is_feasible_and_none_is_tighter(found: list[Candidate], need: float, host: str) -> None:
    asked = wish(need, host)
    fits = [
        each for each in found if asked.names(each) and not each.problem and each.grantable_bytes >= asked.need_bytes
    ]
    choice = choose(asked, found)
    assert (choice.card is not None) == bool(fits)
    if choice.card is not None:
        assert choice.card in fits
        assert choice.card.grantable_bytes == min(each.grantable_bytes for each in fits)
    assert all(verdict.feasible == (not verdict.reason or "to spare" in verdict.reason) for verdict in choice.verdicts)


def test_sixteen_cards_are_decided_in_microseconds() -> None:
    found = [card("mainpc", n, 10 + n) for n in range(16)]
    asked = wish(12)
    began = time.process_time()
    for _ in range(2_000):
        pick(asked, found)
    assert (time.process_time() - began) / 2_000 < 2e-3


def several(need: float, cards: int = 2, **more: Any) -> Wish:
    return Wish("whisper-large", int(need * GIB), cards=cards, **more)


def test_several_cards_are_taken_on_one_host_or_none() -> None:
    cards = [card("mainpc", 0, 20), card("mainpc", 1, 12), card("mainpc", 2, 15), card("pc2", 0, 11)]
    assert [each.label for each in picks(several(10), cards)] == ["mainpc:1", "mainpc:2"]
    assert pick(several(10), cards) is cards[1]
    assert picks(several(16), cards) == ()
    assert pick(several(10, 4), cards) is None
    assert [each.index for each in picks(several(10, card_uuid="GPU-mainpc-0"), cards)] == [0, 1]
    assert picks(several(10, card_uuid="GPU-pc2-0"), cards) == ()
    assert picks(several(10, host="pc2"), cards) == ()


def test_of_hosts_with_enough_cards_the_one_with_the_least_free_is_taken() -> None:
    cards = [card("mainpc", 0, 20), card("mainpc", 1, 20), card("pc2", 0, 12), card("pc2", 1, 12)]
    choice = choose(several(10), cards)
    assert [each.host for each in choice.cards] == ["pc2", "pc2"]
    assert choice.reason == "whisper-large needs 10.0 GiB on each of 2 cards; the tightest fit is pc2:0, pc2:1"


def test_several_cards_wait_where_a_host_has_them_and_are_refused_for_good_where_none_has() -> None:
    cards = [card("mainpc", 0, 2), card("mainpc", 1, 20), card("pc2", 0, 20)]
    assert choose(several(10), cards).outcome == "wait"
    assert choose(several(10, card_uuid="GPU-mainpc-0"), cards).outcome == "wait"
    never = choose(several(10, 3), cards)
    assert never.outcome == "never"
    assert never.reason.endswith("of the cards in question 3 could give that, and not enough of them on one host")
    assert isinstance(refusal(several(10, 3), never), TooLarge)
    assert choose(several(10, card_uuid="GPU-pc2-0"), cards).outcome == "never"


def test_a_card_with_leases_is_not_given_alone_and_one_given_alone_not_at_all() -> None:
    taken = Candidate("mainpc", 0, "GPU-0", 20 * GIB, 24 * GIB, leases=1, exclusive=True)
    shared = Candidate("mainpc", 1, "GPU-1", 20 * GIB, 24 * GIB, leases=1)
    alone = Wish("whisper-large", GIB, exclusive=True)
    assert pick(alone, [taken, shared]) is None
    assert pick(wish(1), [taken, shared]) is shared
    choice = choose(alone, [taken, shared])
    assert [each.reason for each in choice.verdicts] == [TAKEN, SHARED]
    assert choice.reason.endswith(f"20.0 GiB free on mainpc:0 ({TAKEN})")


def test_pinned_leases_stay_within_their_share_of_a_card() -> None:
    most = int(24 * GIB * PIN_FRACTION)
    found = Candidate("mainpc", 0, "GPU-0", 20 * GIB, 24 * GIB, leases=1, pinned_bytes=10 * GIB)
    pinned = Wish("whisper-large", most - 10 * GIB, pinned=True)
    assert pick(pinned, [found]) is found
    more = Wish("whisper-large", most - 10 * GIB + 1, pinned=True)
    assert pick(more, [found]) is None
    assert "10.0 GiB are pinned already" in choose(more, [found]).reason
    assert choose(Wish("whisper-large", most + 1, pinned=True), [found]).outcome == "never"


def test_a_host_that_can_never_take_it_gives_its_reason() -> None:
    barred = {"pc2": "it lacks /models/w.gguf"}
    choice = choose(wish(10), [BIG, SMALL], barred=barred)
    assert choice.card is BIG
    assert choice.verdicts[1].reason == "it lacks /models/w.gguf"
    never = choose(wish(10, host="pc2"), [BIG, SMALL], barred=barred, missing={"pc2": "link down"})
    assert (never.outcome, never.reason) == ("never", "whisper-large needs 10.0 GiB; pc2: it lacks /models/w.gguf")
    assert isinstance(refusal(wish(10, host="pc2"), never), NotFound)


def test_a_refusal_tells_what_evictions_were_weighed() -> None:
    victim = Victim(
        lease_id="l", model="m", bytes=1, priority=50, idle_s=1, want=0.5, load_s=1, price=2.0, chosen=False
    )
    choice = msgspec.structs.replace(choose(wish(22), [BIG]), victims=[victim])
    assert refusal(wish(22), choice).details["victims"][0]["price"] == 2.0
    assert lease_plan(wish(22), choice, 7.0).load_s == 7.0


def test_what_is_asked_for_is_what_is_placed() -> None:
    asked = AcquireLease(model="m", bytes=5, host="pc2", card_uuid="GPU-x", cards=2, exclusive=True, pinned=True)
    assert Wish.of(asked) == Wish("m", 5, "pc2", "GPU-x", 2, True, True)
    assert Wish.of(PlanLease(model="m", bytes=5)) == Wish("m", 5)
