"""SecurityGateway's vocabulary: identities, tokens and revocations.

An identity shows itself by its secret: a password that was given with it, or the API key that was made for it and told once.
Against that it gets tokens, which live for minutes and which everyone checks without a call.
"""

from __future__ import annotations

from typing import Annotated, Final, Literal

from msgspec import Meta

from common.api.words import Access, AnyVerb, Cursor, Empty, Message, Seconds, Timestamp, Topic, Verb

SERVICE = "SecurityGateway"
PORT, EVENTS_PORT, HEALTH_PORT = 7005, 7505, 8005

DEFAULT_TTL_S: Final = 900
MAX_TTL_S: Final = 3_600
MIN_PASSWORD_CHARS: Final = 8
MAX_SECRET_CHARS: Final = 1_024

IdentityName = Annotated[
    str,
    Meta(min_length=1, max_length=128, pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.-]*\Z", description="an identity's name"),
]
AskedName = Annotated[str, Meta(max_length=256)]
Scope = Annotated[
    str,
    Meta(
        max_length=160,
        pattern=r"^(read|use|control)(:[A-Za-z0-9_.-]{1,128})?\Z",
        description="read, use or control, each more than the one before; everywhere, or at one service: control:Supervisor",
    ),
]
Scopes = Annotated[list[Scope], Meta(max_length=32)]
Secret = Annotated[str, Meta(max_length=MAX_SECRET_CHARS)]
Audience = Annotated[
    str,
    Meta(
        max_length=256,
        pattern=r"^([A-Za-z0-9_.-]+(/[A-Za-z0-9_.-]+)?)?\Z",
        description="whom a token is meant for; empty: every service",
    ),
]
TokenText = Annotated[str, Meta(min_length=1, max_length=8_192)]
Ttl = Annotated[float, Meta(ge=1, le=MAX_TTL_S, description="seconds")]
Kind = Annotated[
    str,
    Meta(
        min_length=1,
        max_length=32,
        pattern=r"^[a-z][a-z_-]*\Z",
        description="what it is, in a word such as person, agent, service or operator; for people to read, decides nothing",
    ),
]
Credential = Literal["password", "api_key"]

_UNSHOWN: Final = frozenset({"secret", "token", "api_key"})


class _Discreet(Message, frozen=True):
    """A message that holds a secret, which its repr leaves out."""

    def __repr__(self) -> str:
        told = ", ".join(f"{name}={getattr(self, name)!r}" for name in self.__struct_fields__ if name not in _UNSHOWN)
        return f"{type(self).__name__}({told})"


class Identity(Message, frozen=True):
    """One identity: who may ask for tokens, and with which scopes at most."""

    name: str
    kind: str
    scopes: list[str]
    credential: Credential
    created_at: Timestamp
    created_by: str


class CreateIdentity(_Discreet, frozen=True):
    """Makes an identity; with a `secret` that is its password, without one an API key is made for it.

    `name` has letters, digits, `_`, `.` and `-`; `kind` is a word for people to read, such as `person` or `agent`. The `scopes`
    are the most that its tokens may have: `read`, `use` or `control`, each more than the one before, and everywhere, or at one
    service: `control:Supervisor`. Nobody gives scopes that it has not itself. A password has 8 characters or more.
    """

    name: IdentityName
    kind: Kind
    scopes: Scopes
    secret: Secret = ""


class IdentityCreated(_Discreet, frozen=True):
    """The identity; `api_key` is told this once and never again, and is empty where a password was given."""

    identity: Identity
    api_key: str = ""


class IssueToken(_Discreet, frozen=True):
    """Asks for a token that only this caller can show; without `scopes` it has all that the identity may have.

    With an `audience`, the name of a service, of an agent, or `Supervisor/HOST`, the token is good there and nowhere else.
    `tandem` and Tandem's programs show one without to services and supervisors alone, and one that names an agent to that agent.

    After some wrong secrets the next tries have to wait: `retry_after_ms` says how long.
    """

    name: AskedName
    secret: Secret
    scopes: Scopes | None = None
    ttl_s: Ttl = DEFAULT_TTL_S
    audience: Audience = ""


class TokenIssued(_Discreet, frozen=True):
    """A token, what it allows and whom it is bound to: a CURVE key, or `local@HOST` for the plain callers of a host."""

    token: str
    expires_in_s: Seconds
    expires_at: Timestamp
    name: str
    scopes: list[str]
    bound_to: str


class TokenAsked(_Discreet, frozen=True):
    """The token, whole."""

    token: TokenText


class TokenVerified(Message, frozen=True):
    """Whether the token is good in the hands of the one it is bound to; `reason` says why not, and the rest is then empty."""

    valid: bool
    name: str = ""
    scopes: list[str] = []
    issuer: str = ""
    bound_to: str = ""
    expires_in_s: Seconds = 0.0
    reason: str = ""
    audience: list[str] = []


class IdentityAsked(Message, frozen=True):
    """Names an identity; one that was revoked lately may be named again."""

    name: AskedName


class Identities(Message, frozen=True):
    """All identities, in order of name."""

    identities: list[Identity]
    as_of: Cursor


class Revocations(Message, frozen=True):
    """What is revoked now, times in seconds since 1970.

    `tokens` maps a token's id to when it expires; `identities` a name to the time before which all tokens of it are revoked.
    """

    tokens: dict[str, float]
    identities: dict[str, float]
    as_of: Cursor


class IdentityChanged(Message, frozen=True):
    """An identity came, or went with all its tokens."""

    change: Literal["created", "revoked"]
    identity: Identity


class RevocationsChanged(Message, frozen=True):
    """These were revoked; or these were dropped from the list, as no token that they concern is good any more."""

    change: Literal["revoked", "dropped"]
    tokens: dict[str, float] = {}
    identities: dict[str, float] = {}


CREATE_IDENTITY = Verb(
    "create_identity",
    CreateIdentity,
    IdentityCreated,
    Access.CONTROL,
    idempotent=False,
    summary="a new identity; its API key, where it gets one, is told this once",
)
ISSUE_TOKEN = Verb(
    "issue_token",
    IssueToken,
    TokenIssued,
    Access.USE,
    idempotent=False,
    summary="a short-lived token for who knows the identity's secret, bound to the caller",
)
VERIFY_TOKEN = Verb(
    "verify_token", TokenAsked, TokenVerified, Access.READ, summary="whether a token is good, and why not"
)
REVOKE_TOKEN = Verb(
    "revoke_token",
    TokenAsked,
    Empty,
    Access.USE,
    summary="ends a token now; who holds it may do so, whoever it belongs to",
)
REVOKE_IDENTITY = Verb(
    "revoke_identity", IdentityAsked, Empty, Access.CONTROL, summary="the identity is gone, and all its tokens with it"
)
LIST_IDENTITIES = Verb(
    "list_identities", Empty, Identities, Access.CONTROL, summary="all identities, without their secrets"
)
LIST_REVOCATIONS = Verb("list_revocations", Empty, Revocations, Access.READ, summary="what is revoked now")

VERBS: tuple[AnyVerb, ...] = (
    CREATE_IDENTITY,
    ISSUE_TOKEN,
    VERIFY_TOKEN,
    REVOKE_TOKEN,
    REVOKE_IDENTITY,
    LIST_IDENTITIES,
    LIST_REVOCATIONS,
)

IDENTITIES_CHANGED = Topic("identities.changed", IdentityChanged, "an identity came or went")
REVOCATIONS_CHANGED = Topic("revocations.changed", RevocationsChanged, "tokens were revoked, or dropped from the list")
TOPICS: tuple[Topic, ...] = (IDENTITIES_CHANGED, REVOCATIONS_CHANGED)
