from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.errors import BadRequest
from common.telemetry.redaction import HIDDEN, redact
from pc2.security_gateway.credentials import check_password, digest, is_api_key, is_key, new_api_key

KEY = new_api_key(random.Random(1))


@given(st.randoms(use_true_random=False))
def test_a_fresh_key_is_spelled_as_one_and_is_known_by_its_digest_alone(rng: random.Random) -> None:
    key = new_api_key(rng)
    assert is_api_key(key)
    assert is_key(key, digest(key))
    assert not is_key(key, digest(KEY) if key != KEY else b"")
    assert key.encode() not in digest(key)


def test_no_two_keys_are_alike() -> None:
    rng = random.SystemRandom()
    assert len({new_api_key(rng) for _ in range(100)}) == 100


def test_what_was_kept_of_nobody_is_no_key_s() -> None:
    assert not is_key(KEY, b"")
    assert not is_key(KEY, bytes(32))


@pytest.mark.parametrize(
    "secret", ["", "tandem_", KEY[:-1], KEY + "x", KEY + "\n", KEY.upper(), "x" + KEY, "correct horse"]
)
def test_what_is_spelled_otherwise_is_no_api_key(secret: str) -> None:
    assert not is_api_key(secret)


def test_a_password_has_eight_characters_and_does_not_look_like_an_api_key() -> None:
    check_password("correct horse")
    check_password("12345678")
    for bad in ("1234567", KEY):
        with pytest.raises(BadRequest) as caught:
            check_password(bad)
        assert bad not in caught.value.message


def test_an_api_key_in_a_log_line_is_hidden() -> None:
    assert redact(f"agent began with {KEY} today") == f"agent began with {HIDDEN} today"
