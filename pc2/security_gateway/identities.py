"""The identities: who may ask for tokens, what those may allow at most, and what is kept to check the secret by.

`create` and `revoke` decide and change nothing; the shell writes the `rows` of the fact they return and applies it. No secret is
kept: of an API key its digest, of a password its argon2id hash. It checks no secret and knows no clock.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Annotated, Final

from msgspec import Meta, Struct

from common.api.security_gateway import CreateIdentity, Identity
from common.errors import Conflict, Forbidden, NotFound, Overloaded
from common.security.keyring import covers
from common.store.protocol import Change, RecordStore
from common.store.records import Records


class Limits(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How much is held."""

    identities: Annotated[int, Meta(ge=1, le=1_000_000, description="identities")] = 10_000


class Kept(Struct, frozen=True):
    """What a secret is checked by: the digest of an API key or the hash of a password, the other one empty."""

    api_key: bytes = b""
    password: str = ""

    def __repr__(self) -> str:
        return f"Kept({'password' if self.password else 'api_key'})"


class IdentityCreated(Struct, frozen=True, kw_only=True, tag_field="fact", tag="identity_created.1"):
    """Fact: the identity is there."""

    identity: Identity
    kept: Kept


class IdentityGone(Struct, frozen=True, kw_only=True, tag_field="fact", tag="identity_gone.1"):
    """Fact: the identity is no more, and its name is free."""

    identity: Identity


Fact = IdentityCreated | IdentityGone

IDENTITIES: Final = Records("identities", IdentityCreated)
STARTED: Final = Records("started", Identity)
"""Holds the operator as the first start made it, so that one who revoked it for good is not given another."""


def rows(fact: Fact) -> tuple[Change, ...]:
    """What must be committed for `fact` to outlive the process."""
    name = fact.identity.name
    return (IDENTITIES.put(name, fact) if isinstance(fact, IdentityCreated) else IDENTITIES.delete(name),)


class IdentityBook:
    """All identities by name."""

    def __init__(self, limits: Limits | None = None) -> None:
        self._limits = limits or Limits()
        self._entries: dict[str, IdentityCreated] = {}

    def __len__(self) -> int:
        return len(self._entries)

    def has(self, name: str) -> bool:
        """Whether there is such an identity."""
        return name in self._entries

    def listed(self) -> list[Identity]:
        """All of them, in order of name."""
        return [entry.identity for _, entry in sorted(self._entries.items())]

    def kept(self, name: str) -> Kept:
        """What to check a secret of `name` by; of an unknown one, what no secret passes."""
        entry = self._entries.get(name)
        return entry.kept if entry is not None else Kept()

    def known(self, name: str) -> Identity:
        """The identity; NotFound."""
        entry = self._entries.get(name)
        if entry is None:
            raise NotFound(f"no identity {name!r}; `list_identities` tells which there are")
        return entry.identity

    def may_create(self, asked: CreateIdentity, held: Sequence[str]) -> None:
        """Whether a caller with the scopes `held` may make this identity: Forbidden, Conflict, Overloaded."""
        beyond = [scope for scope in asked.scopes if not covers(held, scope)]
        if beyond:
            raise Forbidden(f"nobody gives scopes that it has not itself: {', '.join(beyond)}", scopes=beyond)
        if asked.name in self._entries:
            raise Conflict(f"there is an identity {asked.name!r} already; revoke it first, or choose another name")
        if len(self._entries) >= self._limits.identities:
            raise Overloaded(f"{len(self._entries)} identities are the most there may be; revoke some first")

    def create(self, asked: CreateIdentity, kept: Kept, *, by: str, at: str) -> IdentityCreated:
        """The fact of a new identity; `may_create` has been asked."""
        identity = Identity(
            name=asked.name,
            kind=asked.kind,
            scopes=list(dict.fromkeys(asked.scopes)),
            credential="password" if kept.password else "api_key",
            created_at=at,
            created_by=by,
        )
        return IdentityCreated(identity=identity, kept=kept)

    def revoke(self, name: str) -> IdentityGone:
        """The fact of its end; NotFound."""
        return IdentityGone(identity=self.known(name))

    def apply(self, fact: Fact) -> None:
        """Make it so."""
        if isinstance(fact, IdentityCreated):
            self._entries[fact.identity.name] = fact
        else:
            self._entries.pop(fact.identity.name, None)

    def restore(self, known: Iterable[IdentityCreated]) -> None:
        """Begin anew from what was stored."""
        self._entries = {fact.identity.name: fact for fact in known}


def was_started(store: RecordStore) -> bool:
    """Whether this store has seen its first start; StorageUnavailable."""
    return next(STARTED.load(store), None) is not None


def scopes_for(identity: Identity, asked: Sequence[str] | None) -> list[str]:
    """The scopes of a token of `identity`: all that it has, or those asked for; Forbidden names those beyond."""
    if asked is None:
        return identity.scopes
    beyond = [scope for scope in asked if not covers(identity.scopes, scope)]
    if beyond:
        raise Forbidden(f"{identity.name} may not have {', '.join(beyond)}", scopes=beyond, may_have=identity.scopes)
    return list(dict.fromkeys(asked))
