from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.reporting import spool_log
from common.reporting.spool_log import HEADER_BYTES, MAX_PAYLOAD, RECORD_BYTES, Held, Place, Standing

PAYLOADS = st.lists(st.binary(max_size=40), max_size=8)
FIRST = Place(7, 3)


def segment(payloads: list[bytes], first: Place = FIRST) -> bytes:
    records = b"".join(spool_log.encode_record(first.seq + place, payload) for place, payload in enumerate(payloads))
    return spool_log.encode_header(first) + records


@given(PAYLOADS, st.data())
def test_a_segment_torn_anywhere_holds_every_record_before_the_tear_and_no_other(
    payloads: list[bytes], data: st.DataObject
) -> None:
    whole = segment(payloads)
    for cut in range(len(whole) + 1):
        torn = whole[:cut]
        expected, at = [], HEADER_BYTES
        for payload in payloads:
            at += RECORD_BYTES + len(payload)
            if at <= cut:
                expected.append(payload)
        if cut < HEADER_BYTES:
            assert spool_log.decode_header(torn) is None
        else:
            assert spool_log.decode_header(torn) == FIRST
            found = spool_log.find_records(torn[HEADER_BYTES:], FIRST.seq, 100)
            assert (found.payloads, found.damaged) == (expected, False)
            assert found.taken == sum(RECORD_BYTES + len(payload) for payload in expected)


@given(PAYLOADS.filter(bool), st.data())
def test_a_flipped_bit_never_changes_a_record_that_is_found(payloads: list[bytes], data: st.DataObject) -> None:
    whole = bytearray(segment(payloads))
    at = data.draw(st.integers(0, len(whole) - 1))
    whole[at] ^= 1 << data.draw(st.integers(0, 7))
    if spool_log.decode_header(bytes(whole)) is None:
        assert at < HEADER_BYTES
        return
    found = spool_log.find_records(bytes(whole[HEADER_BYTES:]), FIRST.seq, 100)
    assert found.payloads == payloads[: len(found.payloads)]
    assert len(found.payloads) < len(payloads)


def test_a_record_is_found_under_its_own_number_only() -> None:
    record = spool_log.encode_record(5, b"five")
    assert spool_log.find_records(record, 5, 10).payloads == [b"five"]
    assert spool_log.find_records(record, 6, 10) == ([], 0, True)


def test_no_more_records_are_found_than_asked_for() -> None:
    body = segment([b"a", b"b", b"c"])[HEADER_BYTES:]
    assert spool_log.find_records(body, 3, 2) == ([b"a", b"b"], 2 * (RECORD_BYTES + 1), False)


def test_a_length_that_cannot_be_is_damage() -> None:
    assert spool_log.find_records(b"\xff" * RECORD_BYTES, 1, 10).damaged
    with pytest.raises(ValueError, match="262145 bytes"):
        spool_log.encode_record(1, b"x" * (MAX_PAYLOAD + 1))


@given(st.builds(Place, st.integers(0, 2**53 - 1), st.integers(0, 2**53 - 1)))
def test_a_segment_is_named_by_its_first_record(first: Place) -> None:
    assert spool_log.begins_with(spool_log.segment_name(first)) == first


@pytest.mark.parametrize("name", ["lock", "acknowledged.json", "ffffffffffffffff-0000000000000001.seg", "x.seg"])
def test_other_files_are_no_segments(name: str) -> None:
    assert spool_log.begins_with(name) is None


@given(st.lists(st.integers(0, 100), min_size=1), st.integers(0, 500))
def test_what_is_too_much_goes_oldest_first_and_the_newest_stays(sizes: list[int], most: int) -> None:
    held = [Held(str(place), size) for place, size in enumerate(sizes)]
    gone = spool_log.overflow(held, most)
    assert gone == held[: len(gone)]
    kept = sizes[len(gone) :]
    assert kept
    assert sum(kept) <= most or len(kept) == 1
    assert not gone or sum(kept) + gone[-1].size > most


@given(st.lists(st.integers(0, 2**50)), st.floats(0, 2e9))
def test_a_new_life_has_a_higher_epoch_than_any_known_one(known: list[int], wall: float) -> None:
    epoch = spool_log.next_epoch(known, wall)
    assert all(epoch > one for one in known)
    assert epoch >= int(wall * 1000)


def test_a_standing_names_its_places() -> None:
    standing = Standing(epoch=4, seq=9, sent_epoch=4, sent_seq=12)
    assert (standing.place, standing.sent) == (Place(4, 9), Place(4, 12))
