"""Weights on their way into host RAM: whether they fit there at the moment that they are to go, and not when that was decided.

An eviction begins a while after its order, and others take RAM meanwhile: programs, and further weights that are being parked,
which no look shows yet. Who is refused here is ended or unloaded by the next rung of its ladder. It parks nothing itself.
"""

from __future__ import annotations

from common.supervisor.leasing.writer import LeaseWriter
from common.vram.lease_decision import EvictionOrder


class Parking:
    """One host's; an order counts from the moment it was let through until it is over."""

    def __init__(self, writer: LeaseWriter) -> None:
        self._writer = writer
        self._going: dict[tuple[str, ...], int] = {}

    def refuses(self, order: EvictionOrder) -> str:
        """Why the weights of the order's leases do not fit into host RAM now; empty: they do, and count as on their way."""
        self._writer.see_ram()
        beside = sum(weights for lease_ids, weights in self._going.items() if lease_ids != order.lease_ids)
        why = self._writer.table.not_parked(order.lease_ids, beside)
        if not why:
            self._going[order.lease_ids] = order.expected_bytes * len(order.card_uuids)
        return why

    def over(self, order: EvictionOrder) -> None:
        """The order has ended, and its leases count with what they have parked."""
        self._going.pop(order.lease_ids, None)
