"""A bundle, by which one host joins another once: decides whether it may be used, where and until when; opens no file."""

from __future__ import annotations

import hashlib
from collections.abc import Collection
from datetime import datetime
from typing import Final

import msgspec
from msgspec.structs import replace

from common.api.links import BUNDLE_FORMAT, Bundle
from common.errors import BadRequest, Conflict, Forbidden, NotFound
from common.supervisor.links.invites import again, spelled

SPENT_FORMAT: Final = "tandem-invite-spent"
MAX_BYTES: Final = 64 * 1024


class Spent(msgspec.Struct, frozen=True, kw_only=True):
    """What is left of a bundle that was used: no key, no secret."""

    format: str = SPENT_FORMAT
    host: str
    inviter: str
    used_at: str


class _Formatted(msgspec.Struct):
    format: str


def sealed(bundle: Bundle) -> Bundle:
    """The bundle with its checksum."""
    return replace(bundle, checksum=_checksum(bundle))


def read(raw: bytes, name: str) -> Bundle:
    """The bundle in a file called `name`; BadRequest where it is none or damaged, Conflict where it was used."""
    try:
        kind = msgspec.json.decode(raw, type=_Formatted).format
        if kind == SPENT_FORMAT:
            spent = msgspec.json.decode(raw, type=Spent)
            raise Conflict(f"{name} was used at {spent.used_at} by {spent.host}", mend=again(spent.host))
        if kind != BUNDLE_FORMAT:
            mend = f"this Tandem reads {BUNDLE_FORMAT}; run the same version on both hosts"
            raise BadRequest(f"{name} is of the format {kind[:40]!r}", mend=mend)
        bundle = msgspec.json.decode(raw, type=Bundle)
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        raise _damaged(name, "is no bundle of `tandem invite`, or is damaged") from None
    if bundle.checksum != _checksum(bundle):
        raise _damaged(name, "is damaged")
    return bundle


def check_time(bundle: Bundle, now: float) -> None:
    """Conflict where it has expired by this host's clock; the inviter's own decides, so this is for when it cannot be asked."""
    try:
        expires_at = datetime.fromisoformat(bundle.expires_at).timestamp()
    except (ValueError, OverflowError):
        raise _damaged("the bundle", "is damaged: it does not say when it expires") from None
    if expires_at <= now:
        raise Conflict(f"the bundle expired at {spelled(expires_at)}", mend=again(bundle.host))


def check(bundle: Bundle, own: str, peers: Collection[str]) -> None:
    """Raises where host `own`, whose startup file names `peers`, may not use it.

    Forbidden for another host's, NotFound for an inviter that the startup file does not name.
    """
    if bundle.host != own:
        mend = f"run `tandem join` on {bundle.host}, or `tandem invite {own}` on {bundle.inviter}"
        raise Forbidden(f"this bundle invites {bundle.host}; this host is {own}", mend=mend)
    if bundle.inviter not in peers:
        line = f"{bundle.inviter}: {{address: {bundle.address}, supervisor_port: {bundle.port}, events_port: PORT}}"
        mend = f"add `{line}` under peers there and start {own} again, or take a bundle of a host that is named there"
        raise NotFound(f"the bundle is of {bundle.inviter}, which {own}'s startup file does not name", mend=mend)


def _checksum(bundle: Bundle) -> str:
    return hashlib.sha256(msgspec.json.encode(replace(bundle, checksum=""))).hexdigest()[:32]


def _damaged(name: str, what: str) -> BadRequest:
    return BadRequest(f"{name} {what}", mend="copy it again, or run `tandem invite` again on the inviting host")
