"""API keys: how they are spelled, and what is kept of them.

A key is `tandem_<id>_<random>`: the id is no secret and tells one key from another, the random part has 256 bits. Of so much
chance a plain SHA-256 is enough to keep; passwords, which people think up, are hashed elsewhere and slowly. Only the shape of
a secret decides how it is checked, so the time that takes says nothing about the identity.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from base64 import urlsafe_b64encode
from typing import Final

from common.api.security_gateway import MIN_PASSWORD_CHARS
from common.clock import Rng
from common.errors import BadRequest

_SHAPE: Final = re.compile(r"tandem_[0-9a-f]{12}_[A-Za-z0-9_-]{43}")
_NOBODYS: Final = bytes(32)


def new_api_key(rng: Rng) -> str:
    """A fresh key; `rng` is the system's."""
    chance = urlsafe_b64encode(rng.getrandbits(256).to_bytes(32)).rstrip(b"=").decode()
    return f"tandem_{rng.getrandbits(48):012x}_{chance}"


def is_api_key(secret: str) -> bool:
    """Whether a secret is spelled as an API key, so that it is checked as one and as nothing else."""
    return _SHAPE.fullmatch(secret) is not None


def check_password(secret: str) -> None:
    """BadRequest for a secret that cannot be kept as a password: too short (NIST SP 800-63B), or spelled as an API key."""
    if len(secret) < MIN_PASSWORD_CHARS:
        raise BadRequest(
            f"a password has {MIN_PASSWORD_CHARS} characters or more; leave `secret` out to be given an API key"
        )
    if is_api_key(secret):
        raise BadRequest("a password is not spelled as an API key; leave `secret` out to be given one")


def digest(api_key: str) -> bytes:
    """What is kept of a key."""
    return hashlib.sha256(api_key.encode()).digest()


def is_key(api_key: str, kept: bytes) -> bool:
    """Whether `kept` is the digest of this key, in the same time whatever it is; "" is nobody's."""
    return hmac.compare_digest(digest(api_key), kept or _NOBODYS)
