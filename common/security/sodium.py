"""Ed25519 by the libsodium that pyzmq brings for CURVE: it checks a signature in 36 us where OpenSSL takes 62.

It is in every process already, so that one which only checks tokens, or signs a list now and then, imports nothing more (the
binding to OpenSSL takes 8 MB). Whether it can be used is found out once, by the first test vector of RFC 8032; where not, there
is no `verifier` and no `signer`, and the caller has another.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Final, NamedTuple

_SEED: Final = bytes.fromhex("9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60")
_PUBLIC: Final = bytes.fromhex("d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a")
_SIGNATURE: Final = bytes.fromhex(
    "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e065224901555fb8821590a33bacc61e39701cf9b46bd25bf5f0595bbe24655141438e7a100b"
)


class Signer(NamedTuple):
    """The public key (32 bytes) of a seed, and what signs under it (64 bytes)."""

    public: bytes
    sign: Callable[[bytes], bytes]


class _Library(NamedTuple):
    """Its functions; each answers 0 for yes."""

    verify: Callable[[bytes, bytes, int, bytes], int]
    key_pair: Callable[[ctypes.Array[ctypes.c_char], ctypes.Array[ctypes.c_char], bytes], int]
    sign: Callable[[ctypes.Array[ctypes.c_char], None, bytes, int, ctypes.Array[ctypes.c_char]], int]


def verifier(public: bytes) -> Callable[[bytes, bytes], bool] | None:
    """The check of signatures (64 bytes) under a key (32 bytes); None where there is no libsodium to be had."""
    library = _library()
    if library is None:
        return None
    verify = library.verify

    def check(signature: bytes, message: bytes) -> bool:
        return len(signature) == len(_SIGNATURE) and verify(signature, message, len(message), public) == 0

    return check


def signer(seed: bytes) -> Signer | None:
    """What a seed of 32 bytes signs with; None where there is no libsodium to be had."""
    library = _library()
    return _signer(library, seed) if library is not None else None


def _signer(library: _Library, seed: bytes) -> Signer:
    if len(seed) != len(_SEED):
        raise ValueError(f"a seed has {len(_SEED)} bytes, not {len(seed)}")
    public = ctypes.create_string_buffer(len(_PUBLIC))
    secret = ctypes.create_string_buffer(len(_SEED) + len(_PUBLIC))
    library.key_pair(public, secret, seed)

    def sign(message: bytes) -> bytes:
        signature = ctypes.create_string_buffer(len(_SIGNATURE))
        library.sign(signature, None, message, len(message), secret)
        return signature.raw

    return Signer(public.raw, sign)


@cache
def _library() -> _Library | None:
    return next(filter(None, map(_usable, _candidates())), None)


def _candidates() -> Iterator[str]:
    """Where pyzmq's wheels keep it."""
    import zmq

    yield from map(str, sorted((Path(zmq.__file__).parent.parent / "pyzmq.libs").glob("libsodium*.so*")))


def _usable(name: str) -> _Library | None:
    try:
        library = ctypes.CDLL(name)
        verify, key_pair, sign = (
            library.crypto_sign_verify_detached,
            library.crypto_sign_seed_keypair,
            library.crypto_sign_detached,
        )
    except (OSError, AttributeError):
        return None
    verify.argtypes = (ctypes.c_char_p, ctypes.c_char_p, ctypes.c_ulonglong, ctypes.c_char_p)
    key_pair.argtypes = (ctypes.c_char_p, ctypes.c_char_p, ctypes.c_char_p)
    sign.argtypes = (ctypes.c_char_p, ctypes.c_void_p, ctypes.c_char_p, ctypes.c_ulonglong, ctypes.c_char_p)
    for function in (verify, key_pair, sign):
        function.restype = ctypes.c_int
    found = _Library(verify, key_pair, sign)
    return found if library.sodium_init() >= 0 and _is_right(found) else None


def _is_right(library: _Library) -> bool:
    """Whether it signs and checks as RFC 8032's section 7.1 has it."""
    made = _signer(library, _SEED)
    if (made.public, made.sign(b"")) != (_PUBLIC, _SIGNATURE):
        return False
    return library.verify(_SIGNATURE, b"", 0, _PUBLIC) == 0 and library.verify(_SIGNATURE, b"x", 1, _PUBLIC) != 0
