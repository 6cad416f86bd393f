"""Tokens: JWTs signed with EdDSA (RFC 7519, RFC 8037), bound to their holder's key (RFC 7800), minted here and checked offline.

A token says whose it is, what it allows, from when until when, and which caller may show it. Whoever has the keyring checks it
without a call. The text of a token is in no error and no repr.
"""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Annotated, Final, Literal

import msgspec
from msgspec import Meta, Struct

from common.api.words import Access
from common.clock import Clock
from common.errors import TandemError, Unauthenticated
from common.ids import MAX_WIRE_INT
from common.security import ed25519
from common.security.keyring import Issuer, Keyring, covers, granted, is_scope

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

MAX_TOKEN_CHARS: Final = 8_192
EARLY_S: Final = 60.0
"""A token from a host whose clock is ahead by no more than this is good; expiry is judged by the checker's clock alone."""
CACHED_TOKENS: Final = 4_096
OPERATOR_TTL_S: Final = 60

_Instant = Annotated[float, Meta(ge=0, le=MAX_WIRE_INT)]

Reason = Literal[
    "malformed",
    "unknown issuer",
    "bad signature",
    "expired",
    "not yet valid",
    "revoked",
    "bound to another key",
    "meant for another",
]


class Header(Struct, frozen=True, forbid_unknown_fields=True):
    """A token's first part; `kid` is the issuer's name."""

    alg: Literal["EdDSA"]
    typ: Literal["JWT"]
    kid: str


class Confirmation(Struct, frozen=True):
    """The key that whoever shows the token must hold."""

    kid: str


class Claims(Struct, frozen=True, kw_only=True):
    """What a token says; `scope` holds scopes by spaces, times are seconds since 1970 and may have fractions.

    `aud` is whom it is meant for, a service, an agent or `Supervisor/HOST`, one or several; empty: every service.
    """

    iss: str
    sub: str
    scope: str
    iat: _Instant
    exp: _Instant
    jti: str
    cnf: Confirmation
    nbf: _Instant = 0
    aud: str | list[str] = ""

    @property
    def audience(self) -> tuple[str, ...]:
        """Whom the token is meant for alone; empty for one that names nobody."""
        return tuple(self.aud) if isinstance(self.aud, list) else (self.aud,) * bool(self.aud)

    @property
    def scopes(self) -> list[str]:
        """The scopes one by one."""
        return self.scope.split()


@dataclass(frozen=True, slots=True)
class Minted:
    """A fresh token and what it says."""

    token: str = field(repr=False)
    claims: Claims


@dataclass(frozen=True, slots=True)
class Checked:
    """What a good token gives its holder at one service: `access` None when it allows nothing there.

    `scopes` are those of the token that its issuer may give; `signed_by` is the issuer's key, in base64url.
    """

    subject: str
    scopes: tuple[str, ...]
    access: Access | None
    issuer: str
    jti: str
    issued_at: float
    expires_at: float
    signed_by: str


class BadToken(Unauthenticated):
    """The token does not show who the caller is; `reason` is one of a few words, in `details` too."""

    def __init__(self, reason: Reason, mend: str) -> None:
        super().__init__(f"the token is {_PHRASES.get(reason, reason)}; {mend}", reason=reason)
        self.reason = reason


_PHRASES: Final = {"unknown issuer": "of an issuer unknown here", "bad signature": "not signed by its issuer"}
_ANEW: Final = "get a new one"
_GONE: Final = "its host has not joined, or its issuer was replaced"


class Minter:
    """Signs tokens as one issuer."""

    def __init__(self, issuer: str, seed: str) -> None:
        self.issuer = issuer
        self._seed = seed

    @cached_property
    def _key(self) -> Ed25519PrivateKey:
        """As PyJWT takes it; one that never mints does without."""
        return ed25519.private_key(self._seed)

    def mint(
        self, subject: str, scopes: Sequence[str], binding: str, *, now: float, ttl_s: float, audience: str = ""
    ) -> Minted:
        """A token of `subject` with a fresh id, good from now for `ttl_s`, and at `audience` alone where one is named."""
        import jwt

        claims = Claims(
            iss=self.issuer,
            sub=subject,
            scope=" ".join(scopes),
            iat=now,
            exp=now + ttl_s,
            jti=ed25519.encoded(os.urandom(16)),
            cnf=Confirmation(binding),
            aud=audience,
        )
        told = msgspec.to_builtins(claims)
        for absent in ("nbf", *(() if audience else ("aud",))):
            del told[absent]
        return Minted(jwt.encode(told, self._key, algorithm="EdDSA", headers={"kid": self.issuer}), claims)


@dataclass(slots=True)
class _Known:
    """A token whose signature was good under a keyring."""

    claims: Claims
    keyring: Keyring
    issuer: Issuer
    at: dict[str, Checked]


class TokenChecker:
    """Checks tokens against the keyring of the moment; the last CACHED_TOKENS good ones are not verified again.

    Expiry, revocation and binding are judged at every check, and a changed keyring means a new verification.
    """

    def __init__(self, keyring: Callable[[], Keyring], clock: Clock, *, cached: int = CACHED_TOKENS) -> None:
        self._keyring = keyring
        self._wall = clock.wall
        self._cached = cached
        self._known: OrderedDict[str, _Known] = OrderedDict()

    def check(self, token: str, service: str, binding: str, host: str = "") -> Checked:
        """Who shows `token` at `service` on `host`, and what it allows there; BadToken with the reason.

        `binding` is the caller's CURVE key in Z85, or `local@HOST` of a plain caller.
        """
        known = self._good(token)
        if known.claims.cnf.kid != binding:
            raise BadToken("bound to another key", "show it from where it was issued, or get one here")
        audience = known.claims.audience
        if audience and service not in audience and f"{service}/{host}" not in audience:
            raise BadToken("meant for another", f"get one for {service}")
        return known.at.get(service) or _at(known, service)

    def withdrawn(self, shown: Checked) -> BadToken | None:
        """Why a token that was good counts no more, whatever its time: it was revoked, or its issuer is trusted no more."""
        keyring = self._keyring()
        if keyring.is_revoked(shown.jti, shown.subject, shown.issued_at):
            return BadToken("revoked", _ANEW)
        issuer = keyring.issuer(shown.issuer)
        if issuer is None or issuer.public != shown.signed_by:
            return BadToken("unknown issuer", _GONE)
        return None

    def read(self, token: str) -> Claims:
        """What a token says that is good in the hands of whoever it is bound to; BadToken with the reason."""
        return self._good(token).claims

    def _good(self, token: str) -> _Known:
        keyring = self._keyring()
        known = self._known.get(token)
        if known is None or known.keyring is not keyring:
            known = self._verified(token, keyring)
        else:
            self._known.move_to_end(token)
        claims, now = known.claims, self._wall()
        if claims.exp <= now:
            self._known.pop(token, None)
            raise BadToken("expired", f"{_ANEW}, and compare the clocks of the two hosts where it is new")
        if keyring.is_revoked(claims.jti, claims.sub, claims.iat):
            self._known.pop(token, None)
            raise BadToken("revoked", _ANEW)
        if claims.iat > now + EARLY_S or claims.nbf > now + EARLY_S:
            raise BadToken("not yet valid", "compare the clocks of the two hosts")
        return known

    def _verified(self, token: str, keyring: Keyring) -> _Known:
        self._known.pop(token, None)
        claims, issuer = verify(token, keyring)
        known = self._known[token] = _Known(claims, keyring, issuer, {})
        if len(self._known) > self._cached:
            self._known.popitem(last=False)
        return known


def _at(known: _Known, service: str) -> Checked:
    claims, may_give = known.claims, known.issuer.scopes
    scopes = [scope for scope in claims.scopes if is_scope(scope) and covers(may_give, scope)]
    known.at[service] = checked = Checked(
        claims.sub,
        tuple(scopes),
        granted(scopes, service),
        claims.iss,
        claims.jti,
        claims.iat,
        claims.exp,
        known.issuer.public,
    )
    return checked


_HEADERS: Final = msgspec.json.Decoder(Header)
_CLAIMS: Final = msgspec.json.Decoder(Claims)


def verify(token: str, keyring: Keyring) -> tuple[Claims, Issuer]:
    """What a token says, once its signature is its issuer's; times, binding and revocation are not judged. BadToken."""
    head, claims, signature, signed = _parts(token)
    issuer = keyring.issuer(head.kid)
    if issuer is None or claims.iss != issuer.name:
        raise BadToken("unknown issuer", _GONE)
    if not _signed(issuer, signature, signed):
        raise BadToken("bad signature", _ANEW)
    return claims, issuer


def audience_of(token: str) -> tuple[str, ...]:
    """Whom a token of one's own is meant for, unchecked; empty for one that names nobody or cannot be read."""
    try:
        return _parts(token)[1].audience
    except BadToken:
        return ()


def _signed(issuer: Issuer, signature: bytes, signed: bytes) -> bool:
    try:
        return ed25519.verifier(issuer.public)(signature, signed)
    except TandemError:
        return False


def _parts(token: str) -> tuple[Header, Claims, bytes, bytes]:
    """Header, claims, signature and the bytes that it signs; BadToken when it is not spelled as a token."""
    try:
        if len(token) > MAX_TOKEN_CHARS:
            raise ValueError
        head, claims, signature = token.encode("ascii").split(b".")
        raw = ed25519.decoded(signature)
        if len(raw) != ed25519.SIGNATURE_BYTES:
            raise ValueError
        return (
            _HEADERS.decode(ed25519.decoded(head)),
            _CLAIMS.decode(ed25519.decoded(claims)),
            raw,
            head + b"." + claims,
        )
    except (ValueError, msgspec.MsgspecError, RecursionError):
        raise BadToken("malformed", "send it whole and unchanged") from None
