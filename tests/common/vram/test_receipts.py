from __future__ import annotations

import msgspec

from common.api.decisions import Explain, Receipt
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


def test_uses_and_renewals_never_push_out_what_became_of_the_bytes() -> None:
    receipts = Receipts(limit=8)
    receipts.keep(receipt("lease-1"))
    for n in range(20):
        receipts.keep(msgspec.structs.replace(receipt(f"use-{n}"), need_bytes=0))
        receipts.keep(msgspec.structs.replace(receipt("lease-1"), decision="renewed"))
    assert len(receipts) == 3
    assert found(receipts, "whisper") == ["lease-1", "use-19", "lease-1"]


def test_of_a_models_receipts_a_quarter_are_of_uses_and_of_a_leases_all() -> None:
    receipts = Receipts()
    receipts.keep(receipt("lease-1"))
    for _ in range(20):
        receipts.keep(msgspec.structs.replace(receipt("use-1"), need_bytes=0), "key-1")
    assert found(receipts, "whisper", limit=8) == ["use-1", "use-1", "lease-1"]
    assert found(receipts, "use-1", limit=8) == ["use-1"] * 8
    assert len(found(receipts, "key-1")) == 20
