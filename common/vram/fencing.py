"""Fencing tokens: which of two holders of a lease is the current one.

A token is epoch x 2^32 + counter and stays below 2^53, so that every JSON reader keeps it exactly. A card's host opens
an epoch at each start and makes it durable before its first grant; within the epoch the counter rises with each grant.
Tokens therefore rise strictly, even when a power cut took the leases of the last epoch with it. This module does the
arithmetic; it keeps no state and stores nothing.
"""

from __future__ import annotations

from typing import Final, NamedTuple

COUNTERS: Final = 2**32
EPOCHS: Final = 2**21


class EpochSpent(Exception):
    """The epoch has no counter left: a new epoch must be opened, and be durable, before the next grant."""


class Fence(NamedTuple):
    """A place in the order of grants; of two, the greater was granted later."""

    epoch: int
    counter: int

    @property
    def token(self) -> int:
        """The place as one integer, as it crosses the wire."""
        return self.epoch * COUNTERS + self.counter

    def next(self) -> Fence:
        """The place after this one in the same epoch; raises EpochSpent after counter 2^32 - 1."""
        if self.counter + 1 >= COUNTERS:
            raise EpochSpent(f"epoch {self.epoch} has given out all its {COUNTERS} tokens")
        return Fence(self.epoch, self.counter + 1)

    def next_epoch(self) -> Fence:
        """The place that opens the next epoch; no lease holds it. Raises OverflowError after 2^21 - 1 epochs."""
        if self.epoch + 1 >= EPOCHS:
            raise OverflowError(f"no fence epoch is left after {self.epoch}")
        return Fence(self.epoch + 1, 0)


BEFORE_ALL: Final = Fence(0, 0)
"""The place before every grant."""


def parse(token: int) -> Fence:
    """The place that a token names; raises ValueError outside 0..2^53 - 1."""
    epoch, counter = divmod(token, COUNTERS)
    if not 0 <= epoch < EPOCHS:
        raise ValueError(f"{token} is not a fencing token")
    return Fence(epoch, counter)
