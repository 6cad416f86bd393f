from __future__ import annotations

import ctypes
from collections.abc import Iterator
from types import SimpleNamespace

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from common.errors import Unauthenticated
from common.security import ed25519, sodium

SEED = ed25519.encoded(bytes.fromhex("9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60"))
PUBLIC = ed25519.encoded(bytes.fromhex("d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a"))
SIGNATURE = bytes.fromhex(
    "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e065224901555fb8821590a33bacc61e39701cf9b46bd25bf5f0595bbe24655141438e7a100b"
)


def test_keys_and_signatures_are_those_of_rfc_8032_section_7_1() -> None:
    assert ed25519.public_of(SEED) == PUBLIC
    assert ed25519.sign(SEED, b"") == SIGNATURE
    assert ed25519.verifier(PUBLIC)(SIGNATURE, b"")


@pytest.fixture
def without_libsodium(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A machine where pyzmq brings none, or one that is something else."""
    monkeypatch.setattr(sodium, "_candidates", lambda: iter(["/nowhere/libsodium.so", "libc.so.6"]))
    for cached in (sodium._library, ed25519.verifier):
        cached.cache_clear()  # type: ignore[attr-defined]
    yield
    monkeypatch.undo()
    for cached in (sodium._library, ed25519.verifier):
        cached.cache_clear()  # type: ignore[attr-defined]


@pytest.mark.usefixtures("without_libsodium")
def test_without_libsodium_openssl_checks() -> None:
    assert sodium.verifier(ed25519.decoded(PUBLIC)) is None
    assert ed25519.verifier(PUBLIC)(SIGNATURE, b"")
    assert not ed25519.verifier(PUBLIC)(SIGNATURE, b"x")
    with pytest.raises(Unauthenticated, match="not an Ed25519 public key"):
        ed25519.verifier("short")


@pytest.mark.usefixtures("without_libsodium")
def test_without_libsodium_openssl_signs() -> None:
    assert sodium.signer(ed25519.decoded(SEED)) is None
    assert ed25519.public_of(SEED) == PUBLIC
    assert ed25519.sign(SEED, b"") == SIGNATURE


def test_pyzmq_brings_a_libsodium_that_is_used() -> None:
    assert sodium.verifier(ed25519.decoded(PUBLIC)) is not None
    assert sodium.signer(ed25519.decoded(SEED)) is not None


class Agreeing:
    """A function that says yes, and does nothing."""

    def __call__(self, *_: object) -> int:
        return 0


@pytest.mark.parametrize(
    "fake",
    [
        {"crypto_sign_verify_detached"},
        {"crypto_sign_detached"},
        {"crypto_sign_seed_keypair"},
        {"crypto_sign_verify_detached", "crypto_sign_detached", "crypto_sign_seed_keypair"},
    ],
)
def test_a_library_that_does_nothing_is_not_used(fake: set[str], monkeypatch: pytest.MonkeyPatch) -> None:
    real = ctypes.CDLL(next(sodium._candidates()))
    names = ("sodium_init", "crypto_sign_verify_detached", "crypto_sign_detached", "crypto_sign_seed_keypair")
    library = SimpleNamespace(**{name: Agreeing() if name in fake else getattr(real, name) for name in names})
    monkeypatch.setattr(sodium.ctypes, "CDLL", lambda _: library)

    assert sodium._usable("any") is None


@given(st.binary(min_size=32, max_size=32), st.binary(max_size=200))
def test_libsodium_and_openssl_sign_the_same(seed: bytes, message: bytes) -> None:
    ours, theirs = sodium.signer(seed), Ed25519PrivateKey.from_private_bytes(seed)

    assert ours is not None
    assert ours.public == theirs.public_key().public_bytes_raw()
    assert ours.sign(message) == theirs.sign(message)


@pytest.mark.parametrize("seed", ["", "short", SEED + "AA", "!"])
def test_what_is_no_seed_signs_nothing(seed: str) -> None:
    with pytest.raises(ValueError, match=r"seed has 32 bytes|base64|padding|data character"):
        ed25519.sign(seed, b"x")
    with pytest.raises(ValueError, match=r"seed has 32 bytes|base64|padding|data character"):
        ed25519.public_of(seed)


@given(st.binary(max_size=100), st.binary(max_size=80), st.integers(0, 600))
def test_libsodium_and_openssl_say_the_same_of_every_signature(message: bytes, noise: bytes, at: int) -> None:
    both = [sodium.verifier(ed25519.decoded(PUBLIC)), ed25519.openssl_verifier(ed25519.decoded(PUBLIC))]
    signature = ed25519.sign(SEED, message)
    changed = bytearray(signature)
    changed[at % 64] ^= 1 + at % 255
    for shown in (signature, bytes(changed), noise, noise[:64].ljust(64, b"\0"), signature + noise):
        assert len({check(shown, message) for check in both if check is not None}) == 1


@given(st.binary(max_size=200), st.integers(0, 511))
def test_a_signature_with_one_bit_changed_is_none(message: bytes, bit: int) -> None:
    signature = bytearray(ed25519.sign(SEED, message))
    assert ed25519.verifier(PUBLIC)(bytes(signature), message)
    signature[bit // 8] ^= 1 << bit % 8
    assert not ed25519.verifier(PUBLIC)(bytes(signature), message)


def test_a_signature_of_another_key_or_of_another_length_is_none() -> None:
    check = ed25519.verifier(PUBLIC)
    assert not check(Ed25519PrivateKey.generate().sign(b"x"), b"x")
    assert not check(SIGNATURE[:-1], b"")
    assert not check(SIGNATURE + b"x", b"")
    assert not check(b"", b"")


@pytest.mark.parametrize("public", ["", "short", "!" * 43, PUBLIC + "A", PUBLIC + "=", "\u00e9" * 43])
def test_what_is_no_key_is_told_to_be_none(public: str) -> None:
    with pytest.raises(Unauthenticated, match="not an Ed25519 public key"):
        ed25519.verifier(public)


def test_two_seeds_are_two_keys() -> None:
    assert ed25519.public_of(ed25519.new_seed()) != ed25519.public_of(ed25519.new_seed())


@given(st.binary(max_size=70))
def test_base64url_goes_there_and_back(raw: bytes) -> None:
    assert ed25519.decoded(ed25519.encoded(raw)) == raw


@given(st.text("AQgwZ09-_=+/ \n", max_size=12))
def test_there_is_one_spelling_of_any_bytes(text: str) -> None:
    try:
        raw = ed25519.decoded(text)
    except ValueError:
        return
    assert ed25519.encoded(raw) == text
