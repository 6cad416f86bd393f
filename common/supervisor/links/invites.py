"""Invitations: decides whether a secret admits a host, once and in its time; makes no secret and reads no clock.

Of a secret only its hash is kept. One host has one open invitation; a newer one replaces it.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Final

from msgspec import Struct
from msgspec.structs import replace

from common.errors import Conflict, Forbidden, NotFound

KEPT_S: Final = 30 * 86_400.0
"""So long after its end an invitation is remembered, for whoever still comes with it."""
GRACE_S: Final = 3_600.0
"""So long after its end the one-time key may still connect, to be told that it is late."""


class Invite(Struct, frozen=True, kw_only=True):
    """An invitation of `host`: its one-time CURVE key, the hash of its secret, and how it ended; times since 1970."""

    host: str
    public: str
    secret_hash: str
    issued_at: float
    expires_at: float
    replaced_at: float | None = None
    used_at: float | None = None
    used_by: str = ""


def hash_of(secret: str) -> str:
    """What is kept of a secret; 256 random bits need no slow hash."""
    return hashlib.sha256(secret.encode()).hexdigest()


def issued(invites: Sequence[Invite], fresh: Invite) -> list[Invite]:
    """With a new invitation, which replaces an open one of the same host."""
    return [*(_replaced(one, fresh) for one in invites), fresh]


def redeemed(invites: Sequence[Invite], secret: str, host: str, public: str, now: float) -> list[Invite]:
    """The invitations after the host with this host key showed its secret; the same host key may come again in time.

    NotFound for a secret that was never given out here, Forbidden for another host's, Conflict for one whose time is over.
    """
    invite = _found(invites, secret)
    if host != invite.host:
        raise Forbidden(f"this bundle invites {invite.host}, not {host}", mend=again(host))
    if invite.used_at is not None and invite.used_by != public:
        raise Conflict(f"the bundle was used at {spelled(invite.used_at)} by {invite.host}", mend=again(host))
    if invite.replaced_at is not None:
        raise Conflict(f"a newer bundle replaced this one at {spelled(invite.replaced_at)}", mend="use the newer one")
    if invite.expires_at <= now:
        raise Conflict(f"the bundle expired at {spelled(invite.expires_at)}", mend=again(host))
    used = replace(invite, used_at=now, used_by=public) if invite.used_at is None else invite
    return [used if one is invite else one for one in invites]


def remembered(invites: Sequence[Invite], now: float) -> list[Invite]:
    """Without those that ended long ago."""
    return [one for one in invites if one.expires_at + KEPT_S > now]


def may_connect(invites: Sequence[Invite]) -> dict[str, float]:
    """The one-time keys that may connect, and until when: those that came too late are told so by an answer."""
    return {one.public: one.expires_at + GRACE_S for one in invites}


def again(host: str) -> str:
    """The mend of a bundle that admits nobody."""
    return f"run `tandem invite {host}` again on the inviting host"


def spelled(at: float) -> str:
    """A moment as people and programs read it."""
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _replaced(one: Invite, fresh: Invite) -> Invite:
    is_open = one.host == fresh.host and one.used_at is None and one.replaced_at is None
    return replace(one, replaced_at=fresh.issued_at) if is_open else one


def _found(invites: Sequence[Invite], secret: str) -> Invite:
    """Looks at every one, so that the time taken tells nothing."""
    shown = hash_of(secret)
    matching = [one for one in invites if hmac.compare_digest(one.secret_hash, shown)]
    if not matching:
        raise NotFound(
            "no invitation given out here has this secret: it is another fabric's, or was forgotten",
            mend="take a fresh bundle from the host that is to be joined",
        )
    return matching[0]
