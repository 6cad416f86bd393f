"""Receipts: a bounded memory of the last decisions about VRAM, so that each can be explained.

It keeps what it is given and finds it again; it decides nothing and is not durable.
"""

from __future__ import annotations

from collections import deque

from common.api.leases import Explain, Explanation, Receipt

KEPT_RECEIPTS = 4_096


class Receipts:
    """The last `limit` receipts; the oldest makes room for the newest."""

    def __init__(self, limit: int = KEPT_RECEIPTS) -> None:
        self._ring: deque[tuple[Receipt, str]] = deque(maxlen=limit)

    def __len__(self) -> int:
        return len(self._ring)

    def keep(self, receipt: Receipt, idempotency_key: str = "") -> None:
        """Adds a receipt, with the key of the request it is about where it had one."""
        self._ring.append((receipt, idempotency_key))

    def explain(self, asked: Explain) -> Explanation:
        """The receipts about the subject, newest first, at most `limit`.

        It is a lease id, a model, an idempotency key, or the request for which a lease had to go.
        """
        found: list[Receipt] = []
        for receipt, key in reversed(self._ring):
            if len(found) >= asked.limit:
                break
            if asked.subject in (receipt.lease_id, receipt.model, key, receipt.details.get("for")):
                found.append(receipt)
        return Explanation(receipts=found)
