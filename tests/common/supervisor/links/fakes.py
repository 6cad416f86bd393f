"""Signed lists without cryptography: a signature names the key that made it and the bytes under it."""

from __future__ import annotations

import msgspec

from common.errors import Unauthenticated
from common.security.keyring import HostKeys, KeyEntry, SignedKeys, Vouch


def signed(keys: HostKeys, public: str) -> SignedKeys:
    body = msgspec.msgpack.encode(keys)
    return SignedKeys(body, public.encode() + b":" + body)


def check(offered: SignedKeys, public: str) -> HostKeys:
    if offered.signature != public.encode() + b":" + offered.body:
        raise Unauthenticated("not signed by it")
    return msgspec.msgpack.decode(offered.body, type=HostKeys)


def keys(host: str, serial: int = 1, *vouches: Vouch) -> HostKeys:
    own = KeyEntry("supervisor", "supervisor", f"{host}-{serial}".ljust(40, "."))
    return HostKeys(host=host, serial=serial, issued_at=float(serial), keys=[own], vouches=list(vouches))
