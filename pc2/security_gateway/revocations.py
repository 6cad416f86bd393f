"""Revocations: tokens and identities whose tokens are good no more, each kept for as long as one of those could be shown.

A token's revocation is kept until the token has expired, an identity's until every token issued before it has. Both the wall
clock and the time that was waited must say so, as the wall clock may step: as long as a token may live has been waited, by a
clock that does not, and begins anew with each life of the service.
Decisions are facts that the shell stores and applies; nothing here reads a clock: `wall` is seconds since 1970, `now` monotonic.
"""

from __future__ import annotations

from collections.abc import Iterable
from math import inf, nextafter
from typing import Final

from msgspec import Struct

from common.api.security_gateway import MAX_TTL_S, RevocationsChanged
from common.store.protocol import Change
from common.store.records import Records

SLACK_S: Final = 120.0
"""How far the clocks of two hosts may be apart, with room to spare."""


class TokenRevoked(Struct, frozen=True, kw_only=True, tag_field="fact", tag="token_revoked.1"):
    """Fact: the token `jti`, which expires at `exp`, is good no more since `at`."""

    jti: str
    exp: float
    at: float


class IdentityRevoked(Struct, frozen=True, kw_only=True, tag_field="fact", tag="identity_revoked.1"):
    """Fact: no token of `name` that was issued before `at` is good any more."""

    name: str
    at: float


class Dropped(Struct, frozen=True, kw_only=True, tag_field="fact", tag="dropped.1"):
    """Fact: nothing that was revoked under these could still be shown."""

    tokens: list[str]
    identities: list[str]


Fact = TokenRevoked | IdentityRevoked | Dropped

TOKENS: Final = Records("revoked_tokens", TokenRevoked)
IDENTITIES: Final = Records("revoked_identities", IdentityRevoked)


def rows(fact: Fact) -> tuple[Change, ...]:
    """What must be committed for `fact` to outlive the process."""
    match fact:
        case TokenRevoked():
            return (TOKENS.put(fact.jti, fact),)
        case IdentityRevoked():
            return (IDENTITIES.put(fact.name, fact),)
        case _:
            return (*map(TOKENS.delete, fact.tokens), *map(IDENTITIES.delete, fact.identities))


class RevocationBook:
    """What is revoked now; only `apply` and `restore` change it.

    `tokens` maps ids to their expiry and `identities` names to the time of their end. Both are changed in place, so that who
    holds them sees each change at once.
    """

    def __init__(self) -> None:
        self.tokens: dict[str, float] = {}
        self.identities: dict[str, float] = {}
        self._good_until: dict[tuple[str, str], tuple[float, float]] = {}

    def __len__(self) -> int:
        return len(self._good_until)

    def revoke_token(self, jti: str, exp: float, wall: float) -> TokenRevoked | None:
        """The fact of a token's end; None: it was revoked before, or is over by any clock."""
        over = exp + MAX_TTL_S <= wall or jti in self.tokens
        return None if over else TokenRevoked(jti=jti, exp=exp, at=wall)

    def revoke_identity(self, name: str, wall: float) -> IdentityRevoked:
        """The fact of the end of all tokens of an identity; `wall` is no earlier than the last of them was issued."""
        return IdentityRevoked(name=name, at=nextafter(max(wall, self.identities.get(name, 0.0)), inf))

    def drop(self, wall: float, now: float) -> Dropped | None:
        """The fact that some could not be shown any more, revoked or not; None: all of them could."""
        over = [key for key, (at_wall, at_now) in self._good_until.items() if wall >= at_wall and now >= at_now]
        if not over:
            return None
        tokens = [name for kind, name in over if kind == TOKENS.table]
        return Dropped(tokens=tokens, identities=[name for kind, name in over if kind == IDENTITIES.table])

    def apply(self, fact: Fact, now: float) -> RevocationsChanged:
        """Make it so; the event that tells of it."""
        match fact:
            case TokenRevoked():
                self.tokens[fact.jti] = fact.exp
                self._keep((TOKENS.table, fact.jti), fact.exp, max(MAX_TTL_S, fact.exp - fact.at), now)
                return RevocationsChanged(change="revoked", tokens={fact.jti: fact.exp})
            case IdentityRevoked():
                self.identities[fact.name] = fact.at
                self._keep((IDENTITIES.table, fact.name), fact.at + MAX_TTL_S, MAX_TTL_S, now)
                return RevocationsChanged(change="revoked", identities={fact.name: fact.at})
            case _:
                return self._drop(fact)

    def restore(self, known: Iterable[TokenRevoked | IdentityRevoked], now: float) -> None:
        """Begin anew from what was stored."""
        self.tokens.clear()
        self.identities.clear()
        self._good_until.clear()
        for fact in known:
            self.apply(fact, now)

    def _keep(self, key: tuple[str, str], until_wall: float, for_s: float, now: float) -> None:
        self._good_until[key] = (until_wall + SLACK_S, now + for_s + SLACK_S)

    def _drop(self, fact: Dropped) -> RevocationsChanged:
        for jti in fact.tokens:
            self._good_until.pop((TOKENS.table, jti))
        for name in fact.identities:
            self._good_until.pop((IDENTITIES.table, name))
        return RevocationsChanged(
            change="dropped",
            tokens={jti: self.tokens.pop(jti) for jti in fact.tokens},
            identities={name: self.identities.pop(name) for name in fact.identities},
        )
