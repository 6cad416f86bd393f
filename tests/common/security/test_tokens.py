from __future__ import annotations

import base64
import json
from timeit import repeat
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from common.api.words import Access
from common.errors import Unauthenticated
from common.security import ed25519, tokens
from common.security.keyring import GATEWAY, HostKeys, Issuer, Keyring
from common.security.tokens import EARLY_S, BadToken, Minter, TokenChecker, audience_of, verify

SEED = ed25519.new_seed()
PUBLIC = ed25519.public_of(SEED)
OPERATOR_SEED = ed25519.new_seed()
KEY = "k" * 40
NOW = 1_700_000_000.25


class Clock:
    def __init__(self, at: float = NOW) -> None:
        self.at = at

    def wall(self) -> float:
        return self.at

    def monotonic(self) -> float:
        raise AssertionError("tokens are judged by the wall clock")


def ring(
    *,
    gives: tuple[str, ...] = ("control",),
    public: str = PUBLIC,
    revoked: dict[str, float] | None = None,
    **names: float,
) -> Keyring:
    issuers = [
        Issuer(GATEWAY, public, list(gives)),
        Issuer("operator@pc2", ed25519.public_of(OPERATOR_SEED), ["control"]),
    ]
    pc2 = HostKeys(host="pc2", serial=1, issued_at=1.0, issuers=issuers)
    return Keyring(own_host="pc2", hosts={"pc2": pc2}, revoked_tokens=revoked or {}, revoked_identities=names)


def minted(*scopes: str, subject: str = "bob", ttl_s: float = 900.0, now: float = NOW) -> tokens.Minted:
    return Minter(GATEWAY, SEED).mint(subject, scopes or ("use",), KEY, now=now, ttl_s=ttl_s)


class Desk:
    """A checker whose keyring and clock the test sets."""

    def __init__(self, keyring: Keyring | None = None, **limits: int) -> None:
        self.keyring = keyring or ring()
        self.clock = Clock()
        self.checker = TokenChecker(lambda: self.keyring, self.clock, **limits)

    def refused(self, token: str, binding: str = KEY) -> str:
        with pytest.raises(BadToken) as caught:
            self.checker.check(token, "A", binding)
        assert caught.value.details["reason"] == caught.value.reason
        assert not token or token not in caught.value.message
        return caught.value.reason


def spelled(head: Any, claims: Any, seed: str = SEED) -> str:
    """A token of any content, truly signed."""
    parts = [ed25519.encoded(json.dumps(part).encode()) for part in (head, claims)]
    signed = ".".join(parts)
    return f"{signed}.{ed25519.encoded(ed25519.sign(seed, signed.encode()))}"


HEAD = {"alg": "EdDSA", "typ": "JWT", "kid": GATEWAY}
CLAIMS = {
    "iss": GATEWAY,
    "sub": "bob",
    "scope": "use",
    "iat": NOW,
    "exp": NOW + 900,
    "jti": "t1",
    "cnf": {"kid": KEY},
}


def accepted_by_pyjwt(token: str) -> bool:
    public = Ed25519PrivateKey.from_private_bytes(ed25519.decoded(SEED)).public_key()
    try:
        jwt.decode(token, public, algorithms=["EdDSA"], options={"verify_exp": False, "verify_iat": False})
    except jwt.PyJWTError:
        return False
    return True


def accepted_here(token: str) -> bool:
    try:
        verify(token, ring())
    except BadToken:
        return False
    return True


def test_a_token_gives_its_holder_what_its_scopes_say() -> None:
    checked = Desk().checker.check(minted("read", "control:A").token, "A", KEY)
    assert (checked.subject, checked.issuer, checked.access) == ("bob", GATEWAY, Access.CONTROL)
    assert checked.scopes == ("read", "control:A")
    assert checked.expires_at == NOW + 900
    assert Desk().checker.check(minted("read", "control:A").token, "B", KEY).access is Access.READ
    assert Desk().checker.check(minted("control:A").token, "B", KEY).access is None


@pytest.mark.parametrize("audience", ["A", "A/pc2", ["B", "A"]])
def test_a_token_that_names_whom_it_is_meant_for_is_good_there_alone(audience: str | list[str]) -> None:
    token, checker = spelled(HEAD, CLAIMS | {"aud": audience}), Desk().checker
    assert checker.check(token, "A", KEY, "pc2").access is Access.USE
    with pytest.raises(BadToken) as refused:
        checker.check(token, "C", KEY, "pc2")
    assert refused.value.reason == "meant for another"
    if audience == "A/pc2":
        with pytest.raises(BadToken):
            checker.check(token, "A", KEY, "mainpc")
    assert audience_of(token) == ((audience,) if isinstance(audience, str) else tuple(audience))


def test_a_token_of_before_names_nobody_and_is_good_everywhere() -> None:
    assert audience_of(minted().token) == audience_of("no token") == ()
    assert "aud" not in json.loads(ed25519.decoded(minted().token.split(".")[1].encode()))


def test_a_token_reads_as_what_it_was_minted_with() -> None:
    token = minted("read", "use")
    assert Desk().checker.read(token.token) == token.claims
    assert token.claims.scopes == ["read", "use"]


def test_the_same_token_serves_at_each_service_by_itself() -> None:
    desk, token = Desk(), minted("control:A", "read").token
    assert [desk.checker.check(token, service, KEY).access for service in "ABA"] == [
        Access.CONTROL,
        Access.READ,
        Access.CONTROL,
    ]


def test_an_issuer_gives_no_more_than_it_may() -> None:
    desk = Desk(ring(gives=("use", "control:A")))
    checked = desk.checker.check(minted("control", "use", "control:A").token, "B", KEY)
    assert checked.scopes == ("use", "control:A")
    assert checked.access is Access.USE


def test_scopes_that_are_none_give_nothing() -> None:
    token = spelled(HEAD, CLAIMS | {"scope": "everything control:a:b use"})
    assert Desk().checker.check(token, "A", KEY).scopes == ("use",)


def test_no_two_tokens_have_the_same_id() -> None:
    assert minted().claims.jti != minted().claims.jti


def test_a_token_ends_when_it_says_even_where_it_was_checked_before() -> None:
    desk, token = Desk(), minted(ttl_s=10.0).token
    desk.checker.check(token, "A", KEY)
    desk.clock.at = NOW + 9.99
    desk.checker.check(token, "A", KEY)
    desk.clock.at = NOW + 10.0
    assert desk.refused(token) == "expired"


def test_a_revoked_token_is_refused_even_where_it_was_checked_before() -> None:
    desk, token = Desk(), minted()
    desk.checker.check(token.token, "A", KEY)
    desk.keyring = ring(revoked={token.claims.jti: NOW + 900})
    assert desk.refused(token.token) == "revoked"
    desk.keyring = ring(bob=NOW + 0.001)
    assert desk.refused(token.token) == "revoked"
    desk.keyring = ring(bob=NOW)
    desk.checker.check(token.token, "A", KEY)


def test_a_token_is_good_in_its_holder_s_hands_alone() -> None:
    desk, token = Desk(), minted().token
    assert desk.refused(token, "x" * 40) == "bound to another key"
    assert desk.refused(token, "local@pc2") == "bound to another key"
    desk.checker.check(token, "A", KEY)
    assert desk.refused(token, "x" * 40) == "bound to another key"


def test_a_token_from_a_host_whose_clock_is_a_little_ahead_is_good_and_from_far_ahead_not_yet() -> None:
    desk, token = Desk(), minted().token
    desk.clock.at = NOW - EARLY_S
    desk.checker.check(token, "A", KEY)
    desk.clock.at = NOW - EARLY_S - 1
    assert desk.refused(token) == "not yet valid"
    assert Desk().refused(spelled(HEAD, CLAIMS | {"nbf": NOW + EARLY_S + 1})) == "not yet valid"


def test_a_token_of_an_issuer_that_was_replaced_is_refused_at_once() -> None:
    desk, token = Desk(), minted().token
    desk.checker.check(token, "A", KEY)
    desk.keyring = ring(public=ed25519.public_of(ed25519.new_seed()))
    assert desk.refused(token) == "bad signature"
    desk.keyring = Keyring(own_host="pc2")
    assert desk.refused(token) == "unknown issuer"
    desk.keyring = ring(public="!" * 43)
    assert desk.refused(token) == "bad signature"


def test_one_issuer_cannot_speak_as_another() -> None:
    claims = CLAIMS | {"iss": "operator@pc2"}
    assert Desk().refused(spelled(HEAD, claims)) == "unknown issuer"
    assert Desk().refused(spelled(HEAD, CLAIMS, OPERATOR_SEED)) == "bad signature"
    assert Desk().refused(spelled(HEAD | {"kid": "operator@pc2"}, claims)) == "bad signature"
    Desk().checker.check(spelled(HEAD | {"kid": "operator@pc2"}, claims, OPERATOR_SEED), "A", KEY)


@pytest.mark.parametrize(
    "token",
    [
        "",
        ".",
        "..",
        "a.b.c",
        "....",
        "é.é.é",
        "x" * 9_000,
        spelled(HEAD | {"alg": "none"}, CLAIMS),
        spelled(HEAD | {"alg": "HS256"}, CLAIMS),
        spelled(HEAD | {"crit": ["exp"]}, CLAIMS),
        spelled(HEAD | {"jwk": {}}, CLAIMS),
        spelled({"alg": "EdDSA", "kid": GATEWAY}, CLAIMS),
        spelled({"alg": "EdDSA", "typ": "JWT"}, CLAIMS),
        spelled([], CLAIMS),
        spelled(HEAD, []),
        spelled(HEAD, {key: value for key, value in CLAIMS.items() if key != "exp"}),
        spelled(HEAD, {key: value for key, value in CLAIMS.items() if key != "cnf"}),
        spelled(HEAD, CLAIMS | {"exp": "tomorrow"}),
        spelled(HEAD, CLAIMS | {"exp": -1}),
        spelled(HEAD, CLAIMS | {"exp": 10**400}),
        spelled(HEAD, CLAIMS | {"exp": 1e308}),
        spelled(HEAD, CLAIMS | {"cnf": "k"}),
        spelled(HEAD, CLAIMS) + "=",
        spelled(HEAD, CLAIMS) + "\n",
        spelled(HEAD, CLAIMS).rpartition(".")[0] + ".",
        spelled(HEAD, CLAIMS).rpartition(".")[0] + ".AAAA",
    ],
)
def test_what_is_not_spelled_as_a_token_is_malformed_and_never_worse(token: str) -> None:
    assert Desk().refused(token) == "malformed"


def test_a_deep_claim_is_malformed() -> None:
    head = ed25519.encoded(json.dumps(HEAD).encode())
    deep = ed25519.encoded(b'{"iss":' + b"[" * 3_000)
    signature = ed25519.encoded(bytes(64))
    assert Desk().refused(f"{head}.{deep}.{signature}") == "malformed"


@given(
    st.text("abcAB09_.-", min_size=1, max_size=40),
    st.lists(st.sampled_from(["read", "use", "control", "control:Supervisor"]), max_size=4),
    st.text(max_size=60),
    st.floats(0, 4e9),
    st.floats(1, 3_600),
)
def test_every_token_minted_is_accepted_here_and_by_pyjwt(
    subject: str, scopes: list[str], binding: str, now: float, ttl_s: float
) -> None:
    token = Minter(GATEWAY, SEED).mint(subject, scopes, binding, now=now, ttl_s=ttl_s)
    assert accepted_by_pyjwt(token.token)
    claims, issuer = verify(token.token, ring())
    assert claims == token.claims
    assert issuer.name == GATEWAY


@given(st.data())
def test_a_token_with_any_byte_changed_is_refused_here_and_by_pyjwt(data: st.DataObject) -> None:
    token = minted("read").token
    parts = [bytearray(ed25519.decoded(part)) for part in token.split(".")]
    part = parts[data.draw(st.integers(0, 2))]
    part[data.draw(st.integers(0, len(part) - 1))] ^= data.draw(st.integers(1, 255))
    tampered = ".".join(ed25519.encoded(bytes(part)) for part in parts)
    assert not accepted_here(tampered)
    assert not accepted_by_pyjwt(tampered)


@given(st.text("abcAB09_-.=+/ \n", max_size=20), st.integers(0, 300))
def test_what_is_accepted_here_pyjwt_accepts_too(noise: str, at: int) -> None:
    token = minted("read").token
    changed = token[:at] + noise + token[at + len(noise) :]
    assert accepted_by_pyjwt(changed) or not accepted_here(changed)


def test_a_token_has_one_spelling() -> None:
    token = minted().token
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    last = alphabet.index(token[-1])
    others = [token[:-1] + alphabet[last ^ bit] for bit in (1, 2, 4, 8)]
    raw = base64.urlsafe_b64decode(token.rpartition(".")[2] + "==")
    assert all(base64.urlsafe_b64decode(other.rpartition(".")[2] + "==") == raw for other in others)
    assert not any(map(accepted_here, others))


def test_what_is_remembered_is_bounded_and_refused_tokens_are_not_remembered() -> None:
    desk = Desk(cached=3)
    kept = [minted().token for _ in range(5)]
    for token in kept:
        desk.checker.check(token, "A", KEY)
    for token in ("a.b.c", spelled(HEAD, CLAIMS, OPERATOR_SEED)):
        desk.refused(token)
    assert list(desk.checker._known) == kept[2:]
    desk.checker.check(kept[2], "A", KEY)
    desk.checker.check(kept[0], "A", KEY)
    assert list(desk.checker._known) == [kept[4], kept[2], kept[0]]


def test_no_repr_and_no_error_shows_a_token() -> None:
    token = minted()
    assert token.token not in repr(token)
    assert isinstance(BadToken("expired", "x"), Unauthenticated)
    for reason in ("expired", "revoked", "unknown issuer", "bad signature"):
        assert BadToken(reason, "get a new one").message.startswith("the token is ")


def test_a_token_seen_before_is_checked_many_times_faster_than_a_new_one() -> None:
    desk, token = Desk(), minted().token

    def first() -> None:
        desk.checker._known.clear()
        desk.checker.check(token, "A", KEY)

    def again() -> None:
        desk.checker.check(token, "A", KEY)

    assert min(repeat(again, number=100, repeat=5)) * 10 < min(repeat(first, number=100, repeat=5))
