"""Receipts: a bounded memory of the last decisions about VRAM, so that each can be explained.

It keeps what it is given and finds it again; it decides nothing and is not durable. Uses of a lease and renewals come by the
thousand, and never push out why a model was loaded or had to go.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Iterator
from itertools import count
from typing import NamedTuple

from common.api.decisions import Explain, Explanation, Receipt

KEPT_RECEIPTS = 4_096
ROUTINE_FRACTION = 4
"""One in so many receipts, of those kept and of those told about a model, may be of a use or a renewal."""


class _Kept(NamedTuple):
    number: int
    receipt: Receipt
    key: str


class Receipts:
    """The last `limit` receipts about bytes, and a fraction as many of uses and renewals; the oldest goes for the newest."""

    def __init__(self, limit: int = KEPT_RECEIPTS) -> None:
        self._numbers = count()
        self._about_bytes: deque[_Kept] = deque(maxlen=limit)
        self._routine: deque[_Kept] = deque(maxlen=-(-limit // ROUTINE_FRACTION))

    def __len__(self) -> int:
        return len(self._about_bytes) + len(self._routine)

    def keep(self, receipt: Receipt, idempotency_key: str = "") -> None:
        """Adds a receipt, with the key of the request it is about where it had one."""
        ring = self._routine if _is_routine(receipt) else self._about_bytes
        ring.append(_Kept(next(self._numbers), receipt, idempotency_key))

    def explain(self, asked: Explain) -> Explanation:
        """The receipts about the subject, newest first, at most `limit`; of a model's only some are of uses and renewals.

        It is a lease id, a model, an idempotency key, or the request for which a lease had to go.
        """
        found: list[Receipt] = []
        routine_left = -(-asked.limit // ROUTINE_FRACTION)
        for _, receipt, key in self._newest_first():
            if len(found) >= asked.limit:
                break
            if asked.subject in (receipt.lease_id, key, receipt.details.get("for")):
                found.append(receipt)
            elif asked.subject == receipt.model and (routine_left > 0 or not _is_routine(receipt)):
                found.append(receipt)
                routine_left -= _is_routine(receipt)
        return Explanation(receipts=found)

    def _newest_first(self) -> Iterator[_Kept]:
        rings = (reversed(self._about_bytes), reversed(self._routine))
        return heapq.merge(*rings, key=lambda kept: -kept.number)


def _is_routine(receipt: Receipt) -> bool:
    return receipt.decision == "renewed" or receipt.need_bytes == 0
