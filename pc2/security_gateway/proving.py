"""Proving: who shows a secret is the identity that it names, or is told so little that nothing is learnt from it.

An unknown name, a wrong password and a wrong API key get the same answer after the same time: the shape of the secret alone
decides whether it is hashed as a password or compared as a key, and where there is nothing to check against it is checked all
the same. The back-off comes first, so that guesses which must wait cost nothing. The right API key alone does not wait: it has
256 bits of chance and is found by no guessing, so that nobody's wrong tries keep its owner out.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Final

from common.api.security_gateway import Identity
from common.errors import Overloaded, Unauthenticated
from common.security.passwords import Passwords
from pc2.security_gateway import credentials
from pc2.security_gateway.identities import IdentityBook, Kept
from pc2.security_gateway.lockout import Lockout

WRONG: Final = "the name or the secret is wrong"


class Proving:
    """Checks secrets against the book; `now` is monotonic seconds."""

    def __init__(self, book: IdentityBook, passwords: Passwords, lockout: Lockout, now: Callable[[], float]) -> None:
        self._book = book
        self._passwords = passwords
        self._lockout = lockout
        self._now = now
        self._log = logging.getLogger("tandem.security")
        self.wrong = 0
        self.held_off = 0

    async def prove(self, name: str, secret: str, host: str) -> Identity:
        """The identity `name`, whose secret it is; Unauthenticated for all else, Overloaded when too many are being checked."""
        if credentials.is_api_key(secret) and credentials.is_key(secret, self._book.kept(name).api_key):
            return self._book.known(name)
        try:
            self._lockout.begin(name, host, self._now())
        except Unauthenticated:
            self.held_off += 1
            raise
        kept = self._book.kept(name)
        try:
            good = await self._is_secret(kept, secret)
        except Overloaded:
            self._lockout.dropped(name, host)
            raise
        except BaseException:
            self._lockout.failed(name, host, self._now())
            raise
        if not good or self._book.kept(name) != kept:
            self._failed(name, host)
            raise Unauthenticated(WRONG)
        self._lockout.succeeded(name, host)
        return self._book.known(name)

    async def _is_secret(self, kept: Kept, secret: str) -> bool:
        if credentials.is_api_key(secret):
            return credentials.is_key(secret, kept.api_key)
        return await self._passwords.matches(kept.password, secret)

    def _failed(self, name: str, host: str) -> None:
        """What was typed for a name may be a password, so a name that nobody has is not written down."""
        self.wrong += 1
        self._lockout.failed(name, host, self._now())
        told = name if self._book.has(name) else "an unknown name"
        self._log.warning("a wrong secret for %s from %s", told, host)
