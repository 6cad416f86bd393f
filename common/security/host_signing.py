"""A host's signature under the list of its keys: made by its supervisor, checked by every other."""

from __future__ import annotations

import msgspec

from common.errors import Unauthenticated
from common.security import ed25519
from common.security.keyring import HostKeys, SignedKeys


def sign(keys: HostKeys, seed: str) -> SignedKeys:
    """The list, signed by the host's seed."""
    body = msgspec.msgpack.encode(keys)
    return SignedKeys(body, ed25519.sign(seed, body))


def verify(signed: SignedKeys, public: str) -> HostKeys:
    """The list that the holder of the host key `public` signed; Unauthenticated when it did not, or when it is no list."""
    if not ed25519.verifier(public)(signed.signature, signed.body):
        raise Unauthenticated("the list of keys was not signed by that host's key")
    try:
        return msgspec.msgpack.decode(signed.body, type=HostKeys)
    except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
        raise Unauthenticated(f"the list of keys cannot be read: {error}") from None
