from __future__ import annotations

from math import inf, nan
from typing import Any

import msgspec
import pytest

from common.errors import Unauthenticated
from common.security import ed25519, host_signing
from common.security.keyring import HostKeys, Issuer, KeyEntry, SignedKeys, Vouch

SEED = ed25519.new_seed()
PUBLIC = ed25519.public_of(SEED)
KEYS = HostKeys(
    host="pc2",
    serial=3,
    issued_at=12.5,
    address="10.0.0.2",
    supervisor_port=7091,
    events_port=7591,
    keys=[KeyEntry("hub", "service", "k" * 40)],
    issuers=[Issuer("SecurityGateway", "s" * 43, ["control"])],
)


def test_a_signed_list_is_the_list_that_was_signed() -> None:
    assert host_signing.verify(host_signing.sign(KEYS, SEED), PUBLIC) == KEYS


def test_a_list_of_another_host_s_key_or_with_a_changed_byte_is_refused() -> None:
    signed = host_signing.sign(KEYS, SEED)
    changed = SignedKeys(signed.body.replace(b"hub", b"hut"), signed.signature)
    with pytest.raises(Unauthenticated, match="not signed"):
        host_signing.verify(changed, PUBLIC)
    with pytest.raises(Unauthenticated, match="not signed"):
        host_signing.verify(signed, ed25519.public_of(ed25519.new_seed()))


@pytest.mark.parametrize("body", [b"", b"\xc1", b"\x81", msgspec.msgpack.encode({"host": "pc2"}), b"\x91" * 3_000])
def test_what_is_signed_and_no_list_is_refused(body: bytes) -> None:
    with pytest.raises(Unauthenticated, match="cannot be read"):
        host_signing.verify(SignedKeys(body, ed25519.sign(SEED, body)), PUBLIC)


@pytest.mark.parametrize(
    "odd", [{"issued_at": nan}, {"issued_at": inf}, {"serial": 2**63}, {"vouches": [Vouch("c", "C", 2**64 - 1)]}]
)
def test_numbers_that_no_keyring_file_could_hold_are_refused_though_signed(odd: dict[str, Any]) -> None:
    signed = host_signing.sign(msgspec.structs.replace(KEYS, **odd), SEED)
    with pytest.raises(Unauthenticated, match="cannot be read"):
        host_signing.verify(signed, PUBLIC)
