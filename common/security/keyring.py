"""The keyring: which keys are whose, who may issue tokens, and what was revoked; pure structs and questions about them.

A host's key signs the list of its processes' keys (`HostKeys`), and supervisors exchange the signed lists. What a host trusts
at one moment is its `Keyring`. It never reads a file, checks no signature and knows no clock: `now` is an argument.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import cached_property
from typing import Annotated, Final, Literal

from msgspec import Meta, Struct

from common.api.words import Access, Count
from common.ids import MAX_WIRE_INT

CurveKey = Annotated[str, Meta(min_length=40, max_length=40, description="a CURVE public key in Z85")]
SigningKey = Annotated[str, Meta(min_length=43, max_length=43, description="a raw Ed25519 public key in base64url")]
Scope = Annotated[str, Meta(max_length=160, pattern=r"^(read|use|control)(:[A-Za-z0-9_.-]{1,128})?\Z")]
Instant = Annotated[float, Meta(ge=0, le=MAX_WIRE_INT, description="seconds since 1970")]
Kind = Literal["supervisor", "service", "agent", "relay"]
CallerKind = Literal["supervisor", "service", "agent", "relay", "invited"]

GATEWAY: Final = "SecurityGateway"
"""The issuer of identities' tokens; its signing key stands in the list of the host that it runs on."""

MOST_VOUCHES: Final = 256
"""Hosts that one host vouches for at most, those that it sent away among them."""

_OPERATOR: Final = "operator@"
_SCOPE: Final = re.compile(r"(read|use|control)(:[A-Za-z0-9_.-]{1,128})?")
_ORDER: Final = tuple(Access)


class KeyEntry(Struct, frozen=True):
    """One process's key: `name` is the process's name in its host's startup file."""

    name: str
    kind: Kind
    public: CurveKey


class Issuer(Struct, frozen=True):
    """Who may issue tokens, `SecurityGateway` or `operator@HOST`, and the scopes that its tokens are bounded by."""

    name: str
    public: SigningKey
    scopes: list[Scope]


class Vouch(Struct, frozen=True):
    """That `host` is known by this host key, "" for one that was sent away; a higher `generation` replaces a lower one."""

    host: str
    public: str
    generation: Count


class HostKeys(Struct, frozen=True, kw_only=True):
    """The keys of one host's processes as the host tells them; a higher `serial` replaces a lower one.

    `issued_at` is in seconds since 1970; `address` and the ports are where its supervisor is reached; `vouches` are the hosts
    that it admitted or joined.
    """

    host: str
    serial: Count
    issued_at: Instant
    address: str = ""
    supervisor_port: int = 0
    events_port: int = 0
    keys: list[KeyEntry] = []
    issuers: list[Issuer] = []
    vouches: Annotated[list[Vouch], Meta(max_length=MOST_VOUCHES)] = []


class SignedKeys(Struct, frozen=True):
    """A `HostKeys` in msgpack, and the host key's Ed25519 signature of those bytes."""

    body: bytes
    signature: bytes


class Caller(Struct, frozen=True):
    """Whose key it is: a process of `host`, or one that was `invited` and may ask to be admitted and nothing else."""

    name: str
    host: str
    kind: CallerKind

    @property
    def identity(self) -> str:
        """`name@host`."""
        return f"{self.name}@{self.host}"

    def binding(self, public: str) -> str:
        """What a token of this caller is bound to: its key, or `local@HOST` of the plain callers whom a relay speaks for."""
        return local_binding(self.host) if self.kind == "relay" else public


INVITED: Final = Caller("invited", "", "invited")


class Keyring(Struct, frozen=True, kw_only=True, dict=True):
    """What one host trusts now.

    `gateway_host` is the host that SecurityGateway is on, as this host's startup file has it; "" for this host itself.
    `revoked_tokens` maps a token's id to when it would have expired, `revoked_identities` a name to the time before which all its
    tokens are revoked, `invited` a one-time CURVE public key to when the invitation ends; times are seconds since 1970.
    """

    own_host: str = ""
    gateway_host: str = ""
    hosts: dict[str, HostKeys] = {}
    revoked_tokens: dict[str, float] = {}
    revoked_identities: dict[str, float] = {}
    invited: dict[str, float] = {}

    def who(self, public: str, now: float) -> Caller | None:
        """Whose CURVE key this is, in Z85; None: nobody's that is trusted."""
        caller = self._callers.get(public)
        if caller is None and self.invited.get(public, 0.0) > now:
            return INVITED
        return caller

    def server_key(self, host: str, process: str) -> bytes | None:
        """The CURVE public key (Z85) by which to connect to a process of a host; None: not known here."""
        known = self.hosts.get(host)
        for key in known.keys if known is not None else ():
            if key.name == process:
                return key.public.encode()
        return None

    def issuer(self, name: str) -> Issuer | None:
        """The issuer of that name: a host alone names its operator, and only the gateway's host, whoever else has joined, the
        gateway.
        """
        return self._issuers.get(name)

    def is_revoked(self, jti: str, identity: str, issued_at: float) -> bool:
        """Whether a token was revoked: itself, or with all that its identity had got by then."""
        return jti in self.revoked_tokens or issued_at < self.revoked_identities.get(identity, 0.0)

    @cached_property
    def _callers(self) -> dict[str, Caller]:
        """By public key; a key that several hosts claim is the own host's, else the newest list's."""
        return {key.public: Caller(key.name, known.host, key.kind) for known in self._lists for key in known.keys}

    @cached_property
    def _issuers(self) -> dict[str, Issuer]:
        return {
            issuer.name: issuer
            for known in self.hosts.values()
            for issuer in known.issuers
            if issuer.name == self._issuer_on(known.host) or issuer.name == _OPERATOR + known.host
        }

    def _issuer_on(self, host: str) -> str | None:
        """The service that issues tokens on a host; None on all but one."""
        return GATEWAY if host == (self.gateway_host or self.own_host) else None

    @property
    def _lists(self) -> list[HostKeys]:
        """The lists from the least to the most believed."""
        return sorted(self.hosts.values(), key=lambda known: (known.host == self.own_host, known.issued_at, known.host))


def local_binding(host: str) -> str:
    """What a token of a plain caller on `host`'s loopback is bound to."""
    return f"local@{host}"


def is_scope(text: str) -> bool:
    """Whether a text is spelled as a scope."""
    return _SCOPE.fullmatch(text) is not None


def granted(scopes: Iterable[str], service: str) -> Access | None:
    """The most that `scopes` allow at a service: `control` everywhere, `control:Supervisor` there alone; None: nothing."""
    best = -1
    for scope in scopes:
        access, _, only = scope.partition(":")
        if only in ("", service) and access in _ORDER:
            best = max(best, _ORDER.index(Access(access)))
    return _ORDER[best] if best >= 0 else None


def allows(held: Access | None, wanted: Access) -> bool:
    """Whether who holds one access may do what needs another: read < use < control."""
    return held is not None and _ORDER.index(held) >= _ORDER.index(wanted)


def covers(scopes: Iterable[str], wanted: str) -> bool:
    """Whether holders of `scopes` may hand on the scope `wanted`: as much or more, everywhere or at the same service."""
    access, _, only = wanted.partition(":")
    everywhere = [scope for scope in scopes if ":" not in scope]
    return allows(granted(scopes if only else everywhere, only), Access(access))
