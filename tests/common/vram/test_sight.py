from __future__ import annotations

from typing import Any

from common.vram.amount import GIB, MIB
from common.vram.cards import UNKNOWN_START, CardSample, ProcessId, ProcessUse
from common.vram.ladder import Looked
from common.vram.sight import Sight

OWNER = ProcessId(7, 77)


def card(*uses: ProcessUse, nameless: int = 0, **fields: Any) -> list[CardSample]:
    used = sum(use.used_bytes or 0 for use in uses) + nameless
    made: dict[str, Any] = {
        "host": "mainpc",
        "index": 0,
        "uuid": "GPU-a",
        "name": "card",
        "total_bytes": 24 * GIB,
        "free_bytes": 24 * GIB - used,
        "used_bytes": used,
        "processes": uses,
    }
    return [CardSample(**(made | fields))]


def use(pid: int, gib: float | None, started: int = 77) -> ProcessUse:
    return ProcessUse(pid, started, "python", None if gib is None else int(gib * GIB))


def sight() -> Sight:
    return Sight(OWNER, ["GPU-a"])


def test_an_owners_bytes_are_those_of_all_its_processes() -> None:
    seen = sight()
    assert seen.look(card(use(7, 4), use(8, 2), use(9, 5)), {8: 7}, 1.0) == Looked(1.0, 6 * GIB, 13 * GIB)
    assert seen.members == {OWNER, ProcessId(8, 77)}


def test_a_child_is_the_owners_after_its_death_too() -> None:
    seen = sight()
    seen.look(card(use(7, 4), use(8, 2)), {8: 7}, 1.0)
    assert seen.look(card(use(8, 2)), {}, 2.0).owner_bytes == 2 * GIB


def test_another_process_with_its_pid_is_not_the_owner() -> None:
    assert sight().look(card(use(7, 4, started=99)), {}, 1.0).owner_bytes == 0


def test_an_owner_that_ends_while_the_card_is_looked_at_holds_what_is_listed() -> None:
    assert sight().look(card(use(7, 4, UNKNOWN_START)), {}, 1.0).owner_bytes == 4 * GIB


def test_a_child_that_ended_before_it_could_be_read_counts_and_is_not_remembered() -> None:
    seen = sight()
    assert seen.look(card(use(8, 2, started=UNKNOWN_START)), {8: 7}, 1.0).owner_bytes == 2 * GIB
    assert seen.members == {OWNER}


def test_a_look_that_failed_or_lacks_the_card_shows_nothing() -> None:
    nothing = Looked(1.0, None, None)
    assert sight().look(card(problem="Xid 79"), {}, 1.0) == nothing
    assert sight().look([], {}, 1.0) == nothing
    assert sight().look(card(use(7, 1), uuid="GPU-b"), {}, 1.0) == nothing


def test_hidden_processes_and_hidden_bytes_leave_the_cards_free_ones() -> None:
    assert sight().look(card(nameless=4 * GIB, processes=None), {}, 1.0) == Looked(1.0, None, 20 * GIB)
    assert sight().look(card(use(7, None), nameless=4 * GIB), {}, 1.0) == Looked(1.0, None, 20 * GIB)
    assert Sight(None, ["GPU-a"]).look(card(use(7, 4)), {}, 1.0) == Looked(1.0, None, 20 * GIB)


def test_an_owner_that_is_not_listed_on_a_card_with_nameless_bytes_is_hidden_until_it_is() -> None:
    seen = sight()
    assert seen.look(card(nameless=4 * GIB), {}, 1.0).owner_bytes is None
    assert seen.look(card(), {}, 2.0).owner_bytes is None
    assert seen.look(card(use(7, 1)), {}, 3.0).owner_bytes == GIB
    assert seen.look(card(), {}, 4.0).owner_bytes == 0


def test_an_owner_that_loaded_nothing_is_seen_to_hold_nothing() -> None:
    assert sight().look(card(nameless=100 * MIB), {}, 1.0).owner_bytes == 0


def test_bytes_that_only_lost_their_name_are_the_owners_still() -> None:
    seen = sight()
    seen.look(card(use(7, 10), nameless=GIB), {}, 1.0)
    assert seen.look(card(nameless=11 * GIB), {}, 2.0).owner_bytes == 10 * GIB
    assert seen.look(card(nameless=GIB + 200 * MIB), {}, 3.0).owner_bytes == 0


def test_nameless_growth_beyond_what_the_owner_held_is_not_its_own() -> None:
    seen = sight()
    seen.look(card(use(7, 4)), {}, 1.0)
    assert seen.look(card(use(7, 1), nameless=8 * GIB), {}, 2.0).owner_bytes == 4 * GIB
    assert seen.look(card(use(7, 4), nameless=8 * GIB), {}, 2.0).owner_bytes == 4 * GIB


def test_of_several_cards_the_figures_are_summed_and_all_must_be_seen() -> None:
    seen = Sight(OWNER, ["GPU-a", "GPU-b"])
    here, there = card(use(7, 4)), card(use(7, 5), use(9, 1), uuid="GPU-b")
    assert seen.look(here + there, {}, 1.0) == Looked(1.0, 9 * GIB, 38 * GIB)
    assert seen.look(here, {}, 2.0) == Looked(2.0, None, None)
    assert seen.look(here + card(uuid="GPU-b", processes=None), {}, 3.0) == Looked(3.0, None, 44 * GIB)
