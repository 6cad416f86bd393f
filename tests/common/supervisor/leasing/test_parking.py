from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

from common.gpu.simulated import GIB
from common.supervisor.leasing.parking import Parking
from common.supervisor.leasing.writer import LeaseWriter
from common.vram.lease_decision import EvictionOrder
from tests.common.supervisor.leasing.test_evicting import order

CARD = "GPU-a"


class Ram:
    """A writer whose host has room for so many bytes of weights beside those that are on their way."""

    def __init__(self, room: int) -> None:
        self.room = room
        self.seen = 0
        self.table = SimpleNamespace(not_parked=self.not_parked)

    def see_ram(self) -> None:
        self.seen += 1

    def not_parked(self, _lease_ids: Any, beside_bytes: int) -> str:
        return "" if beside_bytes + 10 * GIB <= self.room else "cannot be parked: no RAM"


def going(name: str) -> EvictionOrder:
    return order(None, name, expected_bytes=10 * GIB)


def test_weights_that_are_on_their_way_count_until_their_eviction_is_over() -> None:
    ram = Ram(15 * GIB)
    parking = Parking(cast("LeaseWriter", ram))
    assert parking.refuses(going("a")) == ""
    assert parking.refuses(going("a")) == "", "the same ones are not counted twice"
    assert parking.refuses(going("b")) == "cannot be parked: no RAM"
    parking.over(going("a"))
    parking.over(going("b"))
    assert parking.refuses(going("b")) == ""
    assert ram.seen == 4, "RAM is looked at each time"
