"""Ed25519 (RFC 8032): seeds, public keys, signatures; keys are raw 32 bytes in base64url without padding."""

from __future__ import annotations

import os
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Callable
from functools import lru_cache
from typing import TYPE_CHECKING, Final

from common.errors import Unauthenticated
from common.security import sodium

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

KEY_BYTES: Final = 32
SIGNATURE_BYTES: Final = 64

Verify = Callable[[bytes, bytes], bool]
"""Whether the signature (first) is the key's under the message (second)."""


def new_seed() -> str:
    """A fresh private seed."""
    return encoded(os.urandom(KEY_BYTES))


def public_of(seed: str) -> str:
    """The public key of a seed; ValueError when it is none."""
    signer = sodium.signer(decoded(seed))
    return encoded(signer.public if signer else private_key(seed).public_key().public_bytes_raw())


def private_key(seed: str) -> Ed25519PrivateKey:
    """OpenSSL's key of a seed; ValueError when it is none."""
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    return Ed25519PrivateKey.from_private_bytes(decoded(seed))


def sign(seed: str, message: bytes) -> bytes:
    """The signature of `message` under the seed; ValueError when it is none."""
    signer = sodium.signer(decoded(seed))
    return signer.sign(message) if signer else private_key(seed).sign(message)


@lru_cache(maxsize=64)
def verifier(public: str) -> Verify:
    """The check of signatures under a public key, the fastest there is here; Unauthenticated when that is no key."""
    try:
        raw = decoded(public)
    except ValueError:
        raw = b""
    if len(raw) != KEY_BYTES:
        raise Unauthenticated("not an Ed25519 public key")
    return sodium.verifier(raw) or openssl_verifier(raw)


def openssl_verifier(public: bytes) -> Verify:
    """The same check by OpenSSL, under a key of 32 bytes."""
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    verify = Ed25519PublicKey.from_public_bytes(public).verify

    def check(signature: bytes, message: bytes) -> bool:
        try:
            verify(signature, message)
        except InvalidSignature:
            return False
        return True

    return check


def encoded(raw: bytes) -> str:
    """Base64url without padding."""
    return urlsafe_b64encode(raw).rstrip(b"=").decode()


def decoded(text: str | bytes) -> bytes:
    """What `encoded` made; ValueError for any other spelling of it."""
    spelled = text.encode("ascii") if isinstance(text, str) else text
    raw = urlsafe_b64decode(spelled + b"=" * (-len(spelled) % 4))
    if urlsafe_b64encode(raw).rstrip(b"=") != spelled:
        raise ValueError("not base64url as it must be spelled")
    return raw
