from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.api.words import Access, Empty, Verb
from common.errors import Forbidden, Unauthenticated
from common.security import rights
from common.security.keyring import Caller, CallerKind, HostKeys, Keyring
from common.security.rights import BY_KIND, STRANGER, Standing

RANK = {None: -1, Access.READ: 0, Access.USE: 1, Access.CONTROL: 2}
KEY = "k" * 40

accesses = st.sampled_from(list(Access))
maybe = st.sampled_from([None, *Access])
kinds = st.sampled_from(sorted(BY_KIND))


def verb(access: Access, name: str = "do") -> Verb[Empty, Empty]:
    return Verb(name, Empty, Empty, access)


def standing(kind: CallerKind) -> Standing:
    return rights.keyed(Caller("name", "pc2", kind), KEY)


@given(kind=kinds.filter(lambda kind: kind != "invited"), by_token=maybe, wanted=accesses)
def test_a_key_may_do_what_its_kind_or_its_token_allows_and_nothing_more(
    kind: CallerKind, by_token: Access | None, wanted: Access
) -> None:
    refusal = rights.refusal(standing(kind), by_token, verb(wanted))
    assert (refusal is None) == (max(RANK[BY_KIND[kind]], RANK[by_token]) >= RANK[wanted])
    assert refusal is None or isinstance(refusal, Forbidden)


@given(by_token=maybe, wanted=accesses, access=st.sampled_from([Access.USE, Access.CONTROL]))
def test_a_plain_caller_of_this_machine_may_read_and_use_and_control_with_a_token(
    by_token: Access | None, wanted: Access, access: Access
) -> None:
    refusal = rights.refusal(rights.local("pc2", access=access), by_token, verb(wanted))
    assert (refusal is None) == (max(RANK[access], RANK[by_token]) >= RANK[wanted])


@given(by_token=maybe, wanted=accesses)
def test_one_that_was_invited_may_be_admitted_and_nothing_else_whatever_it_shows(
    by_token: Access | None, wanted: Access
) -> None:
    invited = standing("invited")
    assert rights.refusal(invited, by_token, verb(wanted, rights.ADMIT)) is None
    assert isinstance(rights.refusal(invited, by_token, verb(wanted)), Forbidden)
    assert invited.known


@given(by_token=maybe, wanted=accesses, name=st.sampled_from(["do", rights.ADMIT]))
def test_a_stranger_may_do_nothing_whatever_it_shows(by_token: Access | None, wanted: Access, name: str) -> None:
    assert isinstance(rights.refusal(STRANGER, by_token, verb(wanted, name)), Unauthenticated)
    assert not STRANGER.known
    assert not STRANGER.allowed


@given(kind=kinds, wanted=accesses)
def test_what_is_allowed_without_a_token_is_known_beforehand(kind: CallerKind, wanted: Access) -> None:
    caller = standing(kind)
    assert (wanted in caller.allowed) == (rights.refusal(caller, None, verb(wanted)) is None)


@pytest.mark.parametrize(
    ("kind", "identity", "bindings"),
    [
        ("supervisor", "name@pc2", (KEY,)),
        ("service", "name@pc2", (KEY,)),
        ("agent", "name@pc2", (KEY,)),
        ("relay", "local@pc2", ("local@pc2",)),
    ],
)
def test_a_key_is_bound_to_itself_and_a_relay_speaks_for_the_plain_callers_of_its_host(
    kind: CallerKind, identity: str, bindings: tuple[str, ...]
) -> None:
    caller = standing(kind)
    assert (caller.identity, caller.host, caller.bindings) == (identity, "pc2", bindings)


def test_a_plain_caller_may_show_tokens_of_a_neighbour_on_the_same_machine() -> None:
    assert rights.local("pc2", ["mainpc"]).bindings == ("local@pc2", "local@mainpc")


def test_neighbours_share_an_address_and_a_host_without_one_has_none() -> None:
    def hosts(**addresses: str) -> Keyring:
        known = {name: HostKeys(host=name, serial=1, issued_at=0.0, address=at) for name, at in addresses.items()}
        return Keyring(own_host="pc2", hosts=known)

    assert rights.neighbours(hosts(pc2="127.0.0.1", mainpc="127.0.0.1")) == ["mainpc"]
    assert rights.neighbours(hosts(pc2="10.0.0.2", mainpc="127.0.0.1", far="10.0.0.9")) == ["mainpc"]
    assert rights.neighbours(hosts(pc2="127.0.0.1", mainpc="10.0.0.1")) == ["mainpc"]
    assert rights.neighbours(hosts(pc2="10.0.0.2", mainpc="10.0.0.1", other="")) == []
    assert rights.neighbours(hosts(pc2="", mainpc="")) == rights.neighbours(hosts(pc2="", mainpc="127.0.0.1")) == []
    assert rights.neighbours(hosts(mainpc="10.0.0.1")) == []


def test_a_refusal_says_what_is_needed_what_is_held_and_how_to_mend_it() -> None:
    refused = rights.refusal(rights.local("pc2"), None, verb(Access.CONTROL, "stop_agent"))
    assert refused is not None
    assert refused.message == "stop_agent needs access control; local@pc2 has use here"
    assert "issue_token" in refused.details["mend"]
    more = rights.refusal(rights.local("pc2", access=Access.READ), Access.USE, verb(Access.CONTROL))
    assert more is not None
    assert "local@pc2 has use here" in more.message
    nothing = rights.refusal(Standing("x@y", "y", None), None, verb(Access.READ))
    assert nothing is not None
    assert "x@y has none here" in nothing.message
    bare = rights.refusal(rights.local("pc2"), Access.READ, verb(Access.CONTROL), has_keyring=False)
    assert bare is not None
    assert "supervisor" in bare.details["mend"]
