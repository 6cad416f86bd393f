from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.api.words import Access
from common.security.keyring import (
    INVITED,
    Caller,
    HostKeys,
    Issuer,
    KeyEntry,
    Keyring,
    allows,
    covers,
    granted,
    is_scope,
)

PUBLIC = {name: name[0] * 40 for name in ("alpha", "beta", "gamma", "delta")}
SIGNING = {name: name[0] * 43 for name in ("one", "two", "three")}

SCOPES = st.sampled_from(["read", "use", "control", "read:A", "use:A", "control:A", "control:B", "read:B"])


def host(name: str, *keys: KeyEntry, issuers: tuple[Issuer, ...] = (), issued_at: float = 1.0) -> HostKeys:
    return HostKeys(host=name, serial=1, issued_at=issued_at, keys=list(keys), issuers=list(issuers))


def ring(own: str, *lists: HostKeys) -> Keyring:
    return Keyring(own_host=own, hosts={known.host: known for known in lists})


def test_a_key_is_its_process_s() -> None:
    keyring = ring("pc2", host("pc2", KeyEntry("hub", "service", PUBLIC["alpha"])))
    caller = keyring.who(PUBLIC["alpha"], 0.0)
    assert caller == Caller("hub", "pc2", "service")
    assert caller is not None
    assert caller.identity == "hub@pc2"
    assert keyring.who(PUBLIC["beta"], 0.0) is None


def test_a_key_that_two_hosts_claim_is_the_own_host_s_and_else_the_newest_list_s() -> None:
    claimed = PUBLIC["alpha"]
    mine = host("pc2", KeyEntry("hub", "service", claimed), issued_at=1.0)
    theirs = host("mainpc", KeyEntry("supervisor", "supervisor", claimed), issued_at=9.0)
    third = host("third", KeyEntry("agent", "agent", claimed), issued_at=3.0)
    assert ring("pc2", mine, theirs, third).who(claimed, 0.0) == Caller("hub", "pc2", "service")
    assert ring("", mine, theirs, third).who(claimed, 0.0) == Caller("supervisor", "mainpc", "supervisor")


def test_an_invitation_is_good_until_it_ends() -> None:
    keyring = Keyring(invited={PUBLIC["alpha"]: 10.0})
    assert keyring.who(PUBLIC["alpha"], 9.9) is INVITED
    assert keyring.who(PUBLIC["alpha"], 10.0) is None


def test_a_token_of_a_plain_caller_behind_a_relay_is_bound_to_its_host_and_not_to_the_relay_s_key() -> None:
    assert Caller("relay", "mainpc", "relay").binding(PUBLIC["alpha"]) == "local@mainpc"
    assert Caller("hub", "pc2", "service").binding(PUBLIC["alpha"]) == PUBLIC["alpha"]


def test_the_key_to_connect_to_a_process_by_is_in_its_host_s_list() -> None:
    other = KeyEntry("error_bus", "service", PUBLIC["beta"])
    keyring = ring("mainpc", host("pc2", KeyEntry("hub", "service", PUBLIC["alpha"]), other))
    assert keyring.server_key("pc2", "error_bus") == PUBLIC["beta"].encode()
    assert keyring.server_key("pc2", "nobody") is None
    assert keyring.server_key("pc3", "hub") is None


def test_only_a_host_itself_names_its_operator() -> None:
    own = Issuer("operator@pc2", SIGNING["one"], ["control"])
    false = Issuer("operator@mainpc", SIGNING["two"], ["control"])
    odd = Issuer("somebody", SIGNING["three"], ["control"])
    keyring = ring("mainpc", host("pc2", issuers=(own, false, odd)))
    assert keyring.issuer("operator@pc2") == own
    assert keyring.issuer("operator@mainpc") is None
    assert keyring.issuer("somebody") is None


def test_only_the_list_of_its_host_names_the_gateway_whoever_else_says_so_and_however_new() -> None:
    true, false = (Issuer("SecurityGateway", SIGNING[name], ["control"]) for name in ("one", "two"))
    lists = host("pc2", issuers=(true,), issued_at=1.0), host("pc3", issuers=(false,), issued_at=2.0)
    keyring = msgspec.structs.replace(ring("mainpc", *lists), gateway_host="pc2")
    assert keyring.issuer("SecurityGateway") == true
    assert ring("mainpc", *lists).issuer("SecurityGateway") is None
    assert ring("pc2", *lists).issuer("SecurityGateway") == true


def test_a_token_is_revoked_by_its_id_or_with_all_that_its_identity_had_by_then() -> None:
    keyring = Keyring(revoked_tokens={"t1": 99.0}, revoked_identities={"bob": 10.0})
    assert keyring.is_revoked("t1", "eve", 50.0)
    assert keyring.is_revoked("t2", "bob", 9.9)
    assert not keyring.is_revoked("t2", "bob", 10.0)
    assert not keyring.is_revoked("t2", "eve", 0.0)


def test_a_keyring_is_the_same_after_it_was_written_and_read_and_one_that_was_changed_answers_anew() -> None:
    keyring = ring("pc2", host("pc2", KeyEntry("hub", "service", PUBLIC["alpha"])))
    assert keyring.who(PUBLIC["alpha"], 0.0) is not None
    again = msgspec.json.decode(msgspec.json.encode(keyring), type=Keyring)
    assert again == keyring
    assert msgspec.structs.replace(keyring, hosts={}).who(PUBLIC["alpha"], 0.0) is None


@pytest.mark.parametrize(
    ("scopes", "service", "access"),
    [
        ([], "A", None),
        (["read"], "A", Access.READ),
        (["read", "control:B"], "A", Access.READ),
        (["read", "control:A"], "A", Access.CONTROL),
        (["use"], "A", Access.USE),
        (["nonsense", "drive:A"], "A", None),
    ],
)
def test_scopes_allow_everywhere_or_at_one_service(scopes: list[str], service: str, access: Access | None) -> None:
    assert granted(scopes, service) is access


def test_who_may_do_more_may_do_less() -> None:
    assert allows(Access.CONTROL, Access.READ)
    assert allows(Access.USE, Access.USE)
    assert not allows(Access.READ, Access.USE)
    assert not allows(None, Access.READ)


@given(st.lists(SCOPES), SCOPES)
def test_what_is_handed_on_never_allows_more_than_its_giver_had(held: list[str], wanted: str) -> None:
    if covers(held, wanted):
        for service in ("A", "B", "C"):
            given_on = granted([wanted], service)
            assert given_on is None or allows(granted(held, service), given_on)


@given(st.lists(SCOPES, min_size=1))
def test_everyone_may_hand_on_what_it_has(held: list[str]) -> None:
    assert all(covers(held, scope) for scope in held)


def test_a_scope_is_spelled_in_one_way() -> None:
    assert all(map(is_scope, ("read", "use", "control", "control:Supervisor")))
    assert not any(map(is_scope, ("", "Control", "control:", "control:a b", "write", "control\n", "read:A:B")))
