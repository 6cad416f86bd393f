from __future__ import annotations

from common.api.decisions import Receipt
from common.api.leases import Lease, LeaseChanged, Owner
from common.vram.lease_decision import Announce, Note


def receipt(reason: str = "fits") -> Receipt:
    return Receipt(
        at="2025-01-01T00:00:00Z",
        lease_id="lease-1",
        model="whisper",
        decision="granted",
        need_bytes=1,
        free_bytes=2,
        host="mainpc",
        card_uuid="GPU-a",
        reason=reason,
    )


def change() -> LeaseChanged:
    lease = Lease("lease-1", "m", 1, 0, True, 50, "mainpc", 0, "GPU-a", 7, Owner(), "ben", 60.0, 60.0, "")
    return LeaseChanged(change="granted", lease=lease)


def test_a_receipt_is_written_when_it_is_first_read_and_once() -> None:
    written: list[Receipt] = []

    def write() -> Receipt:
        written.append(receipt())
        return written[-1]

    note = Note(write, "key")
    assert written == []
    assert note.receipt is note.receipt
    assert len(written) == 1


def test_notes_are_told_apart_by_what_they_say() -> None:
    assert Note(receipt(), "k") == Note(receipt, "k")
    assert Note(receipt(), "k") != Note(receipt(), "other")
    assert Note(receipt(), "k") != Note(receipt("another"), "k")
    assert Note(receipt()) != receipt()
    assert len({Note(receipt(), "k"), Note(receipt, "k")}) == 1
    assert repr(Note(receipt(), "k")) == f"Note({receipt()!r}, 'k')"


def test_a_note_is_taken_apart_by_its_place() -> None:
    match Note(receipt(), "k"):
        case Note(found, key):
            assert (found, key) == (receipt(), "k")


def test_a_change_is_drawn_up_when_it_is_first_read_and_named_before() -> None:
    drawn: list[LeaseChanged] = []

    def draw() -> LeaseChanged:
        drawn.append(change())
        return drawn[-1]

    told = Announce("granted", draw)
    assert (told.kind, drawn) == ("granted", [])
    assert told.change is told.change
    assert len(drawn) == 1
    assert told == Announce("granted", change())
    assert told != Announce("marked", change())
    assert told != Note(receipt())
    assert hash(told) == hash(Announce("granted", change()))
    assert repr(told) == f"Announce({change()!r}, 'granted')"
