"""Signed lists without cryptography: a signature names the key that made it and the bytes under it; and a bundle to join with."""

from __future__ import annotations

import msgspec

from common.api.links import BUNDLE_FORMAT, Bundle
from common.errors import Unauthenticated
from common.security.keyring import HostKeys, KeyEntry, SignedKeys, Vouch
from common.supervisor.links import bundle


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


def invitation(secret: str = "the secret", expires_at: str = "2126-01-01T00:15:00Z") -> Bundle:
    """A bundle by which mainpc invites pc2, as it is written."""
    return bundle.sealed(
        Bundle(
            format=BUNDLE_FORMAT,
            host="pc2",
            inviter="mainpc",
            address="10.0.0.1",
            port=7090,
            server_key="s" * 40,
            host_key="h" * 43,
            key="k" * 40,
            secret_key="x" * 40,
            secret=secret,
            expires_at=expires_at,
        )
    )
