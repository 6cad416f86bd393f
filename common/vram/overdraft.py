"""Owners on a card that hold more than they leased, as two looks show; and those that may by now, as the next look will show.

    overdrawn     both looks showed more than 1 + tolerance times what was leased
    may be        what was held at the last look, and what it grows by until the next one if it grows as it did since the one
                  before, is more than was leased

What an owner holds counts as held with the look that shows it (common/vram/ledger.py), whether its model is being loaded or has
been. Between two looks a loader that takes more than it leased takes bytes that were seen free: nothing more should be granted on
its card on the strength of the last look alone. Looks follow each other within milliseconds or half a second, so growth counts by
its speed. Corrects nothing and refuses nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from common.vram.amount import MIB
from common.vram.ledger import Account, Holding

WOBBLE_BYTES: Final = 64 * MIB
"""Growth up to this until the next look is no load."""
AHEAD_S: Final = 0.5
"""How far off the next look is counted: as far as it is on a card with leases."""
LEAST_S: Final = 0.001
"""Two looks are counted as so far apart at least."""


def overdrawn(before: Account, now: Account, tolerance: float) -> Iterator[tuple[str, Holding]]:
    """The last lease of each owner that is, and what it holds."""
    for lease_id, holding in now.holdings.items():
        earlier = before.holdings.get(lease_id)
        if earlier is not None and min(_share_over(earlier), _share_over(holding)) > tolerance:
            yield lease_id, holding


def may_be(before: Account | None, now: Account, apart_s: float = AHEAD_S) -> bool:
    """Whether any owner on the card may hold more than it leased until the next look; the two were so many seconds apart."""
    earlier = {} if before is None else before.holdings
    steps = max(1.0, AHEAD_S / max(LEAST_S, apart_s))
    return any(_may_be(earlier.get(lease_id), holding, steps) for lease_id, holding in now.holdings.items())


def _may_be(earlier: Holding | None, holding: Holding, steps: float) -> bool:
    step = steps * (holding.measured_bytes - (0 if earlier is None else earlier.measured_bytes))
    return step > WOBBLE_BYTES and holding.measured_bytes + step > holding.leased_bytes


def _share_over(holding: Holding) -> float:
    """By which share of what was leased the owner holds more; below zero where it holds less."""
    return (holding.measured_bytes - holding.leased_bytes) / max(1, holding.leased_bytes)
