"""Owners on a card that hold more than they leased, as two looks show; and those that may by now, as the next look will show.

    overdrawn     both looks showed more than 1 + tolerance times what was leased
    may be        what was held at the last look, and as much again as it grew by since the one before, is more than was leased

What an owner holds counts as held with the look that shows it (common/vram/ledger.py), whether its model is being loaded or has
been. Between two looks a loader that takes more than it leased takes bytes that were seen free: nothing more should be granted on
its card on the strength of the last look alone. Corrects nothing and refuses nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from common.vram.amount import MIB
from common.vram.ledger import Account, Holding

WOBBLE_BYTES: Final = 64 * MIB
"""Growth up to this between two looks is no load."""


def overdrawn(before: Account, now: Account, tolerance: float) -> Iterator[tuple[str, Holding]]:
    """The last lease of each owner that is, and what it holds."""
    for lease_id, holding in now.holdings.items():
        earlier = before.holdings.get(lease_id)
        if earlier is not None and min(_share_over(earlier), _share_over(holding)) > tolerance:
            yield lease_id, holding


def may_be(before: Account | None, now: Account) -> bool:
    """Whether any owner on the card may hold more than it leased by now."""
    earlier = {} if before is None else before.holdings
    return any(_may_be(earlier.get(lease_id), holding) for lease_id, holding in now.holdings.items())


def _may_be(earlier: Holding | None, holding: Holding) -> bool:
    step = holding.measured_bytes - (0 if earlier is None else earlier.measured_bytes)
    return step > WOBBLE_BYTES and holding.measured_bytes + step > holding.leased_bytes


def _share_over(holding: Holding) -> float:
    """By which share of what was leased the owner holds more; below zero where it holds less."""
    return (holding.measured_bytes - holding.leased_bytes) / max(1, holding.leased_bytes)
