from __future__ import annotations

import msgspec

from common.api.leases import Explain, Receipt
from common.vram.receipts import Receipts


def receipt(lease_id: str, model: str = "whisper") -> Receipt:
    return Receipt(
        at="2025-01-01T00:00:00Z",
        lease_id=lease_id,
        model=model,
        decision="granted",
        need_bytes=1,
        free_bytes=2,
        host="mainpc",
        card_uuid="GPU-a",
        reason="fits",
    )


def found(receipts: Receipts, subject: str, limit: int = 20) -> list[str]:
    return [each.lease_id for each in receipts.explain(Explain(subject=subject, limit=limit)).receipts]


def test_receipts_are_found_by_lease_model_and_key_newest_first() -> None:
    receipts = Receipts()
    receipts.keep(receipt("lease-1"), "key-1")
    receipts.keep(receipt("lease-2", "llama"))
    receipts.keep(receipt("lease-3"))
    assert found(receipts, "lease-2") == ["lease-2"]
    assert found(receipts, "whisper") == ["lease-3", "lease-1"]
    assert found(receipts, "key-1") == ["lease-1"]
    assert found(receipts, "nobody") == []


def test_what_had_to_go_for_a_request_is_found_under_that_request() -> None:
    receipts = Receipts()
    receipts.keep(msgspec.structs.replace(receipt("lease-1"), decision="evicted", details={"for": "want"}))
    assert found(receipts, "want") == ["lease-1"]


def test_no_more_receipts_are_given_than_were_asked_for() -> None:
    receipts = Receipts()
    for n in range(5):
        receipts.keep(receipt(f"lease-{n}"))
    assert found(receipts, "whisper", limit=2) == ["lease-4", "lease-3"]


def test_the_oldest_receipt_makes_room_for_the_newest() -> None:
    receipts = Receipts(limit=2)
    for n in range(3):
        receipts.keep(receipt(f"lease-{n}"))
    assert len(receipts) == 2
    assert found(receipts, "whisper") == ["lease-2", "lease-1"]
