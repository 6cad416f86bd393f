from __future__ import annotations

from common.api.leases import AcquireLease
from common.vram.amount import GIB
from pc2.resource_manager.intents import Intent
from pc2.resource_manager.request_book import RequestBook


def intent(lease_id: str, key: str = "") -> Intent:
    asked = AcquireLease(model="llama", bytes=GIB, idempotency_key=key)
    return Intent(lease_id=lease_id, host="pc2", card_uuid="GPU-a", identity="anna", request=asked, at="")


def three(*, open_one: bool = False) -> RequestBook:
    """Three delivered leases with keys, of seconds 1,000, 1,100 and 1,200; the first of them may be open again."""
    book = RequestBook()
    for number, name in enumerate("abc"):
        book.restore([intent(name, f"key-{name}")], 1_000.0 + 100 * number)
    if open_one:
        book.reopen(intent("a", "key-a"), 1_200.0)
    return book


def test_keys_are_remembered_for_their_time_and_then_mean_nothing() -> None:
    book = three()
    assert book.sweep(1_200.0, 100.0, 10) == ["a"]
    assert [book.known("anna", f"key-{name}") for name in "abc"] == [None, "b", "c"]


def test_of_too_many_keys_the_oldest_are_forgotten_before_their_time() -> None:
    assert three().sweep(1_200.0, 1_000.0, 1) == ["a", "b"]
    assert three().sweep(1_200.0, 1_000.0, 3) == []


def test_the_key_of_an_open_request_is_not_forgotten() -> None:
    book = three(open_one=True)
    assert book.sweep(1_200.0, 1_000.0, 1) == ["b"]
    assert book.known("anna", "key-a") == "a"


def test_what_was_forgotten_can_be_recalled_until_the_next_sweep() -> None:
    book = three()
    assert book.forget("a")
    assert not book.forget("a")
    assert book.recall("a", 1_300.0) == intent("a", "key-a")
    book.forget("a")
    book.sweep(1_300.0, 1_000.0, 10)
    assert book.recall("a", 1_300.0) is None


def test_after_a_restart_those_with_a_key_wait_for_their_caller_and_the_others_are_asked_after() -> None:
    book = RequestBook()
    book.restore([intent("keyed", "k"), intent("plain")], 1_000.0)
    assert book.get("keyed") is None
    assert book.get("plain") is not None


def test_of_two_under_one_key_the_newer_is_meant_and_the_older_asked_after() -> None:
    book = RequestBook()
    book.restore([intent("older", "k"), intent("newer", "k")], 1_000.0)
    assert book.known("anna", "k") == "newer"
    assert [request.lease_id for request in book] == ["older"]
