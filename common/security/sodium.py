"""Ed25519 verification by the libsodium that pyzmq brings for CURVE: 36 us a signature where OpenSSL takes 62.

It is in every process already, so that one which only checks tokens imports nothing more. Whether it can be used is found out
once, by RFC 8032's first test vector; where not, there is no `verifier`, and the caller has another.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Final

_PUBLIC: Final = bytes.fromhex("d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a")
_SIGNATURE: Final = bytes.fromhex(
    "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e065224901555fb8821590a33bacc61e39701cf9b46bd25bf5f0595bbe24655141438e7a100b"
)

_Verify = Callable[[bytes, bytes, int, bytes], int]


def verifier(public: bytes) -> Callable[[bytes, bytes], bool] | None:
    """The check of signatures (64 bytes) under a key (32 bytes); None where there is no libsodium to be had."""
    verify = _library()
    if verify is None:
        return None

    def check(signature: bytes, message: bytes) -> bool:
        return len(signature) == len(_SIGNATURE) and verify(signature, message, len(message), public) == 0

    return check


@cache
def _library() -> _Verify | None:
    return next(filter(None, map(_usable, _candidates())), None)


def _candidates() -> Iterator[str]:
    """Where pyzmq's wheels keep it."""
    import zmq

    yield from map(str, sorted((Path(zmq.__file__).parent.parent / "pyzmq.libs").glob("libsodium*.so*")))


def _usable(name: str) -> _Verify | None:
    try:
        library = ctypes.CDLL(name)
        verify = library.crypto_sign_verify_detached
    except (OSError, AttributeError):
        return None
    verify.argtypes = (ctypes.c_char_p, ctypes.c_char_p, ctypes.c_ulonglong, ctypes.c_char_p)
    verify.restype = ctypes.c_int
    good = library.sodium_init() >= 0 and verify(_SIGNATURE, b"", 0, _PUBLIC) == 0
    return verify if good and verify(_SIGNATURE, b"x", 1, _PUBLIC) != 0 else None
