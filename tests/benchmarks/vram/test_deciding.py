from __future__ import annotations

from benchmarks.vram.deciding import NOW, fleet, took_us
from common.vram.amount import GIB
from common.vram.placement import Wish


def test_with_room_a_request_fits_and_without_it_some_go() -> None:
    wish = Wish("asked", 2 * GIB)
    fits, evicts = (fleet(4, 24, full=full).room(wish, 50, NOW) for full in (False, True))
    assert fits is not None
    assert evicts is not None
    assert not fits.victims
    assert evicts.victims


def test_every_decision_is_timed() -> None:
    took = took_us(fleet(2, 12, full=True), 6.0, 50)
    assert len(took) == 50
    assert took == sorted(took)
    assert took[0] > 0
