from __future__ import annotations

from common.vram.amount import GIB, MIB
from common.vram.rungs import DEFAULT, LadderPolicy, Means, rungs_for


def test_an_owner_is_asked_first_and_ended_last() -> None:
    means = Means(known=True, sleep=True, unload=True, checkpoint=True, stop=True)
    assert rungs_for(means) == ("sleep", "unload", "checkpoint", "stop", "term", "kill")


def test_an_owner_without_a_verb_is_ended() -> None:
    assert rungs_for(Means(known=True)) == ("term", "kill")


def test_of_an_owner_whose_process_is_not_known_nothing_can_be_ended() -> None:
    means = Means(known=False, sleep=True, unload=True, checkpoint=True, stop=True)
    assert rungs_for(means) == ("sleep", "unload")


def test_an_owner_of_another_lease_is_neither_frozen_nor_ended() -> None:
    means = Means(known=True, unload=True, checkpoint=True, stop=True, spared="it holds lease-2 too")
    assert rungs_for(means) == ("unload",)
    assert rungs_for(Means(known=True, spared="it holds lease-2 too")) == ()


def test_weights_that_do_not_fit_into_host_ram_are_not_parked() -> None:
    means = Means(known=True, sleep=True, unload=True, checkpoint=True, not_parked="4 GiB of RAM are free, 10 needed")
    assert rungs_for(means) == ("unload", "term", "kill")


def test_the_bounds_add_up() -> None:
    policy = LadderPolicy(stop_s=3.0, signal_s=1.0, verify_s=2.0, term_s=4.0, kill_s=5.0)
    assert policy.longest_s(("unload", "stop", "term", "kill"), 7.0) == 2 + (7 + 2) + (3 + 2) + (1 + 4) + (1 + 5)
    assert policy.longest_s((), 7.0) == 2


def test_noise_is_small_beside_what_is_expected() -> None:
    assert DEFAULT.noise_bytes(GIB) == 256 * MIB
    assert DEFAULT.noise_bytes(80 * GIB) == 512 * MIB
