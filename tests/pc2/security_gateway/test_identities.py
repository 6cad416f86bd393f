from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.api.security_gateway import CreateIdentity
from common.errors import Conflict, Forbidden, NotFound, Overloaded
from common.store.memory import MemoryStore
from common.store.protocol import Durability
from pc2.security_gateway.identities import (
    IDENTITIES,
    STARTED,
    Fact,
    IdentityBook,
    IdentityGone,
    Kept,
    Limits,
    rows,
    scopes_for,
    was_started,
)

ALL = ["control"]
PASSWORD, API_KEY = Kept(password="$argon2id$x"), Kept(api_key=b"d" * 32)


def asked(name: str = "bob", *scopes: str) -> CreateIdentity:
    return CreateIdentity(name=name, kind="agent", scopes=list(scopes or ("use",)))


def made(book: IdentityBook, name: str = "bob", *scopes: str, kept: Kept = API_KEY) -> Fact:
    fact = book.create(asked(name, *scopes), kept, by="operator", at="2026-01-01T00:00:00Z")
    book.apply(fact)
    return fact


def test_an_identity_is_listed_with_who_made_it_and_without_its_secret() -> None:
    book = IdentityBook()
    made(book, "eve", kept=PASSWORD)
    made(book, "bob", "read", "use", "read")
    bob, eve = book.listed()
    assert (bob.name, bob.scopes, bob.credential, bob.created_by) == ("bob", ["read", "use"], "api_key", "operator")
    assert (eve.name, eve.credential) == ("eve", "password")
    assert len(book) == 2
    assert book.has("bob")


def test_deciding_changes_nothing_before_the_fact_is_applied() -> None:
    book = IdentityBook()
    book.create(asked(), API_KEY, by="operator", at="")
    assert not book.has("bob")
    made(book)
    book.revoke("bob")
    assert book.has("bob")


def test_nobody_gives_what_it_has_not() -> None:
    book = IdentityBook()
    book.may_create(asked("bob", "use", "read:A"), ["use"])
    book.may_create(asked("bob", "control:A"), ["control:A"])
    for held in ([], ["read"], ["use", "control:A"]):
        with pytest.raises(Forbidden, match="nobody gives scopes that it has not itself: control") as caught:
            book.may_create(asked("bob", "control"), held)
        assert caught.value.details["scopes"] == ["control"]


def test_a_name_is_one_identity_s_until_that_is_gone() -> None:
    book = IdentityBook()
    made(book)
    with pytest.raises(Conflict, match="'bob' already"):
        book.may_create(asked(), ALL)
    book.apply(book.revoke("bob"))
    book.may_create(asked(), ALL)


def test_there_are_no_more_than_there_may_be() -> None:
    book = IdentityBook(Limits(identities=2))
    made(book, "one")
    made(book, "two")
    with pytest.raises(Overloaded, match="2 identities are the most"):
        book.may_create(asked("three"), ALL)


def test_an_unknown_identity_is_not_found_and_no_secret_passes_for_it() -> None:
    book = IdentityBook()
    assert book.kept("bob") == Kept()
    for question in (book.known, book.revoke):
        with pytest.raises(NotFound, match="no identity 'bob'"):
            question("bob")


def test_to_be_gone_twice_is_to_be_gone() -> None:
    book = IdentityBook()
    made(book)
    gone = book.revoke("bob")
    book.apply(gone)
    book.apply(gone)
    assert not len(book)


def test_a_token_has_all_scopes_of_its_identity_or_those_asked_for_that_it_may_have() -> None:
    book = IdentityBook()
    made(book, "bob", "use", "control:A")
    bob = book.known("bob")
    assert scopes_for(bob, None) == ["use", "control:A"]
    assert scopes_for(bob, ["read", "control:A", "read"]) == ["read", "control:A"]
    assert scopes_for(bob, []) == []
    with pytest.raises(Forbidden, match="bob may not have control") as caught:
        scopes_for(bob, ["control", "read"])
    assert caught.value.details["may_have"] == ["use", "control:A"]


@given(st.lists(st.tuples(st.sampled_from("abc"), st.booleans()), max_size=20))
def test_what_was_stored_is_what_is_known(steps: list[tuple[str, bool]]) -> None:
    book, store = IdentityBook(), MemoryStore()
    for name, come in steps:
        if come == book.has(name):
            continue
        fact = made(book, name) if come else book.revoke(name)
        book.apply(fact)
        store.commit(rows(fact), Durability.FULL)
        assert isinstance(fact, IdentityGone) is not come
    again = IdentityBook()
    made(again, "somebody")
    again.restore(fact for _, fact in IDENTITIES.load(store))
    assert again.listed() == book.listed()


def test_a_store_knows_whether_it_was_started() -> None:
    book, store = IdentityBook(), MemoryStore()
    assert not was_started(store)
    store.commit([STARTED.put("operator", made(book, "operator").identity)], Durability.FULL)
    assert was_started(store)


def test_what_is_kept_of_a_secret_is_in_no_repr() -> None:
    book = IdentityBook()
    for kept in (Kept(password="$argon2id$x"), Kept(api_key=b"digest")):
        assert "x" not in repr(made(book, kept=kept)).partition("kept=Kept(")[2]
    assert repr(PASSWORD) == "Kept(password)"
